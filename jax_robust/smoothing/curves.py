"""Summaries of a certification log: average radius, certified accuracy, and their intervals."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import special, stats

from jax_robust.errors import check_probability, check_sigma
from jax_robust.smoothing.bounds import clopper_pearson
from jax_robust.smoothing.log import CertifyLog

Radii = int | float | Sequence[int | float] | Shaped[np.ndarray, "*r"]
"""One radius or several, in units of the image."""


class Estimate(NamedTuple):
  """A mean over images, its standard error, and the two-sided interval around it."""

  value: float
  standard_error: float
  low: float
  high: float


class Band(NamedTuple):
  """Fractions of images `[r]` and the two-sided intervals around them."""

  value: Float[np.ndarray, " r"]
  low: Float[np.ndarray, " r"]
  high: Float[np.ndarray, " r"]


def average_certified_radius(log: CertifyLog) -> float:
  """ACR: the mean of `radius * correct` over all images.

  Guarantees:
    `published_logs_give_their_numbers`: to the digits that were recorded of them.

  Args:
    log: the rows; abstentions and wrong predictions count as radius 0.

  Returns:
    The average, in units of the image.

  Raises:
    ValueError: the log has no rows.

  Reference: Zhai et al., 2020, "MACER: Attack-free and Scalable Robust Training via Maximizing
  Certified Radius", https://arxiv.org/abs/2001.02378.

  >>> from jax_robust.smoothing.log import make_log
  >>> average_certified_radius(make_log([0, 1], [7, 2], [7, 3], [0.5, 0.9]))
  0.25
  """
  return math.fsum(true_radii(log)) / len(log.radius)


def estimate_average_radius(log: CertifyLog, *, confidence: float = 0.95) -> Estimate:
  """ACR with Student's interval for the population that the log's images are a sample of.

  It covers the choice of images alone, not the noise of the certification or the training's seed.

  Guarantees:
    `intervals_cover`: the mean of the population lies inside about as often as `confidence` says.

  Args:
    log: the rows.
    confidence: of the interval, in (0, 1).

  Returns:
    The estimate; its standard error, and the upper end, are infinite where there is one row only.

  Raises:
    ValueError: no rows; confidence out of range.

  >>> from jax_robust.smoothing.log import make_log
  >>> estimate = estimate_average_radius(make_log([0, 1], [7, 2], [7, 2], [0.5, 0.9]))
  >>> round(estimate.value, 6), round(estimate.standard_error, 6)
  (0.7, 0.2)
  """
  estimate = estimate_mean(true_radii(log), confidence=confidence)
  return estimate._replace(low=max(estimate.low, 0.0))


def certified_accuracy(log: CertifyLog, radii: Radii) -> Float[np.ndarray, " r"]:
  """Certified accuracy: the share of images with the right class and a radius of at least r.

  At r = 0 it is the clean accuracy of the smoothed classifier, an abstention being an error.

  Guarantees:
    `published_logs_give_their_numbers`: to the digits that were recorded of them.
    `accuracy_falls_with_the_radius`: it never rises.

  Args:
    log: the rows.
    radii: r, `[r]`; a radius that is exactly r is counted.

  Returns:
    Fractions `[r]`.

  Raises:
    ValueError: no rows; a negative radius or NaN.

  Reference: Cohen et al., 2019, "Certified Adversarial Robustness via Randomized Smoothing",
  https://arxiv.org/abs/1902.02918.

  >>> from jax_robust.smoothing.log import make_log
  >>> log = make_log([0, 1, 2, 3], [7, 2, 1, 0], [7, 3, -1, 0], [0.5, 0.9, 0.0, 0.2])
  >>> certified_accuracy(log, [0.0, 0.5, 1.0]).tolist()
  [0.5, 0.25, 0.0]
  """
  return count_certified(log, radii) / len(log.radius)


def certified_accuracy_band(log: CertifyLog, radii: Radii, *, confidence: float = 0.95) -> Band:
  """Certified accuracy with Clopper and Pearson's exact interval at each radius.

  Guarantees:
    `intervals_cover`: at each radius by itself, not at all of them together.

  Args:
    log: the rows.
    radii: r, `[r]`.
    confidence: of each interval, in (0, 1).

  Returns:
    The fractions and their bounds `[r]`.

  Raises:
    ValueError: as in `certified_accuracy`; confidence out of range.

  >>> from jax_robust.smoothing.log import make_log
  >>> band = certified_accuracy_band(make_log(range(10), [1] * 10, [0] * 10, [1.0] * 10), [0.0])
  >>> band.low.tolist(), band.high.round(4).tolist()
  ([0.0], [0.3085])
  """
  counts, total = count_certified(log, radii), len(log.radius)
  return Band(counts / total, *clopper_pearson(counts, total, confidence=confidence))


def high_probability_accuracy(
  log: CertifyLog, radii: Radii, *, alpha: float, rho: float
) -> Float[np.ndarray, " r"]:
  """Certified accuracy, less an allowance for CERTIFY's own failures.

      accuracy - alpha - sqrt(alpha (1 - alpha) ln(1/rho) / n) - ln(1/rho) / (3 n)

  Each of the n certificates is wrong with probability alpha at most. With probability 1 - rho over
  the noise, at least this share of the n images is truly classified correctly and robust at r.

  Guarantees:
    `certify_failures_are_reckoned_with`: by simulation.

  Args:
    log: the rows.
    radii: r, `[r]`.
    alpha: failure probability that the log was certified with, in (0, 1).
    rho: failure probability of the statement, in (0, 1).

  Returns:
    Lower bounds `[r]`; one below zero says nothing.

  Raises:
    ValueError: as in `certified_accuracy`; alpha or rho out of range.

  Reference: Cohen et al., 2019, https://arxiv.org/abs/1902.02918.

  >>> from jax_robust.smoothing.log import make_log
  >>> log = make_log(range(1000), [1] * 1000, [1] * 1000, [1.0] * 1000)
  >>> high_probability_accuracy(log, 0.5, alpha=0.001, rho=0.001).round(5).tolist()
  [0.99407]
  """
  check_probability(alpha=alpha, rho=rho)
  accuracy = certified_accuracy(log, radii)
  count, doubt = len(log.radius), math.log(1.0 / rho)
  failures = alpha + math.sqrt(alpha * (1.0 - alpha) * doubt / count) + doubt / (3.0 * count)
  return accuracy - failures


def probability_lower_bounds(log: CertifyLog, sigma: float | int) -> Float[np.ndarray, " n"]:
  """Lower bounds of p_A, the probability of each row's class under noise: Phi(radius / sigma).

  Args:
    log: the rows.
    sigma: noise that they were certified with.

  Returns:
    Bounds `[n]` on the probability of the predicted class; 0 where the classifier abstains.

  Raises:
    ValueError: sigma isn't positive.

  >>> from jax_robust.smoothing.log import make_log
  >>> log = make_log([0, 1], [7, 2], [7, -1], [0.5, 0.0])
  >>> probability_lower_bounds(log, 0.5).round(4).tolist()
  [0.8413, 0.0]
  """
  check_sigma(sigma)
  return np.where(log.predict >= 0, special.ndtr(log.radius / sigma), 0.0)


def probability_distribution(
  log: CertifyLog, sigma: float | int, probabilities: Radii
) -> Float[np.ndarray, " p"]:
  """Empirical distribution of p_A: the share of images whose bound on p_A is below p.

  Where the prediction is wrong or abstains, nothing is known of the true class: it counts as below
  every p, so that the distribution begins with the error at p = 1/2. It is certified accuracy on an
  axis that doesn't depend on sigma, and without the weight that the average radius gives to images
  of which the model is sure already.

  Args:
    log: the rows.
    sigma: noise that they were certified with.
    probabilities: p, `[p]`, in [1/2, 1].

  Returns:
    Fractions `[p]`.

  Raises:
    ValueError: no rows; sigma isn't positive; a probability out of range.

  Reference: Sun et al., 2024, "Average Certified Radius is a Poor Metric for Randomized Smoothing",
  https://arxiv.org/abs/2410.06895.

  >>> from jax_robust.smoothing.log import make_log
  >>> log = make_log([0, 1], [7, 2], [7, 3], [0.5, 0.9])
  >>> probability_distribution(log, 0.5, [0.5, 0.9]).tolist()
  [0.5, 1.0]
  """
  points = np.atleast_1d(np.asarray(probabilities, np.float64))
  if not np.all((points >= 0.5) & (points <= 1.0)):
    raise ValueError(f"probabilities={points}: expected values in [0.5, 1]")
  bounds = np.where(log.correct, probability_lower_bounds(log, sigma), 0.0)
  return 1.0 - _count_at_least(bounds, points) / len(bounds)


def count_certified(log: CertifyLog, radii: Radii) -> Int[np.ndarray, " r"]:
  """Number of images with the right class and a radius of at least r, `[r]`."""
  points = np.atleast_1d(np.asarray(radii, np.float64))
  if not np.all(points >= 0):
    raise ValueError(f"radii={points}: expected values >= 0")
  return _count_at_least(np.where(log.correct, log.radius, -1.0), points)


def estimate_mean(values: Float[np.ndarray, " n"], *, confidence: float) -> Estimate:
  """The mean with Student's interval, which is infinite where there is one value only."""
  check_probability(confidence=confidence)
  count = len(values)
  value = math.fsum(values) / count
  if count == 1:
    return Estimate(value, math.inf, -math.inf, math.inf)
  error = float(np.std(values, ddof=1)) / math.sqrt(count)
  reach = float(stats.t.isf((1.0 - confidence) / 2.0, count - 1)) * error
  return Estimate(value, error, value - reach, value + reach)


def true_radii(log: CertifyLog) -> np.ndarray:
  """Radii of right predictions, 0 for all other rows."""
  if not len(log.radius):
    raise ValueError(f"{log.name or 'the log'} has no rows")
  return np.where(log.correct, log.radius, 0.0)


def _count_at_least(values: np.ndarray, points: np.ndarray) -> np.ndarray:
  """Number of values that are at least each point."""
  if not len(values):
    raise ValueError("the log has no rows")
  return len(values) - np.searchsorted(np.sort(values), points, side="left")
