"""Seconds of a deployed multi-exit net against the full net, at equal decisions.

`pytest tests/bench/test_bench_early_exit.py -m bench -n 0 -s` prints the table.
"""

import functools
import pathlib
import time

import jax
import numpy as np
import pytest

from jax_robust import models
from jax_robust.early_exit import (
  compile_blocks,
  confidences,
  exit_taken,
  expected_cost,
  make_deployed,
  sweep,
)

pytestmark = pytest.mark.bench

NUM_IMAGES, BATCH_SIZE, REPEATS = 1024, 256, 3
BUDGETS = (5, 10, 20, 39)


@pytest.fixture(scope="module")
def half():
  """MSDNet of five blocks at half its width, untrained, its weights, and noise."""
  net = models.create("msdnet", num_classes=10, channels=8, growth=3)
  x = np.random.default_rng(0).uniform(size=(NUM_IMAGES, 32, 32, 3)).astype(np.float32)
  return net, net.init(jax.random.key(0), x[:1]), x


def processor_name():
  """As Linux tells it."""
  lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))


def best(function, x):
  result, seconds = function(x), []
  for _ in range(REPEATS):
    start = time.perf_counter()
    result = function(x)
    seconds.append(time.perf_counter() - start)
  return min(seconds), result


def test_deployed_seconds(half, capsys):
  net, variables, x = half
  apply = jax.jit(net.apply)
  batches = [x[start : start + BATCH_SIZE] for start in range(0, NUM_IMAGES, BATCH_SIZE)]
  known = np.concatenate([confidences(apply(variables, some)) for some in batches], axis=1)
  costs = [cost.flops for cost in net.costs()]
  blocks = compile_blocks(functools.partial(net.apply, method="run_block"), variables)
  with capsys.disabled():
    print(f"\n{processor_name()}, {NUM_IMAGES} images in batches of {BATCH_SIZE}")
    print("| p | shares of exits | expected cost | full net | deployed | speed-up |")
    print("|---|---|---|---|---|---|")
  for found in sweep(known, known, BUDGETS):
    # Half way to the next confidence, lest the rounding between programs decide.
    thresholds = [
      (t + known[k][known[k] < t].max(initial=0)) / 2 for k, t in enumerate(found.thresholds)
    ]
    decide = jax.jit(lambda outputs, thresholds=thresholds: exit_taken(outputs, thresholds))

    def full(_, decide=decide):
      return np.concatenate([decide(apply(variables, some)) for some in batches])

    seconds_full, taken = best(full, x)
    answers = make_deployed(blocks, thresholds, num_exits=5, batch_size=BATCH_SIZE)
    seconds, deployed = best(answers, x)
    assert (deployed.taken == taken).all()
    shares = ", ".join(f"{share:.2f}" for share in found.fractions)
    cost = expected_cost(found.fractions, costs) / costs[-1]
    with capsys.disabled():
      print(
        f"| {found.budget} | {shares} | {cost:.2f} | {seconds_full:.2f} s | {seconds:.2f} s | "
        f"{seconds_full / seconds:.2f} |"
      )
