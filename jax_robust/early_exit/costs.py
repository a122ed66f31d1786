"""What early exits cost, and what a slowdown attack makes of it: expected cost, and efficacy."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from jax_robust.early_exit.grid import (
  classes_of,
  finite_outputs,
  labels_of,
  per_image,
  taken_on_grid,
)
from jax_robust.early_exit.rules import NEVER, answer
from jax_robust.errors import as_numbers, check_count, check_probability, shown

Numbers: TypeAlias = Sequence[float] | np.ndarray

COMMON_GRID = tuple(np.arange(1, 20) / 20)
"""The common thresholds that are tried by publications on slowdown: .05, .10, ... .95."""


def check_costs(costs: Numbers, num_exits: int) -> Float[np.ndarray, " exits"]:
  """The costs as float64.

  Args:
    costs: of all that has run when each exit answers, in any unit: multiply-adds, seconds. Earlier
      exits run too, so of an MSDNet `[cost.flops for cost in net.costs()]`.
    num_exits: of the net.

  Raises:
    ValueError: another number of costs; costs that are not above 0, or that fall.
  """
  found = as_numbers(costs, "costs")
  if found.shape != (num_exits,):
    raise ValueError(f"costs have shape {found.shape}: expected one for each of {num_exits} exits")
  if not (found[0] > 0 and np.isfinite(found).all() and (np.diff(found) >= 0).all()):
    raise ValueError(
      f"costs={shown(found.tolist())}: expected finite numbers above 0 that do not fall, of all "
      "that has run when each exit answers"
    )
  return found


def exit_fractions(taken: Int[np.ndarray, " n"], num_exits: int) -> Float[np.ndarray, " exits"]:
  """The share of images that leave at each exit.

  Raises:
    ValueError: no images; exits that are no integers `[n]`, or none of the net's.

  >>> exit_fractions(np.array([0, 0, 2, 0]), 3).tolist()
  [0.75, 0.0, 0.25]
  """
  check_count(num_exits=num_exits)
  taken = np.asarray(taken)
  if taken.ndim != 1 or not len(taken) or not np.issubdtype(taken.dtype, np.integer):
    raise ValueError(
      f"taken has shape {taken.shape} and dtype {taken.dtype}: expected the numbers of exits, "
      "integers [n], of at least 1 image"
    )
  if (bad := taken[(taken < 0) | (taken >= num_exits)]).size:
    raise ValueError(f"taken holds {bad[0]}: expected 0 to {num_exits - 1}, the exits of the net")
  return np.bincount(taken, minlength=num_exits) / len(taken)


def expected_cost(fractions: Numbers, costs: Numbers) -> float:
  """The mean cost of an image: `sum_e fraction_e cost_e`.

  Args:
    fractions: shares of the images that leave at each exit.
    costs: as those of `check_costs`.

  >>> expected_cost([0.75, 0.25], [10, 30])
  15.0
  """
  fractions = _check_fractions(fractions)
  return float(fractions @ check_costs(costs, len(fractions)))


def efficacy(fractions: Numbers, costs: Numbers) -> float:
  """The area under the curve of images that have left over cost: 1 where all leave for nothing.

  The curve's points are (cost of exit e / cost of the last, share that has left by exit e), before
  them (0, 0), joined by straight lines. The last share is 1 whatever the rest.

  Guarantees:
    `all_at_one_exit`: of images that all leave at exit e, 1 - (c_e + c_{e-1}) / 2 of relative
      costs, c_{-1} being 0.
    `earlier_exits_have_more`: it never falls where images leave earlier.

  Args:
    fractions: shares of the images that leave at each exit.
    costs: as those of `check_costs`.

  Returns:
    A number in [0, 1]. Minus 1 it is what is called lateness.

  Reference: Hong et al., 2021, "A Panda? No, It's a Sloth: Slowdown Attacks on Adaptive Multi-Exit
  Neural Network Inference", https://arxiv.org/abs/2010.02432.

  >>> efficacy([1.0, 0.0], [25, 100]), efficacy([0.0, 1.0], [25, 100])
  (0.875, 0.375)
  """
  fractions = _check_fractions(fractions)
  costs = check_costs(costs, len(fractions))
  place = np.concatenate([[0.0], costs / costs[-1]])
  left = np.concatenate([[0.0], np.cumsum(fractions)[:-1], [1.0]])
  return float(np.sum(np.diff(place) * (left[1:] + left[:-1]) / 2))


class CommonThreshold(NamedTuple):
  """One threshold for all exits but the last.

  Attributes:
    threshold: `rules.NEVER` where none of the grid was accurate enough.
    thresholds: the same for each exit but the last, `[exits - 1]`.
    cost: expected, in the unit of the costs.
    accuracy: of the rule on the images that it was chosen on.
  """

  threshold: float
  thresholds: Float[np.ndarray, " rest"]
  cost: float
  accuracy: float


def common_threshold(
  outputs: Any,
  labels: Any,
  costs: Numbers,
  *,
  max_drop: float = 0.05,
  grid: Numbers = COMMON_GRID,
) -> CommonThreshold:
  """The threshold of least cost whose accuracy exceeds (1 - max_drop) times the last exit's.

  Of several of one cost it is the largest. It is chosen for accuracy on these images, without a
  guarantee for others: `risk_control` has one.

  Args:
    outputs: logits of all exits on held-out images, `[exits, n, k]`.
    labels: as `errors.check_targets` describes them, one for each image.
    costs: as those of `check_costs`.
    max_drop: the share of the last exit's accuracy that may be lost; the publication has .05 and
      .15.
    grid: the thresholds that are tried.

  Returns:
    The threshold, its cost and its accuracy.

  Raises:
    ValueError: costs, labels or grid that do not fit the outputs.

  Reference: Hong et al., 2021, https://arxiv.org/abs/2010.02432.

  >>> outputs = [[[9.0, 0.0], [0.5, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]
  >>> common_threshold(outputs, [0, 1], [1, 2]).threshold
  0.95
  """
  check_probability(max_drop=max_drop)
  exits = finite_outputs(outputs)
  costs = check_costs(costs, len(exits))
  right = classes_of(exits) == labels_of(exits, labels)
  lines = as_numbers(grid, "grid")
  if lines.ndim != 1:
    raise ValueError(f"grid has shape {lines.shape}: expected thresholds [m], each for all exits")
  lines = np.sort(lines)[::-1]
  taken = taken_on_grid(exits, lines)
  accuracy = per_image(right, taken).mean(axis=1)
  cost = costs[taken].mean(axis=1)
  good = accuracy > (1 - max_drop) * right[-1].mean()
  rest = len(exits) - 1
  if not good.any():
    last = float(right[-1].mean())
    return CommonThreshold(NEVER, np.full(rest, NEVER), float(costs[-1]), last)
  best = int(np.argmin(np.where(good, cost, np.inf)))
  threshold = float(lines[best])
  return CommonThreshold(
    threshold, np.full(rest, threshold), float(cost[best]), float(accuracy[best])
  )


def slowdown_report(
  outputs_clean: Any,
  outputs_attacked: Any,
  labels: Any,
  thresholds: Numbers,
  costs: Numbers,
) -> dict[str, Any]:
  """What a slowdown attack costs: the deployed rule on clean and on attacked images.

  Args:
    outputs_clean, outputs_attacked: logits of all exits, `[exits, n, k]`, of the same images.
    labels: as `errors.check_targets` describes them, one for each image.
    thresholds: of each exit but the last, as those of `check_thresholds`.
    costs: as those of `check_costs`.

  Returns:
    Plain numbers and lists: `clean` and `attacked`, each with `expected_cost` (in the unit of the
    costs), `efficacy`, `accuracy` and `exit_fractions`; and of both `cost_ratio`, attacked over
    clean, and `efficacy_lost`, the share of the clean efficacy.

  Raises:
    ValueError: arrays that do not fit.

  >>> clean, attacked = [[[9.0, 0.0]], [[9.0, 0.0]]], [[[0.0, 0.0]], [[9.0, 0.0]]]
  >>> found = slowdown_report(clean, attacked, [0], [0.9], [1.0, 4.0])
  >>> found["clean"]["expected_cost"], found["attacked"]["exit_fractions"], found["cost_ratio"]
  (1.0, [0.0, 1.0], 4.0)
  """
  clean, attacked = (
    _of_rule(outputs, labels, thresholds, costs) for outputs in (outputs_clean, outputs_attacked)
  )
  return {
    "clean": clean,
    "attacked": attacked,
    "cost_ratio": attacked["expected_cost"] / clean["expected_cost"],
    "efficacy_lost": 1 - attacked["efficacy"] / clean["efficacy"],
  }


def _of_rule(outputs, labels, thresholds, costs):
  """Cost and accuracy of the deployed rule on one set of outputs."""
  exits = finite_outputs(outputs)
  taken = np.asarray(answer(exits, list(thresholds))[1])
  fractions = exit_fractions(taken, len(exits))
  right = classes_of(exits) == labels_of(exits, labels)
  return {
    "expected_cost": expected_cost(fractions, costs),
    "efficacy": efficacy(fractions, costs),
    "accuracy": float(per_image(right, taken).mean()),
    "exit_fractions": fractions.tolist(),
  }


def _check_fractions(fractions: Numbers) -> Float[np.ndarray, " exits"]:
  """As float64; raises ValueError unless they are shares of a whole."""
  found = as_numbers(fractions, "fractions")
  if found.ndim != 1 or not (found >= 0).all() or not abs(found.sum() - 1) < 1e-6:
    raise ValueError(
      f"fractions={shown(found.tolist())}: expected shares of at least 0 that add up to 1, one for "
      "each exit"
    )
  return found
