"""Batches and sets that the devices don't divide."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config

from jax_robust import jobs, presets
from jax_robust.data import sources
from jax_robust.runs import build, evaluation
from jax_robust.train import metrics, parallel


def test_batch_of_20_trains_on_five_of_eight_devices(tmp_path, caplog):
  """The job says so, and its evaluation of 13 held-out images runs on all eight."""
  caplog.set_level("INFO", "jax_robust")
  config = tiny_config.get_config("steps=2,save=0,evaluate=0,log=1")
  config.batch.size, config.data.num_heldout = 20, 13
  config.objective = {"name": "standard"}
  config.evals = presets.evals({"name": "fgsm", "eps": 0.1})
  result = jobs.run(config, str(tmp_path))
  assert result["step"] == 2
  assert "20 rows can't be shared out evenly among 8 devices: running on 5" in caplog.text
  assert caplog.text.count("running on") == 1
  evaluated = [row for row in metrics.read_metrics(tmp_path / "metrics.jsonl") if "clean" in row]
  assert len(evaluated) == 1
  assert float(evaluated[0]["clean"] * 13).is_integer()


def test_data_mesh_takes_the_most_devices_that_fit():
  sizes = {rows: parallel.data_mesh(rows).devices.size for rows in (1, 7, 8, 20, 24, 26)}
  assert sizes == {1: 1, 7: 7, 8: 8, 20: 5, 24: 8, 26: 2}
  assert parallel.data_mesh(24, devices=jax.devices()[:5]).devices.size == 4
  assert parallel.data_mesh(24, rows_together=6).devices.size == 4
  with pytest.raises(ValueError, match="24 rows is not made of groups of 5"):
    parallel.data_mesh(24, rows_together=5)


def test_batches_over_several_processes_must_fit(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  assert parallel.data_mesh(16).devices.size == 8
  with pytest.raises(ValueError, match=r"20 rows .* 8 devices of 2 processes: .* multiple of 8"):
    parallel.data_mesh(20)


@pytest.mark.parametrize(
  ("batch_size", "num_examples", "expected"),
  [(512, 13, 16), (8, 13, 8), (20, 100, 16), (3, 100, 8), (512, 1024, 512), (512, 1, 8)],
)
def test_padded_batch_size(batch_size, num_examples, expected):
  assert parallel.padded_batch_size(batch_size, num_examples) == expected


@functools.cache
def problem():
  """13 images, and a net whose accuracy on them is neither 0 nor 1."""
  config = tiny_config.get_config()
  net = build.model(config, 3)
  draw = np.random.default_rng(0)
  source = sources.array_source(
    draw.integers(0, 256, (13, 4, 4, 3), np.uint8), draw.integers(0, 3, 13), num_classes=3
  )
  variables = dict(net.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3))))
  return config, net, source, (variables.pop("params"), variables)


def score(mesh, *, batch_size, mode):
  """Flags and adversarial images of the 13 examples, scored on the devices of a mesh."""
  config, net, source, variables = problem()
  config.parallel, config.evaluation.batch_size = mode, batch_size
  run = evaluation.make_score(config, net, source, mesh=mesh).score
  return run(*variables, ("clean", "robust", "robust/x_adv"))


@functools.cache
def scored_by_one():
  return score(parallel.data_mesh(1), batch_size=13, mode="jit")


@pytest.mark.parametrize("mode", parallel.MODES)
def test_13_examples_on_eight_devices_are_those_on_one(mode):
  expected = scored_by_one()
  assert 0 < expected["robust"].sum() <= expected["clean"].sum() < 13
  found = score(parallel.data_mesh(8), batch_size=8, mode=mode)
  np.testing.assert_array_equal(found["id"], np.arange(13))
  np.testing.assert_array_equal(found["label"], problem()[2].read(np.arange(13))[1])
  for name in ("clean", "robust"):
    np.testing.assert_array_equal(found[name], expected[name])
  np.testing.assert_allclose(found["robust/x_adv"], expected["robust/x_adv"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", parallel.MODES)
@pytest.mark.parametrize("state", [None, (), 2.0])
def test_a_step_may_have_no_state(mode, state):
  mesh, rows = parallel.data_mesh(8), np.arange(16.0).reshape(8, 2)
  scale = 1.0 if state is None or state == () else state
  step = parallel.map_step(
    lambda axis_name: lambda _, rows: jnp.sum(scale * rows[0], axis=1),
    mesh,
    mode=mode,
    per_row=True,
  )
  found = step(state, parallel.shard_batch((rows, rows), mesh))
  np.testing.assert_array_equal(found, scale * rows.sum(axis=1))
