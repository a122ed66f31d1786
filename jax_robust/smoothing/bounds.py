"""What votes prove: exact binomial bounds and radii, in float64 on the host."""

import decimal
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from jax_robust.smoothing.checks import check_alpha, check_budget, check_counts, check_sigma

ABSTAIN = -1
"""The label of an image about which nothing is claimed."""

Counts = Int[np.ndarray, "..."] | int | np.integer
"""Numbers of votes, one or an array."""


class Certificate(NamedTuple):
  """What CERTIFY claims, for one image or an array of them.

  Attributes:
    label: predicted class, or -1: abstained.
    radius: l2 radius within which that class is predicted, in units of the image; 0 if abstained.
    lower_bound: of the probability of the selected class; also where abstained.
    count: votes for the selected class.
    total: votes.
  """

  label: Int[np.ndarray, "*n"]
  radius: Float[np.ndarray, "*n"]
  lower_bound: Float[np.ndarray, "*n"]
  count: Int[np.ndarray, "*n"]
  total: Int[np.ndarray, "*n"]


class Prediction(NamedTuple):
  """What PREDICT claims, for one image or an array of them.

  Attributes:
    label: predicted class, or -1: abstained.
    p_value: of the test that the two leading classes are level.
  """

  label: Int[np.ndarray, "*n"]
  p_value: Float[np.ndarray, "*n"]


def certify(
  selection_counts: Int[np.ndarray, "..."],
  estimation_counts: Int[np.ndarray, "..."],
  *,
  sigma: float,
  alpha: float,
  total_variation: float = 0.0,
) -> Certificate:
  """CERTIFY on votes that were counted: the class from one sample, its radius from another.

  With c the class of most selection votes (the lowest of several) and k of its n estimation votes,
  p_L = lower_bound(k, n) and R = sigma * Phi^-1(p_L); abstains where p_L < 1/2.

  Guarantees:
    `certificate_fails_with_probability_alpha`: with probability at least 1 - alpha over the
      votes, either it abstains or the smoothed classifier predicts `label` at every point nearer
      than `radius`. Needs estimation votes that are independent of the selection's.
    `no_votes_and_all_votes_have_bounds`: k = 0 gives p_L = 0, k = n gives p_L = alpha^(1/n).

  Args:
    selection_counts: votes by class, `[..., k]`.
    estimation_counts: votes by class of other draws, `[..., k]`.
    sigma: standard deviation of the noise, in units of the image.
    alpha: probability of a wrong certificate, for each image.
    total_variation: between the noise that was drawn and the Gaussian; it is taken off p_L (0 says
      that they are the same).

  Returns:
    The certificates, one for each image.

  Raises:
    ValueError: sigma, alpha or counts out of range.

  Reference: Cohen, Rosenfeld and Kolter, 2019, "Certified adversarial robustness via randomized
  smoothing", https://arxiv.org/abs/1902.02918.

  >>> selection, estimation = np.array([10, 90]), np.array([[5, 995], [495, 505]])
  >>> found = certify(np.stack([selection, selection]), estimation, sigma=0.5, alpha=0.001)
  >>> found.label.tolist(), found.radius.round(3).tolist()
  ([1, -1], [1.068, 0.0])
  """
  check_sigma(sigma)
  selection, estimation = np.asarray(selection_counts), np.asarray(estimation_counts)
  check_counts("selection_counts", selection)
  check_counts("estimation_counts", estimation)
  if selection.shape != estimation.shape:
    raise ValueError(
      f"selection_counts have shape {selection.shape} and estimation_counts {estimation.shape}: "
      "expected the same, with the classes last"
    )
  selected = np.argmax(selection, axis=-1)
  count = np.take_along_axis(estimation, selected[..., None], axis=-1)[..., 0]
  total = estimation.sum(axis=-1)
  p_low = np.maximum(lower_bound(count, total, alpha=alpha) - total_variation, 0.0)
  label = np.where(p_low >= 0.5, selected, ABSTAIN)
  found = Certificate(label, radius(p_low, sigma=sigma), p_low, count, total)
  return Certificate(*map(np.asarray, found))


def lower_bound(counts: Counts, totals: Counts, *, alpha: float) -> Float[np.ndarray, "..."]:
  """Clopper and Pearson's one-sided lower bound of a probability: the alpha quantile of
  Beta(k, n - k + 1).

  Guarantees:
    `lower_bound_covers`: it exceeds the true probability with probability at most alpha.
    `no_votes_and_all_votes_have_bounds`: k = 0 gives 0, k = n gives alpha^(1/n).

  Args:
    counts: k, how often it happened.
    totals: n, how often it could have, at least 1.
    alpha: in (0, 1).

  Returns:
    The bounds.

  Raises:
    ValueError: alpha or counts out of range.

  >>> lower_bound(0, 100, alpha=0.001).item(), round(lower_bound(100, 100, alpha=0.001).item(), 4)
  (0.0, 0.9333)
  """
  check_alpha(alpha)
  counts, totals = np.broadcast_arrays(np.asarray(counts), np.asarray(totals))
  bad = (counts < 0) | (counts > totals) | (totals < 1)
  if bad.any():
    raise ValueError(
      f"counts={counts[bad][0]}, totals={totals[bad][0]}: expected 0 <= count <= total, total > 0"
    )
  k, n = counts.astype(np.float64), totals.astype(np.float64)
  inner = (k > 0) & (k < n)  # Beta's parameters must be positive
  beta = special.betaincinv(np.where(inner, k, 1.0), np.where(inner, n - k + 1, 1.0), alpha)
  return np.where(inner, beta, np.where(k == 0, 0.0, alpha ** (1.0 / n)))


def radius(p_low: Float[np.ndarray, "*n"] | float, *, sigma: float) -> Float[np.ndarray, "*n"]:
  """The l2 radius `sigma * Phi^-1(p_low)` of a class whose probability is at least `p_low`; 0 where
  that is below 1/2.

  >>> radius(np.array([0.4, 0.5, 0.8413447]), sigma=2.0).round(4).tolist()
  [0.0, 0.0, 2.0]
  """
  check_sigma(sigma)
  return np.asarray(sigma * special.ndtri(np.maximum(p_low, 0.5)))


def max_radius(*, sigma: float, n: int, alpha: float) -> float:
  """The radius of n votes that are all for one class: no certificate is larger.

  >>> round(max_radius(sigma=1.0, n=100_000, alpha=0.001), 5)
  3.81146
  """
  return float(radius(lower_bound(n, n, alpha=alpha), sigma=sigma))


def predict(
  counts: Int[np.ndarray, "*n k"], *, alpha: float, total_variation: float = 0.0
) -> Prediction:
  """PREDICT on votes that were counted: the leading class, unless the second is too near.

  The p-value is that of the two-sided binomial test that a vote for one of the two leading classes
  is for either with probability 1/2.

  Guarantees:
    `wrong_class_with_probability_alpha`: where it does not abstain, the label is the class of
      largest probability, except with probability alpha.

  Args:
    counts: votes by class, `[..., k]`.
    alpha: probability of a wrong prediction, for each image.
    total_variation: between the noise that was drawn and the Gaussian; n times as much is added to
      the p-value.

  Returns:
    The labels and p-values; abstains where p > alpha.

  Raises:
    ValueError: alpha or counts out of range.

  Reference: Hung and Fithian, 2019, "Rank verification for exponential families", as used by Cohen
  et al., 2019, https://arxiv.org/abs/1902.02918.

  >>> predict(np.array([[67, 33, 0], [66, 34, 0]]), alpha=0.001).label.tolist()
  [0, -1]
  """
  check_alpha(alpha)
  counts = np.asarray(counts)
  check_counts("counts", counts)
  if counts.shape[-1] < 2:
    raise ValueError(f"counts have shape {counts.shape}: expected two classes or more, last")
  label = np.argmax(counts, axis=-1)
  second, first = np.moveaxis(np.sort(counts, axis=-1)[..., -2:], -1, 0).astype(np.float64)
  # P(X >= first) of Binomial(first + second, 1/2), which is symmetric.
  p_value = np.minimum(2 * special.betainc(first, second + 1, 0.5), 1.0)
  p_value = np.minimum(p_value + counts.sum(axis=-1) * total_variation, 1.0)
  return Prediction(np.where(p_value > alpha, ABSTAIN, label), np.asarray(p_value))


def least_count(total: int, *, alpha: float) -> int:
  """The fewest votes of `total` that certify a radius, be it 0.

  Raises:
    ValueError: even all votes do not.

  >>> [least_count(10**d, alpha=0.001) for d in (3, 4, 5)]
  [550, 5156, 50490]
  """
  check_budget(n=total, alpha=alpha)
  low, high = total // 2, total  # `low` does not certify, `high` does
  while high - low > 1:
    middle = (low + high) // 2
    enough = lower_bound(middle, total, alpha=alpha) >= 0.5
    low, high = (low, middle) if enough else (middle, high)
  return high


def floor_radius(value: float | int, digits: int = 3) -> float:
  """The largest decimal of so many significant digits that, read as a float, is at most `value`.

  Guarantees:
    `never_more_than_the_radius`: after it was printed and read back.

  Args:
    value: a radius, at least 0, finite.
    digits: 1 to 15.

  Returns:
    The float next to that decimal.

  Raises:
    ValueError: a value or digits out of range.

  >>> floor_radius(1.90573), floor_radius(0.95286), floor_radius(0.0)
  (1.9, 0.952, 0.0)
  """
  if not 0 <= value < math.inf or not 1 <= digits <= 15:
    raise ValueError(f"value={value}, digits={digits}: expected 0 <= value < inf, 1 to 15 digits")
  nearest = decimal.Decimal(f"{value:.{digits - 1}e}")
  if float(nearest) > value:
    nearest = decimal.Context(prec=digits).next_minus(nearest)
  return float(nearest)


def format_radius(value: float | int, digits: int = 3) -> str:
  """A radius as the field's logs have it, but rounded down.

  >>> [format_radius(value) for value in (1.90573, 0.95286, 2.9359e-05, 2, 0)]
  ['1.9', '0.952', '2.93e-05', '2.0', '0.0']
  """
  return f"{floor_radius(value, digits):.{digits}}"
