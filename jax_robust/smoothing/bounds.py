"""Certificates and predictions from vote counts: exact binomial bounds, in float64 on the host."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from jax_robust.errors import as_numbers, check_count, check_probability, check_sigma

ABSTAIN = -1
"""The label of an image about which nothing is claimed."""

Counts = Int[np.ndarray, "..."] | int | np.integer
"""Numbers of votes, one or an array."""


class Certificate(NamedTuple):
  """The result of CERTIFY, for one image or an array of them.

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
  """The result of PREDICT, for one image or an array of them.

  Attributes:
    label: predicted class, or -1: abstained.
    p_value: of the test that the two leading classes are equally likely.
  """

  label: Int[np.ndarray, "*n"]
  p_value: Float[np.ndarray, "*n"]


def certify(
  selection_counts: Int[np.ndarray, "..."],
  estimation_counts: Int[np.ndarray, "..."],
  *,
  sigma: float | int,
  alpha: float,
  total_variation: float = 0.0,
) -> Certificate:
  """CERTIFY from vote counts: the class from one sample, its radius from another.

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
    total_variation: distance between the noise that was drawn and the Gaussian; it is subtracted
      from p_L.

  Returns:
    The certificates, one per image.

  Raises:
    ValueError: sigma, alpha, total_variation or counts out of range.

  Reference: Cohen, Rosenfeld and Kolter, 2019, "Certified adversarial robustness via randomized
  smoothing", https://arxiv.org/abs/1902.02918.

  >>> selection, estimation = np.array([10, 90]), np.array([[5, 995], [495, 505]])
  >>> found = certify(np.stack([selection, selection]), estimation, sigma=0.5, alpha=0.001)
  >>> found.label.tolist(), found.radius.round(3).tolist()
  ([1, -1], [1.068, 0.0])
  """
  check_sigma(sigma)
  _check_total_variation(total_variation)
  selection = _votes("selection_counts", selection_counts)
  estimation = _votes("estimation_counts", estimation_counts)
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


def predict(
  counts: Int[np.ndarray, "*n k"], *, alpha: float, total_variation: float = 0.0
) -> Prediction:
  """PREDICT from vote counts: the leading class, unless the second is too close.

  The p-value is that of the two-sided binomial test that a vote for one of the two leading classes
  is for either with probability 1/2.

  Guarantees:
    `wrong_class_with_probability_alpha`: where it does not abstain, the label is the class of
      largest probability, except with probability alpha.

  Args:
    counts: votes by class, `[..., k]`.
    alpha: probability of a wrong prediction, for each image.
    total_variation: distance between the noise that was drawn and the Gaussian; n times as much is
      added to the p-value.

  Returns:
    The labels and p-values; abstains where p > alpha.

  Raises:
    ValueError: alpha, total_variation or counts out of range.

  Reference: Hung and Fithian, 2019, "Rank verification for exponential families", as used by Cohen
  et al., 2019, https://arxiv.org/abs/1902.02918.

  >>> predict(np.array([[67, 33, 0], [66, 34, 0]]), alpha=0.001).label.tolist()
  [0, -1]
  """
  check_probability(alpha=alpha)
  _check_total_variation(total_variation)
  counts = _votes("counts", counts)
  label = np.argmax(counts, axis=-1)
  second, first = np.moveaxis(np.sort(counts, axis=-1)[..., -2:], -1, 0).astype(np.float64)
  # P(X >= first) of Binomial(first + second, 1/2), which is symmetric.
  p_value = np.minimum(2 * special.betainc(first, second + 1, 0.5), 1.0)
  p_value = np.minimum(p_value + counts.sum(axis=-1) * total_variation, 1.0)
  return Prediction(np.where(p_value > alpha, ABSTAIN, label), np.asarray(p_value))


def lower_bound(counts: Counts, totals: Counts, *, alpha: float) -> Float[np.ndarray, "..."]:
  """The one-sided lower Clopper-Pearson bound: the alpha quantile of Beta(k, n - k + 1).

  Guarantees:
    `lower_bound_covers`: it exceeds the true probability with probability at most alpha.
    `no_votes_and_all_votes_have_bounds`: k = 0 gives 0, k = n gives alpha^(1/n).

  Args:
    counts: k, the number of successes.
    totals: n, the number of trials, at least 1.
    alpha: in (0, 1).

  Returns:
    The bounds.

  Raises:
    ValueError: alpha or counts out of range.

  >>> lower_bound(0, 100, alpha=0.001).item(), round(lower_bound(100, 100, alpha=0.001).item(), 4)
  (0.0, 0.9333)
  """
  check_probability(alpha=alpha)
  k, n = _trials(counts, totals, least=1)
  return np.where(k == n, alpha ** (1.0 / n), _beta_quantile(alpha, k, n - k + 1))


def clopper_pearson(
  successes: Counts, totals: Counts, *, confidence: float | int
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
  """The two-sided Clopper-Pearson interval: (1 -+ confidence) / 2 quantiles of Beta distributions.

  Guarantees:
    `interval_covers`: the true probability lies inside with probability at least `confidence`.

  Args:
    successes: k.
    totals: n; of no trials the interval is [0, 1].
    confidence: in (0, 1).

  Returns:
    The lower and the upper ends.

  Raises:
    ValueError: counts or confidence out of range.

  >>> [end.round(4).item() for end in clopper_pearson(0, 10, confidence=0.95)]
  [0.0, 0.3085]
  """
  check_probability(confidence=confidence)
  k, n = _trials(successes, totals, least=0)
  tail = (1.0 - confidence) / 2.0
  return _beta_quantile(tail, k, n - k + 1), _beta_quantile(1 - tail, k + 1, n - k)


def radius(
  p_low: Float[np.ndarray, "*n"] | float, *, sigma: float | int
) -> Float[np.ndarray, "*n"]:
  """The l2 radius `sigma * Phi^-1(p_low)` of a class whose probability is at least `p_low`; 0 where
  that is below 1/2.

  Raises:
    TypeError, ValueError: sigma out of range, or what is no probability.

  >>> radius(np.array([0.4, 0.5, 0.8413447]), sigma=2.0).round(4).tolist()
  [0.0, 0.0, 2.0]
  """
  check_sigma(sigma)
  p_low = as_numbers(p_low, "p_low")
  if (bad := p_low[~((p_low >= 0) & (p_low <= 1))]).size:
    raise ValueError(f"p_low={bad[0]}: expected a probability in [0, 1]")
  return np.asarray(sigma * special.ndtri(np.maximum(p_low, 0.5)))


def max_radius(*, sigma: float | int, n: int, alpha: float) -> float:
  """The radius of n votes that are all for one class: no certificate is larger.

  Raises:
    ValueError: sigma, n or alpha out of range.

  >>> round(max_radius(sigma=1.0, n=100_000, alpha=0.001), 5)
  3.81146
  """
  check_count(n=n)
  return float(radius(lower_bound(n, n, alpha=alpha), sigma=sigma))


def least_count(total: int, *, alpha: float) -> int:
  """The fewest votes of `total` with which CERTIFY does not abstain.

  Raises:
    ValueError: even all votes are too few.

  >>> [least_count(10**d, alpha=0.001) for d in (3, 4, 5)]
  [550, 5156, 50490]
  """
  check_budget(n=total, alpha=alpha)
  total = int(total)
  low, high = total // 2, total  # `low` does not certify, `high` does
  while high - low > 1:
    middle = (low + high) // 2
    enough = lower_bound(middle, total, alpha=alpha) >= 0.5
    low, high = (low, middle) if enough else (middle, high)
  return high


MOST_DRAWS = 10**8
"""No image gets more noisy copies: a thousand times as many as the field's 100,000."""


def check_budget(*, n: int | float, alpha: float, n0: int | float = 1) -> None:
  """Raises ValueError where CERTIFY would abstain on every image: alpha^(1/n) < 1/2.

  >>> check_budget(n=9, alpha=0.001)
  Traceback (most recent call last):
  ...
  ValueError: n=9: too few votes to certify any image at alpha=0.001; expected at least 10
  """
  check_count(n0=n0, n=n)
  if n0 > n:
    raise ValueError(f"n0={n0}: expected at most n={n}, the draws that are certified from")
  _check_enough(n, alpha, 1, "certify any image")


def check_predict_budget(*, n: int | float, alpha: float) -> None:
  """Raises ValueError where PREDICT would abstain on every image: 2 * 0.5^n > alpha."""
  check_count(n=n)
  _check_enough(n, alpha, 2, "predict any class")


def _check_enough(n: int | float, alpha: float, sides: int, task: str) -> None:
  """Raises ValueError unless n votes for one class reject, at alpha, that half of all go to it."""
  check_probability(alpha=alpha)
  if n > MOST_DRAWS:
    raise ValueError(f"n={n}: expected at most {MOST_DRAWS} draws an image")
  least = math.ceil(math.log2(sides / alpha) - 1e-12)
  if n < least:
    raise ValueError(f"n={n}: too few votes to {task} at alpha={alpha}; expected at least {least}")


def _votes(name: str, counts: np.ndarray) -> np.ndarray:
  """Votes by class as an array; raises ValueError unless they are counts, some of each image."""
  counts = np.asarray(counts)
  if not np.issubdtype(counts.dtype, np.integer):
    raise ValueError(f"{name} have dtype {counts.dtype}: expected integers")
  if counts.ndim == 0 or counts.size == 0 or counts.min() < 0 or counts.sum(axis=-1).min() < 1:
    raise ValueError(f"{name}: expected votes by class, none negative, at least one per image")
  if counts.shape[-1] < 2:
    raise ValueError(f"{name} have shape {counts.shape}: expected two classes or more, last")
  return counts.astype(np.int64)  # differences of unsigned counts wrap around


def _check_total_variation(value: Any) -> None:
  """Raises ValueError unless it is a distance of distributions: NaN or -1 would prove anything."""
  if not 0 <= as_numbers(value, "total_variation") <= 1:
    raise ValueError(f"total_variation={value}: expected a number in [0, 1]")


def _trials(counts: Counts, totals: Counts, least: int) -> tuple[np.ndarray, np.ndarray]:
  """Successes and trials as float64 of one shape; raises where they are impossible."""
  given = _whole(counts, "counts"), _whole(totals, "totals")
  try:
    counts, totals = np.broadcast_arrays(*given)
  except ValueError:
    raise ValueError(
      f"counts have shape {given[0].shape} and totals {given[1].shape}: expected one shape, or one "
      "number"
    ) from None
  bad = ~((counts >= 0) & (counts <= totals) & (totals >= least))
  if bad.any():
    raise ValueError(
      f"counts={counts[bad][0]:.0f}, totals={totals[bad][0]:.0f}: expected 0 <= count <= total, "
      f"total >= {least}"
    )
  return counts, totals


def _whole(counts: Any, name: str) -> np.ndarray:
  """Counts as float64; raises for fractions, such as shares, and for what is not finite."""
  found = as_numbers(counts, name)
  if (bad := found[~(np.isfinite(found) & (found == np.rint(found)))]).size:
    raise ValueError(f"{name}={bad[0]}: expected whole numbers, of successes and of trials")
  return found


def _beta_quantile(
  probability: float, a: np.ndarray | np.float64, b: np.ndarray | np.float64
) -> np.ndarray:
  """A quantile of Beta(a, b): 0 where a = 0, and 1 where b = 0."""
  inner = (a > 0) & (b > 0)
  quantile = special.betaincinv(np.where(inner, a, 1.0), np.where(inner, b, 1.0), probability)
  return np.where(inner, quantile, np.where(a > 0, 1.0, 0.0))
