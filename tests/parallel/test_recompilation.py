"""Nothing is compiled after the second step, evaluations and checkpoints included."""

import jax
import pytest
import tiny_config
from rows import mostly_slow

from jax_robust import jobs
from jax_robust.jobs import train


@pytest.mark.parametrize("mode", mostly_slow(["jit", "pmap"], "jit"))
def test_no_recompilation_after_step_2(mode, tmp_path, caplog, monkeypatch):
  compiled_before = []
  make_training = train.make_training

  def compilations():
    return [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]

  def watched(config):
    training = make_training(config)

    def step_fn(state, batch):
      compiled_before.append(len(compilations()))
      return training.step_fn(state, batch)

    return training._replace(step_fn=step_fn)

  monkeypatch.setattr(train, "make_training", watched)
  config = tiny_config.get_config("steps=6,save=2,evaluate=2,log=1")
  config.parallel = mode
  config.objective = {"name": "standard"}
  with jax.log_compiles():
    jobs.run(config, str(tmp_path))
  assert len(compiled_before) == 6
  assert compiled_before[0] < compiled_before[1], "compilations were not seen"
  assert compilations()[compiled_before[2] :] == []
