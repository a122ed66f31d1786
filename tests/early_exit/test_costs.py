"""Costs and efficacy in closed form, the common threshold, and the report of a slowdown."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

from jax_robust.early_exit import (
  common_threshold,
  efficacy,
  exit_fractions,
  exit_taken,
  expected_cost,
  risk_control,
  slowdown_report,
)
from jax_robust.early_exit.grid import classes_of, taken_on_grid
from jax_robust.early_exit.rules import NEVER

pytestmark = pytest.mark.fast

DRAW = np.random.default_rng(0)
COSTS = np.array([15.0, 24.0, 33.0, 48.0])
OUTPUTS = DRAW.normal(scale=2, size=(4, 60, 3)).astype(np.float32)
LABELS = DRAW.integers(0, 3, 60)


def test_expected_cost_is_the_mean_over_the_images():
  taken = DRAW.integers(0, 4, 60)
  fractions = exit_fractions(taken, 4)
  assert_close(expected_cost(fractions, COSTS), COSTS[taken].mean(), 1e-12)


@pytest.mark.parametrize("number", range(4))
def test_all_at_one_exit(number):
  before, at = np.concatenate([[0.0], COSTS / COSTS[-1]])[number : number + 2]
  assert_close(efficacy(np.eye(4)[number], COSTS), 1 - (at + before) / 2, 1e-12)


def test_efficacy_is_the_area_under_the_curve():
  """As many points of the curve, which is linear between exits, as one likes."""
  fractions = np.array([0.3, 0.1, 0.4, 0.2])
  place = np.linspace(0, 1, 480_001)
  curve = np.interp(place, [0, *COSTS / COSTS[-1]], [0, *np.cumsum(fractions)])
  assert_close(efficacy(fractions, COSTS), curve.mean(), 1e-5)


def test_earlier_exits_have_more():
  fractions = DRAW.dirichlet(np.ones(4), size=200)
  for each in fractions:
    earlier = each.copy()
    source = DRAW.integers(1, 4)
    share = earlier[source] * DRAW.uniform()
    earlier[source] -= share
    earlier[DRAW.integers(0, source)] += share
    assert efficacy(earlier, COSTS) >= efficacy(each, COSTS) - 1e-12
    assert expected_cost(earlier, COSTS) <= expected_cost(each, COSTS) + 1e-9


def test_each_line_is_exit_taken():
  outputs = OUTPUTS.copy()
  outputs[0, 0] = np.nan
  grid = DRAW.uniform(0.3, 1.05, (9, 3))
  found = taken_on_grid(outputs, grid)
  for line, taken in zip(grid, found, strict=True):
    np.testing.assert_array_equal(taken, exit_taken(tuple(jnp.asarray(outputs)), line))
  assert len(np.unique(found)) == 4


def test_lower_thresholds_leave_earlier():
  taken = taken_on_grid(OUTPUTS, [2.0, 0.9, 0.7, 0.5, 0.0])
  assert np.all(np.diff(taken, axis=0) <= 0)
  assert np.all(taken[0] == 3) and np.all(taken[-1] == 0)


@pytest.mark.parametrize("max_drop", [0.05, 0.15, 0.4])
def test_common_threshold_is_the_cheapest_that_is_accurate_enough(max_drop):
  """The rule, threshold by threshold, on exits of which the later ones are more often right."""
  outputs = OUTPUTS.copy()
  for number in range(4):
    outputs[number, np.arange(60), LABELS] += number
  best = (COSTS[-1], NEVER)
  last = np.mean(outputs[-1].argmax(1) == LABELS)
  for threshold in np.arange(1, 20) / 20:
    taken = np.asarray(exit_taken(tuple(jnp.asarray(outputs)), [threshold] * 3))
    right = np.mean(outputs[taken, np.arange(60)].argmax(1) == LABELS)
    if right > (1 - max_drop) * last and COSTS[taken].mean() <= best[0]:
      best = (COSTS[taken].mean(), threshold)
  found = common_threshold(outputs, LABELS, COSTS, max_drop=max_drop)
  np.testing.assert_allclose([found.cost, found.threshold], best)
  assert found.thresholds.tolist() == [found.threshold] * 3


def test_no_exit_answers_where_none_is_accurate_enough():
  right = 9.0 * np.eye(3)[LABELS]
  found = common_threshold([np.roll(right, 1, axis=1), right], LABELS, [1, 2])
  assert (found.threshold, *found.thresholds, found.cost, found.accuracy) == (NEVER, NEVER, 2, 1)


def test_the_report_is_of_the_deployed_rule():
  sure = 9.0 * np.eye(3, dtype=np.float32)[LABELS]
  clean = np.stack([sure, sure, sure, sure])
  attacked = np.stack([sure * 0, sure * 0, sure[::-1], sure])
  found = json.loads(json.dumps(slowdown_report(clean, attacked, LABELS, [0.9] * 3, COSTS)))
  same = np.mean(LABELS[::-1] == LABELS)
  assert found["clean"] == {
    "expected_cost": 15.0, "efficacy": efficacy([1, 0, 0, 0], COSTS), "accuracy": 1.0,
    "exit_fractions": [1.0, 0.0, 0.0, 0.0],
  }  # fmt: skip
  assert found["attacked"] == {
    "expected_cost": 33.0, "efficacy": efficacy([0, 0, 1, 0], COSTS),
    "accuracy": pytest.approx(same), "exit_fractions": [0.0, 0.0, 1.0, 0.0],
  }  # fmt: skip
  assert found["cost_ratio"] == pytest.approx(33 / 15)
  lost = 1 - found["attacked"]["efficacy"] / found["clean"]["efficacy"]
  assert found["efficacy_lost"] == pytest.approx(lost)


@pytest.mark.parametrize(
  ("call", "said"),
  [
    (lambda: expected_cost([1, 0], COSTS), "costs have shape .* each of 2 exits"),
    (lambda: expected_cost([1, 1], [1, 2]), "shares of at least 0 that add up to 1"),
    (lambda: efficacy([1, 0], [2, 1]), "that do not fall"),
    (lambda: efficacy([1, 0], [0, 1]), "finite numbers above 0"),
    (lambda: common_threshold(OUTPUTS, LABELS[:3], COSTS), r"labels have shape \(3,\)"),
    (lambda: common_threshold(OUTPUTS, LABELS + 1, COSTS), "labels 3"),
    (lambda: common_threshold(OUTPUTS[:1], LABELS, [1]), "outputs have 1 exits"),
    (lambda: common_threshold(OUTPUTS, LABELS, COSTS, max_drop=5), "max_drop=5"),
    (lambda: taken_on_grid(OUTPUTS, np.ones((2, 2))), r"grid has shape \(2, 2\)"),
    (lambda: taken_on_grid(OUTPUTS, [np.nan]), "grid holds NaN"),
    (
      lambda: slowdown_report(OUTPUTS, OUTPUTS, LABELS, [0.5], COSTS),
      "has 1 entries, and the net has 4 exits",
    ),
  ],
)
def test_what_does_not_fit_is_refused(call, said):
  with pytest.raises(ValueError, match=said):
    call()


@pytest.mark.parametrize(
  ("labels", "num", "message"),
  [
    (LABELS * 1.0, 60, r"labels have shape \(60,\) and dtype float64: expected integer labels"),
    (LABELS > 0, 60, "labels have dtype bool"),
    (LABELS[:0], 0, "outputs have no images"),
  ],
)
def test_labels_that_are_none_are_refused(labels, num, message):
  outputs = OUTPUTS[:, :num]
  for call in (
    lambda: common_threshold(outputs, labels, COSTS),
    lambda: slowdown_report(outputs, outputs, labels, [0.5] * 3, COSTS),
    lambda: risk_control(outputs, labels, delta=0.2, alpha=0.1),
  ):
    with pytest.raises((TypeError, ValueError), match=message):
      call()


def test_logits_of_nan_are_wrong_whatever_the_label_is():
  """For argmax NaN is the largest, so that of class 0 it would be right."""
  assert np.all(classes_of((np.full((5, 3), np.nan),) * 2) == -1)
