"""Budgeted batch classification: shares, thresholds by the published rule, expected cost."""

import math

import numpy as np
import pytest

from jax_robust.early_exit import (
  BUDGETS,
  choose_thresholds,
  exit_fractions,
  expected_cost,
  sweep,
  target_fractions,
)

pytestmark = pytest.mark.fast

DRAW = np.random.default_rng(0)
KNOWN = DRAW.uniform(0.1, 1, (4, 60)).astype(np.float32)
ROUNDED = np.round(KNOWN, 1)  # with ties


def reference(known, fractions):
  """The published rule, image after image: marks are counted up, and tested for being 0."""
  num_exits, num_images = known.shape
  thresholds, marks = [1e8] * num_exits, [0] * num_images
  for k in range(num_exits - 1):
    count, wanted = 0, math.floor(num_images * fractions[k])
    for i in np.argsort(-known[k], kind="stable"):
      if marks[i] == 0:
        count += 1
        if count == wanted:
          thresholds[k] = known[k][i]
          break
    for i in range(num_images):
      marks[i] += int(known[k][i] >= np.float32(thresholds[k]))
  thresholds[-1] = -1e8
  taken = [next(k for k in range(num_exits) if known[k][i] >= thresholds[k])
           for i in range(num_images)]  # fmt: skip
  return thresholds[:-1], taken


@pytest.mark.parametrize("known", [KNOWN, ROUNDED], ids=["distinct", "ties"])
def test_follows_the_published_rule(known):
  for found in sweep(known, known):
    thresholds, taken = reference(known, target_fractions(found.budget, 4))
    assert found.thresholds.tolist() == np.float32(thresholds).tolist()
    assert found.taken.tolist() == taken
  assert [found.budget for found in sweep(known, known)] == list(range(1, 40))


def test_shares_are_met_on_the_heldout():
  for budget in BUDGETS:
    fractions = target_fractions(budget, 4)
    (found,) = sweep(KNOWN, KNOWN, [budget])
    wanted = np.floor(60 * fractions[:-1])
    assert (found.fractions[:-1] * 60).round().tolist() == wanted.tolist()


def test_thresholds_by_hand():
  known = np.array(
    [[0.9, 0.8, 0.7, 0.6, 0.5], [0.2, 0.95, 0.4, 0.6, 0.5], [1, 1, 1, 1, 1]], np.float32
  )
  # Two of five leave at .9 and .8; of the others the most confident is image 3, at .6. Image 1,
  # which has left, is passed over, though it is the most confident one.
  assert choose_thresholds(known, [0.4, 0.2, 0.4]).tolist() == np.float32([0.8, 0.6]).tolist()
  # A share that rounds to no image, and one that is more than is left: nobody leaves there.
  assert choose_thresholds(known, [0.1, 0.4, 0.5]).tolist() == np.float32([1e8, 0.6]).tolist()
  assert (
    choose_thresholds(known[[0, 0, 2]], [0.8, 0.2, 0]).tolist() == np.float32([0.6, 0.5]).tolist()
  )
  ties = np.float32([[0.9, 0.9, 0.9, 0.1], [0.1, 0.2, 0.3, 0.4], [1, 1, 1, 1]])
  assert choose_thresholds(ties, [0.25, 0.5, 0.25]).tolist() == np.float32([0.9, 1e8]).tolist()


def test_target_fractions_are_geometric():
  for budget in (1, 7, 20, 39, 500):
    shares = target_fractions(budget, 5)
    np.testing.assert_allclose(shares[1:] / shares[:-1], budget / 20, rtol=1e-12)
    assert shares.sum() == pytest.approx(1, abs=1e-12)


def test_expected_cost_is_the_mean_over_the_images():
  taken, costs = DRAW.integers(0, 3, 40), (3, 5, 11)
  mean = np.mean([costs[k] for k in taken])
  assert expected_cost(exit_fractions(taken, 3), costs) == pytest.approx(mean, rel=1e-12)
  assert exit_fractions(np.array([1, 1]), 4).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
  ("call", "said"),
  [
    (lambda: target_fractions(0, 3), "budget=0: expected p > 0"),
    (lambda: target_fractions(20, 1), "1 exit: early exits need at least 2, .*model.name='msdnet'"),
    (lambda: choose_thresholds(KNOWN[:1], [1.0]), "1 exit"),
    (lambda: choose_thresholds(KNOWN[:, :0], [0.25] * 4), "held-out images, and there are none"),
    (lambda: choose_thresholds(KNOWN, [0.5, 0.5]), "expected one for each of the 4 exits"),
    (lambda: choose_thresholds(KNOWN, [0.5, 0.5, 0.5, 0.5]), "whose sum is 1"),
  ],
)
def test_what_makes_no_budget_is_refused(call, said):
  with pytest.raises(ValueError, match=said):
    call()
