"""Exit thresholds with risk control: what early exits lose is bounded, with high probability."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from jax_robust.early_exit.grid import (
  as_grid,
  classes_of,
  finite_outputs,
  labels_of,
  per_image,
  taken_on_grid,
)
from jax_robust.early_exit.rules import NEVER
from jax_robust.errors import check_count, check_name, check_probability

SAFEST_FIRST = tuple(np.arange(99, 0, -1) / 100)
"""Common thresholds from .99 down to .01."""


class RiskControl(NamedTuple):
  """Thresholds whose risk is controlled.

  Attributes:
    thresholds: of each exit but the last, `[exits - 1]`.
    certified: whether any early exit is; otherwise no exit but the last ever answers.
    step: number of the line of the grid, -1 where none is certified.
    risk: the mean loss on the held-out images; 0 where none is certified.
    p_value: of the line, or of the first where none is certified.
  """

  thresholds: Float[np.ndarray, " rest"]
  certified: bool
  step: int
  risk: float
  p_value: float


def risk_control(
  outputs: Any,
  labels: Any,
  *,
  delta: float,
  alpha: float,
  loss: str = "accuracy",
  test: str = "clopper_pearson",
  grid: Any = SAFEST_FIRST,
) -> RiskControl:
  """The lowest thresholds of a sequence whose expected loss is at most delta, with confidence.

  Learn then test, in fixed order: each line of the grid in turn is tested for "its risk is above
  delta", at level alpha, until one is not rejected; the line before it is returned. Where already
  the first is not rejected, no exit but the last answers, which loses nothing.

  With probability at least 1 - alpha over the held-out images, the expected loss of the thresholds
  that are returned, on another image of the same distribution, is at most delta.

  This holds where the held-out images are independent draws of the distribution that is met in use,
  and neither the net nor the grid was chosen with them. It does **not** hold under attack, nor for
  other shifts of the distribution, nor class by class, nor for the single image: an adversary who
  makes early exits sure of a wrong class takes no part in it.

  Guarantees:
    `risk_exceeds_delta_with_probability_alpha`: at most, whatever the distribution.
    `stricter_is_never_lower`: a smaller delta or alpha never moves further along the grid.
    `never_exit_is_the_fallback`: where nothing is certified, with `certified` False.

  Args:
    outputs: logits of all exits on held-out images, `[exits, n, k]`.
    labels: as `errors.check_targets` describes them; unused by 'disagreement'.
    delta: the loss that may be expected at most, in (0, 1).
    alpha: probability that it is exceeded, in (0, 1).
    loss: what an image loses by leaving early, a number in [0, 1], 0 at the last exit. 'accuracy':
      1 where the last exit is right and the exit taken is not, so that accuracy falls by at most
      delta; 'disagreement': 1 where the two differ in their class; 'brier': by how much the Brier
      score of the exit taken, half the squared distance of its softmax from the label, exceeds
      that of the last, and 0 where it does not.
    test: 'clopper_pearson', the exact one, for losses of 0 and 1; 'hoeffding_bentkus' for all.
    grid: thresholds `[m]` for all exits or `[m, exits - 1]`, the safest first, not to be chosen on
      the same images.

  Returns:
    The thresholds, and whether any is certified.

  Raises:
    ValueError: a name, delta, alpha, or a grid that does not fit; 'brier' with 'clopper_pearson'.

  Reference: Jazbec et al., 2024, "Fast yet Safe: Early-Exiting with Risk Control",
  https://arxiv.org/abs/2405.20915; Angelopoulos et al., 2021, "Learn then Test: Calibrating
  Predictive Algorithms to Achieve Risk Control", https://arxiv.org/abs/2110.01052. That the gap in
  accuracy is taken image by image, at least 0, is ours: it bounds theirs, and is 0 or 1.

  >>> sure = np.tile([[9.0, 0.0]], (200, 1))
  >>> found = risk_control([sure, sure], np.zeros(200, int), delta=0.05, alpha=0.1)
  >>> found.certified, found.thresholds.round(2).tolist(), found.risk
  (True, [0.01], 0.0)
  """
  check_probability(delta=delta, alpha=alpha)
  check_name("loss", loss, LOSSES)
  check_name("test", test, P_VALUES)
  if loss == "brier" and test == "clopper_pearson":
    raise ValueError(
      "test='clopper_pearson' with loss='brier', which is no 0 or 1: take 'hoeffding_bentkus'"
    )
  exits = finite_outputs(outputs)
  lines = as_grid(grid, len(exits))
  risks = LOSSES[loss](exits, labels, taken_on_grid(exits, lines)).mean(axis=1)
  p_values = P_VALUES[test](risks, len(exits[0]), delta)
  step = int(last_certified(p_values, alpha))
  if step < 0:
    never = np.full(lines.shape[1], NEVER)
    return RiskControl(never, False, -1, 0.0, float(p_values[0]))
  found = lines[step].astype(np.float64)
  return RiskControl(found, True, step, float(risks[step]), float(p_values[step]))


def last_certified(p_values: Float[np.ndarray, "... m"], alpha: float) -> Int[np.ndarray, "..."]:
  """The last of a sequence of tests before the first that does not reject at alpha; or -1.

  Each is made at the full level, as the order was fixed beforehand.

  >>> int(last_certified(np.array([0.01, 0.02, 0.3, 0.01]), 0.05))
  1
  """
  return np.logical_and.accumulate(np.asarray(p_values) <= alpha, axis=-1).sum(axis=-1) - 1


def clopper_pearson_p_value(
  risks: Float[np.ndarray, "..."], num_images: int, delta: float
) -> Float[np.ndarray, "..."]:
  """P(Binomial(n, delta) <= n risk): of the hypothesis that losses of 0 or 1 are 1 more often than
  delta.

  Args:
    risks: mean losses.
    num_images: n.
    delta: in (0, 1).

  >>> float(clopper_pearson_p_value(np.array(0.0), 10, 0.5)) == 0.5**10
  True
  """
  check_count(num_images=num_images)
  return special.bdtr(np.rint(np.asarray(risks) * num_images), num_images, delta)


def hoeffding_bentkus_p_value(
  risks: Float[np.ndarray, "..."], num_images: int, delta: float
) -> Float[np.ndarray, "..."]:
  """Of the hypothesis that the mean of losses in [0, 1] is above delta.

  The smaller of Hoeffding's bound, exp(-n KL(min(risk, delta) || delta)), and Bentkus',
  e P(Binomial(n, delta) <= ceil(n risk)); at most 1.

  Args:
    risks: mean losses.
    num_images: n.
    delta: in (0, 1).

  Reference: Bates et al., 2021, "Distribution-Free, Risk-Controlling Prediction Sets",
  https://arxiv.org/abs/2101.02703.

  >>> hoeffding_bentkus_p_value(np.array([0.0, 0.5, 0.7]), 20, 0.5).round(6).tolist()
  [1e-06, 1.0, 1.0]
  """
  check_count(num_images=num_images)
  risks = np.asarray(risks, np.float64)
  low = np.minimum(risks, delta)
  kl = special.rel_entr(low, delta) + special.rel_entr(1 - low, 1 - delta)
  # 1e-9: a mean of n losses times n is a whole number but for rounding.
  count = np.minimum(np.ceil(risks * num_images - 1e-9), num_images)
  bentkus = math.e * special.bdtr(count, num_images, delta)
  return np.minimum(np.minimum(np.exp(-num_images * kl), bentkus), 1.0)


def _accuracy(exits, labels, taken):
  """1 where the last exit is right and that taken is not."""
  right = classes_of(exits) == labels_of(exits, labels)
  return (right[-1] & ~per_image(right, taken)) * 1.0


def _disagreement(exits, labels, taken):
  """1 where the exit taken has another class than the last."""
  del labels
  classes = classes_of(exits)
  return (per_image(classes, taken) != classes[-1]) * 1.0


def _brier(exits, labels, taken):
  """By how much half the Brier score of the exit taken exceeds that of the last."""
  logits = np.stack([np.asarray(each, np.float64) for each in exits])
  one_hot = np.eye(logits.shape[-1])[labels_of(exits, labels)]
  scores = np.sum((special.softmax(logits, axis=-1) - one_hot) ** 2, axis=-1) / 2
  return np.clip(per_image(scores, taken) - scores[-1], 0.0, 1.0)


LOSSES = {"accuracy": _accuracy, "disagreement": _disagreement, "brier": _brier}
"""What an image loses by leaving early: `(exits, labels, taken [m, n]) -> [m, n]`."""

P_VALUES = {
  "clopper_pearson": clopper_pearson_p_value,
  "hoeffding_bentkus": hoeffding_bentkus_p_value,
}
"""Tests of "the risk is above delta": `(risks, num_images, delta) -> p-values`."""
