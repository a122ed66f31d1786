"""Budgeted batch classification: thresholds that send a chosen share of the images to each exit."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jax_robust.early_exit.costs import exit_fractions
from jax_robust.early_exit.rules import NEVER, check_confidence, first_confident
from jax_robust.errors import as_numbers, check_count, shown

UNIFORM = 20
BUDGETS = tuple(range(1, 2 * UNIFORM))
"""The budgets p that are swept; those below `UNIFORM` favour early exits."""


def target_fractions(budget: float, num_exits: int) -> Float[np.ndarray, " exits"]:
  """The share of images that shall leave at each exit: `P_k ~ (p / 20)^k`, k = 1, ..., K.

  Args:
    budget: p > 0; 20 is uniform, less favours early exits.
    num_exits: K, at least 2.

  Returns:
    Shares in float64, whose sum is 1.

  Raises:
    ValueError: a budget that is not positive and finite; a net with one exit.

  >>> target_fractions(20, 4).tolist(), target_fractions(10, 2).round(3).tolist()
  ([0.25, 0.25, 0.25, 0.25], [0.667, 0.333])
  """
  number = as_numbers(budget, "budget")
  if number.ndim or not 0 < number < np.inf:
    raise ValueError(f"budget={budget}: expected p > 0, such as one of 1 to 39; 20 is uniform")
  check_several_exits(num_exits)
  logs = np.log(budget / UNIFORM) * np.arange(1, num_exits + 1, dtype=np.float64)
  shares = np.exp(logs - logs.max())
  return shares / shares.sum()


def check_several_exits(num_exits: int) -> None:
  """Raises ValueError unless there is an exit before the last, with the remedy."""
  check_count(num_exits=num_exits)
  if num_exits < 2:
    raise ValueError(
      f"the net has {num_exits} exit: early exits need at least 2, so a net whose outputs are a "
      "tuple of logits, such as model.name='msdnet'"
    )


def choose_thresholds(
  confidence: Float[np.ndarray, "exits n"], fractions: Sequence[float] | np.ndarray
) -> Float[np.ndarray, " early"]:
  """Thresholds by which about the wanted share of held-out images leaves at each exit.

  Exit after exit, but for the last: images are ranked by confidence, those that are marked are
  passed over, and the threshold is the confidence of the floor(n P_k)-th of the rest, or `NEVER`
  where there are not so many, or none is wanted. Then every image whose confidence at this exit
  reaches the threshold is marked, for good, whether it was marked before or not. One whose
  confidence is NaN is passed over, and leaves nowhere.

  Guarantees:
    `shares_are_met_on_the_heldout`: where no two confidences of an exit are equal, exactly
      floor(n P_k) of the n images leave at exit k, unless there are not so many left.
    `follows_the_published_rule`: to the letter, but for P_k, which is in float64 here.

  Args:
    confidence: `confidences` of held-out images, which the net was not trained on, un-augmented.
    fractions: P_k, one for each exit, as `target_fractions` returns them.

  Returns:
    A threshold for each exit but the last, of the dtype of the confidences.

  Raises:
    ValueError: no images; one exit; another number of fractions, or some that are no shares.

  Reference: Huang et al. 2018 (arXiv:1703.09844), section 5.2, in the form of its programs.

  >>> confidence = np.array([[0.875, 0.75, 0.625, 0.5], [0.5, 0.5, 0.5, 0.5]], np.float32)
  >>> choose_thresholds(confidence, [0.5, 0.5]).tolist()
  [0.75]
  """
  confidence = np.asarray(check_confidence(confidence))
  shares = as_numbers(fractions, "fractions")
  num_exits, num_images = confidence.shape
  check_several_exits(num_exits)
  if not num_images:
    raise ValueError("thresholds are chosen by held-out images, and there are none")
  if shares.shape != (num_exits,) or not (shares >= 0).all() or not np.isclose(shares.sum(), 1):
    raise ValueError(
      f"fractions={shown(shares.tolist())}: expected one for each of the {num_exits} exits, none "
      "negative, whose sum is 1"
    )
  thresholds = np.full(num_exits - 1, NEVER, confidence.dtype)
  marked = np.zeros(num_images, bool)
  for k in range(num_exits - 1):
    order = np.argsort(-confidence[k], kind="stable")
    waiting = order[~marked[order] & ~np.isnan(confidence[k, order])]
    wanted = int(np.floor(num_images * shares[k]))
    if 1 <= wanted <= len(waiting):
      thresholds[k] = confidence[k, waiting[wanted - 1]]
    marked |= confidence[k] >= thresholds[k]
  return thresholds


class Budgeted(NamedTuple):
  """What one budget comes to on other images than those its thresholds were chosen by.

  Attributes:
    budget: p.
    thresholds: one for each exit but the last.
    taken: the exit that answers for each image, `[n]`.
    fractions: of images that leave at each exit.
  """

  budget: float
  thresholds: np.ndarray
  taken: np.ndarray
  fractions: np.ndarray


def sweep(
  heldout: Float[np.ndarray, "exits m"],
  confidence: Float[np.ndarray, "exits n"],
  budgets: Sequence[float] = BUDGETS,
) -> list[Budgeted]:
  """Budgeted batch classification, simulated from the confidences of all exits.

  Args:
    heldout: `confidences` of held-out images, by which the thresholds are chosen.
    confidence: `confidences` of the images that are classified.
    budgets: p.

  Returns:
    One entry for each budget.
  """
  if np.ndim(budgets) != 1:
    raise ValueError(f"budgets={budgets}: expected a list of numbers above 0")
  heldout, confidence = check_confidence(heldout, "heldout"), check_confidence(confidence)
  found = []
  for budget in budgets:
    thresholds = choose_thresholds(heldout, target_fractions(budget, len(heldout)))
    taken = np.asarray(first_confident(confidence, thresholds))
    found.append(Budgeted(budget, thresholds, taken, exit_fractions(taken, len(confidence))))
  return found
