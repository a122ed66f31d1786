"""Deployed early exits: the answers of the full net, and only the blocks that images need."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

from jax_robust import models
from jax_robust.early_exit import answer, compile_blocks, confidences, make_deployed
from jax_robust.early_exit.inference import row_counts

DRAW = np.random.default_rng(0)
X = DRAW.uniform(size=(37, 6)).astype(np.float32)
MATRICES = tuple(jnp.asarray(DRAW.normal(scale=2, size=(6, 4)), jnp.float32) for _ in range(3))


def run_block(matrices, state, number):
  """A block of a linear net: the state is the images, twice."""
  x = state["x"] if number else state
  return {"x": x, "other": (x, x[:, 0])}, x @ matrices[number]


OUTPUTS = tuple(jnp.asarray(X) @ matrix for matrix in MATRICES)
MIDDLE = [float(np.median(each)) + 1e-4 for each in np.asarray(confidences(OUTPUTS))[:2]]


@pytest.mark.parametrize("thresholds", [MIDDLE, (1e8, 1e8), (0.0, 0.5), (1e8, 0.0)])
@pytest.mark.parametrize("batch_size", [16, 64])
def test_answers_are_those_of_the_full_net(thresholds, batch_size):
  blocks = compile_blocks(run_block, MATRICES)
  found = make_deployed(blocks, thresholds, num_exits=3, batch_size=batch_size)(X)
  logits, taken = answer(OUTPUTS, thresholds)
  assert found.taken.tolist() == taken.tolist()
  assert_close(found.logits, logits)


def test_later_blocks_are_left_out():
  seen = []

  def watched(state, number):
    state, logits = run_block(MATRICES, state, number)
    seen.append((number, len(logits)))
    return state, logits

  known = np.asarray(confidences(OUTPUTS))
  nine_stay = (np.sort(known[0])[8] + np.sort(known[0])[9]) / 2
  rows = make_deployed(watched, (nine_stay, 1e8), num_exits=3, batch_size=64)(X).num_rows
  assert seen == [(0, 64), (1, 16), (2, 16)] and rows.tolist() == [64, 16, 16]
  seen.clear()
  rows = make_deployed(watched, (0.0, 0.5), num_exits=3, batch_size=32)(X).num_rows
  assert seen == [(0, 32), (0, 8)] and rows.tolist() == [40, 0, 0]


def test_few_sizes_are_compiled():
  assert row_counts(256) == (8, 16, 32, 64, 128, 256)
  assert row_counts(8) == (8,) and row_counts(3) == (3,)


@pytest.mark.thorough
def test_msdnet_is_deployed():
  net = models.create(
    "msdnet", num_classes=4, num_blocks=2, base=1, step=1, channels=2, growth=2,
    growth_factors=(1, 2), bottleneck_factors=(1, 2),
  )  # fmt: skip
  x = DRAW.uniform(size=(20, 8, 8, 3)).astype(np.float32)
  variables = jax.jit(net.init)(jax.random.key(0), x[:1])
  outputs = jax.jit(functools.partial(net.apply, variables))(x)
  known = np.sort(np.asarray(confidences(outputs))[0])
  thresholds = [(known[9] + known[10]) / 2]
  blocks = compile_blocks(functools.partial(net.apply, method="run_block"), variables)
  found = make_deployed(blocks, thresholds, num_exits=2, batch_size=20)(x)
  logits, taken = answer(outputs, thresholds)
  assert found.taken.tolist() == taken.tolist() and sum(found.taken) == 10
  assert_close(found.logits, logits)
  assert found.num_rows.tolist() == [20, 16]


@pytest.mark.parametrize(
  ("options", "said"),
  [
    ({"thresholds": (), "num_exits": 1}, "1 exit: early exits need at least 2"),
    ({"thresholds": (0.5,), "num_exits": 3}, "expected 2, one for each exit but the last"),
    ({"thresholds": (0.5,), "num_exits": 2, "batch_size": 0}, "batch_size=0"),
  ],
)
def test_what_can_not_be_deployed_is_refused(options, said):
  with pytest.raises(ValueError, match=said):
    make_deployed(lambda state, number: (state, state), **options)
