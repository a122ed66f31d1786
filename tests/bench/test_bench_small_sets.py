"""What AutoAttack costs on small sets of several sizes, where compiling is most of it.

  XLA_FLAGS= pytest -m bench -n 0 -s tests/bench/test_bench_small_sets.py

One evaluator of a linear net sees 16 images, the same again, 13 and 7; then `autoattack`, which
makes an evaluator of its own for each call, sees 16 images twice.
"""

import functools
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings import sizes
from sides import PLATFORM
from test_bench_fast_training import processor

from jax_robust import attacks

NUM_PIXELS, NUM_CLASSES = 6, 4
WEIGHTS = np.random.default_rng(0).normal(size=(NUM_PIXELS, NUM_CLASSES)).astype(np.float32)


def linear(x):
  """The net."""
  return (x - 0.5) @ jnp.asarray(WEIGHTS)


def seconds_of(evaluate, num_images, seed):
  """Of one evaluation, in which some images stand against every attack; how many do."""
  x = np.random.default_rng(seed).uniform(0.35, 0.65, (num_images, NUM_PIXELS)).astype(np.float32)
  labels = np.argmax((x - 0.5) @ WEIGHTS, axis=1)
  began = time.perf_counter()
  result = evaluate(x, labels, jax.random.key(seed), ball=attacks.linf_ball(0.03))
  seconds, num_robust = time.perf_counter() - began, int(np.sum(result.robust))
  assert result.robust.shape == (num_images,) and num_robust, "an attack had nothing to do"
  return seconds, num_robust


@pytest.mark.bench
def test_small_sets():
  """The first evaluation compiles; the same set again must not."""
  size = sizes(images=16)["images"]
  evaluate = attacks.make_autoattack(linear, norm="linf")
  labels = (f"{size} first", f"{size} again", "13", "7")
  numbers = ((size, 0), (size, 0), (13, 1), (7, 2))
  seconds = [seconds_of(evaluate, number, seed) for number, seed in numbers]
  whole = functools.partial(attacks.autoattack, linear)
  afresh = [seconds_of(whole, size, 0) for _ in range(2)]
  print(f"\n{PLATFORM}, {processor()}, jax {jax.__version__}, load {os.getloadavg()}")
  rows = zip((*labels, "autoattack, second call"), (*seconds, afresh[1]), strict=True)
  for label, (each, num_robust) in rows:
    print(f"{label:>24}{each:10.2f} s, {num_robust} robust")
  assert seconds[1][0] < seconds[0][0]
