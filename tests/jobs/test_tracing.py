"""A training is traced once: what is traced to find mistakes is what the first step runs."""

from jax_robust import objectives
from jax_robust.jobs import train
from jax_robust.objectives import standard
from jax_robust.runs.training import make_training


def test_the_check_s_trace_is_that_of_the_first_step(tiny, monkeypatch):
  traces = []

  def counted(*args):
    traces.append(1)
    return standard(*args)

  monkeypatch.setitem(objectives.OBJECTIVES, "standard", counted)
  config = tiny(objective={"name": "standard"})
  training = make_training(config)
  evaluate = train.make_evaluate(config, training)
  assert len(traces) == 1
  current = training.make_state()
  for _ in range(2):
    current, _ = training.step_fn(current, next(training.make_batches(0)))
  assert len(traces) == 1
  assert set(evaluate(current)) == {"clean", "robust"}
