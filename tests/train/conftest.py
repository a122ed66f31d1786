"""A problem for the loop: a small net, real updates, everything compiled once."""

import copy
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import models, objectives
from jax_robust.data import augment, pipeline, sources
from jax_robust.train import checkpoint, loop, metrics, optim, state, step

TOTAL = 7


class Problem(NamedTuple):
  """What `loop.run` takes that stays the same from one test to the next."""

  make_state: object
  step_fn: object
  make_batches: object
  evaluate: object


def _source(seed):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (24, 4, 4, 1), np.uint8)
  return sources.array_source(images, rng.integers(0, 3, 24), num_classes=3)


def make_problem(backend: str) -> Problem:
  net = models.create("mlp", num_classes=3, hidden=(8,), norm=True)
  schedule = optim.make_schedule(peak=0.1, total_steps=TOTAL, warmup_steps=2)
  optimizer = optim.make_optimizer(schedule)
  update = step.make_update(
    objectives.OBJECTIVES["standard"],
    state.make_apply_fn(net),
    optimizer,
    prepare=augment.make_prepare(num_classes=3, pad=1),
    steps_per_epoch=3.0,
    ema={"decay": 0.9},
  )
  heldout = _source(2)
  images, labels = heldout.read(np.arange(24))

  @jax.jit
  def accuracy(current):
    variables = {"params": current.ema, **current.model_state}
    logits = net.apply(variables, jnp.asarray(images, jnp.float32) / 255, train=False)
    return jnp.mean(jnp.argmax(logits, -1) == labels)

  initial = jax.device_get(state.create_state(net, optimizer, [jnp.zeros((1, 4, 4, 1))], seed=0))
  return Problem(
    lambda: jax.device_put(copy.deepcopy(initial)),
    jax.jit(update, donate_argnums=0),
    pipeline.make_train_batches(
      _source(0), _source(1), backend=backend, batch_size=6, original_share=0.5, emulated_workers=1
    ),
    lambda current: {"clean": float(accuracy(current))},
  )


@pytest.fixture(scope="session")
def problem():
  """`problem(backend)`, made once for each backend."""
  return functools.cache(make_problem)


@pytest.fixture
def start(problem):
  """`start(folder, backend=..., **changes)` trains in a folder, or goes on there."""

  def run(folder, *, backend="resident", schedule=(3, 2, 2), mode="max", **changes):
    base = problem(backend)
    folder.mkdir(exist_ok=True)
    checkpoints = loop.Checkpoints(
      checkpoint.Checkpointer(folder / "latest", max_to_keep=2),
      checkpoint.Checkpointer(folder / "best", max_to_keep=1),
      "clean",
      mode,
    )
    initial = base.make_state()
    if checkpoints.latest.latest_step() is not None:
      initial, _ = checkpoints.latest.restore(initial)
    writer = metrics.MetricsWriter(folder, resume_step=int(initial.step))
    arguments = {
      "step_fn": base.step_fn,
      "make_batches": base.make_batches,
      "evaluate": base.evaluate,
      "batch_size": 6,
      "report": lambda line: None,
      **changes,
    }
    try:
      return loop.run(
        initial,
        cadence=loop.Cadence(TOTAL, *schedule),
        checkpoints=checkpoints,
        writer=writer,
        **arguments,
      )
    finally:
      writer.close()
      checkpoints.latest.close()
      checkpoints.best.close()

  return run


@pytest.fixture
def left_behind():
  """`left_behind(folder)`: every array, number and name that a run has left, times aside."""

  def read(folder):
    found = {}
    for kind in ("latest", "best"):
      reader = checkpoint.Checkpointer(folder / kind, read_only=True)
      arrays, info = reader.read(state.TrainState._fields)
      reader.close()
      found[kind] = (info, {name: (a.dtype.name, a.tobytes()) for name, a in arrays.items()})
    found["metrics"] = [
      {name: value for name, value in row.items() if not name.startswith("time/")}
      for row in metrics.read_metrics(folder / "metrics.jsonl")
    ]
    return found

  return read
