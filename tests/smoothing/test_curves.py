"""What logs amount to: the published ones to the digit, intervals by simulation."""

import json
import math

import numpy as np
import pytest

from jax_robust.smoothing import curves
from jax_robust.smoothing.log import make_log


def log_of(radii, *, wrong=()):
  """A log of these radii; NaN abstains."""
  radii = np.asarray(radii, float)
  label = np.ones(len(radii), int)
  predict = np.where(np.isnan(radii), -1, 1)
  predict[list(wrong)] = 2
  return make_log(range(len(radii)), label, predict, np.nan_to_num(radii))


@pytest.fixture(scope="module")
def published(oracles, published_log):
  """Every published log, and its recorded numbers."""
  folder = oracles / "certify_logs"
  expected = json.loads((folder / "expected.json").read_text())
  assert sorted(expected) == sorted(path.name[:-3] for path in folder.glob("*.gz"))
  return {name: (published_log(name), row) for name, row in expected.items()}


def test_published_logs_give_their_numbers(published):
  for name, (log, row) in published.items():
    radii = [float(key.removeprefix("at_")) for key in row if key.startswith("at_")]
    found = {
      "rows": len(log.idx),
      "abstain": int((log.predict == -1).sum()),
      "accuracy_at_0": round(float(curves.certified_accuracy(log, 0.0)[0]), 4),
      "acr": round(curves.average_certified_radius(log), 4),
    }
    at = zip(radii, curves.certified_accuracy(log, radii).tolist(), strict=True)
    assert found | {f"at_{radius}": round(value, 4) for radius, value in at} == row, name


def test_abstentions_and_errors_count_as_nothing():
  log = log_of([0.5, np.nan, 0.9, 0.7], wrong=[2])
  assert curves.average_certified_radius(log) == pytest.approx(0.3)
  assert curves.certified_accuracy(log, [0, 0.5, 0.6, 0.7, 0.8]).tolist() == [
    0.5, 0.5, 0.25, 0.25, 0.0,
  ]  # fmt: skip


def test_a_radius_counts_where_it_is_reached():
  log = log_of([0.5, 0.5])
  at = [0.5, math.nextafter(0.5, 1)]
  assert curves.certified_accuracy(log, at).tolist() == [1.0, 0.0]


def test_accuracy_falls_with_the_radius(published):
  log, _ = published["cifar10_smoothmix_onestep_sigma0.5"]
  radii = np.linspace(0, 2, 201)
  band = curves.certified_accuracy_band(log, radii)
  for values in band:
    assert (np.diff(values) <= 0).all()
  assert (band.low <= band.value).all() and (band.value <= band.high).all()
  # What is below the curve is the average radius: by Abel's summation, exactly.
  steps = np.unique(log.radius)
  area = np.sum(np.diff(steps, prepend=0.0) * curves.certified_accuracy(log, steps))
  assert area == pytest.approx(curves.average_certified_radius(log), abs=1e-12)


def test_intervals_cover(published):
  """Samples of a published log's images: their intervals hold the whole log's numbers."""
  log, _ = published["mnist_smoothmix_onestep_sigma1.00"]
  mean, share = curves.average_certified_radius(log), curves.certified_accuracy(log, 1.0)[0]
  rng = np.random.default_rng(0)
  trials, hits = 1000, np.zeros(2)
  for _ in range(trials):
    rows = rng.integers(0, len(log.idx), 200)
    sample = log._replace(radius=log.radius[rows], correct=log.correct[rows])
    estimate = curves.estimate_average_radius(sample, confidence=0.9)
    band = curves.certified_accuracy_band(sample, 1.0, confidence=0.9)
    hits += estimate.low <= mean <= estimate.high, band.low[0] <= share <= band.high[0]
  deviation = math.sqrt(0.9 * 0.1 / trials)
  assert abs(hits[0] / trials - 0.9) < 4 * deviation
  assert 0.9 - 3 * deviation < hits[1] / trials < 0.97


def test_the_standard_error_is_what_others_found(published):
  recorded = {
    "mnist_smoothmix_sigma0.25": 0.0011,
    "mnist_smoothmix_eta5_sigma0.50": 0.0040,
    "mnist_smoothmix_onestep_sigma1.00": 0.0101,
    "cifar10_smoothmix_sigma0.25": 0.0040,
    "cifar10_smoothmix_onestep_sigma0.5": 0.0075,
  }
  for name, error in recorded.items():
    estimate = curves.estimate_average_radius(published[name][0])
    assert round(estimate.standard_error, 4) == error, name


def test_one_row_says_nothing_of_the_spread():
  estimate = curves.estimate_average_radius(log_of([0.5]))
  assert estimate == (0.5, math.inf, 0.0, math.inf)


def test_certify_failures_are_reckoned_with():
  """Certificates that are wrong as often as they may be, each with probability alpha."""
  alpha, rho, count, trials = 0.02, 0.05, 500, 4000
  log = log_of(np.ones(count))
  bound = curves.high_probability_accuracy(log, 1.0, alpha=alpha, rho=rho)[0]
  truly = 1 - np.random.default_rng(0).binomial(count, alpha, trials) / count
  broken = (truly < bound).mean()
  assert broken <= rho
  assert broken > 0  # it is no idle bound


def test_high_probability_accuracy_is_the_published_formula():
  log = log_of([0.5] * 300 + [0.1] * 200)
  slack = 0.001 + math.sqrt(0.001 * 0.999 * math.log(100) / 500) + math.log(100) / 1500
  found = curves.high_probability_accuracy(log, [0.0, 0.3, 1.0], alpha=0.001, rho=0.01)
  np.testing.assert_allclose(found, np.array([1.0, 0.6, 0.0]) - slack, rtol=1e-12)


def test_probability_bounds_are_the_radius_on_another_axis():
  log = log_of([0.5, np.nan, 1.0, 0.0])
  bounds = curves.probability_lower_bounds(log, 0.5)
  np.testing.assert_allclose(bounds, [0.841344746, 0.0, 0.977249868, 0.5], atol=1e-9)


def test_probability_distribution_is_certified_accuracy(published):
  log, _ = published["mnist_smoothmix_onestep_sigma1.00"]
  radii = np.array([0.0, 0.25, 1.0, 2.5])
  p = 0.5 * (1 + np.array([math.erf(radius / math.sqrt(2)) for radius in radii]))
  below = curves.probability_distribution(log, 1.0, p - 1e-12 * (p > 0.5))
  np.testing.assert_allclose(1 - below, curves.certified_accuracy(log, radii), atol=1e-12)
  assert curves.probability_distribution(log, 1.0, 1.0) == 1.0


@pytest.mark.parametrize(
  ("call", "reason"),
  [
    (lambda log: curves.certified_accuracy(log, -0.1), "radii=[-0.1]"),
    (lambda log: curves.certified_accuracy(log, [0.0, math.nan]), "radii="),
    (lambda log: curves.certified_accuracy_band(log, 0.0, confidence=1.0), "confidence=1.0"),
    (lambda log: curves.estimate_average_radius(log, confidence=0.0), "confidence=0.0"),
    (lambda log: curves.high_probability_accuracy(log, 0.0, alpha=0.0, rho=0.1), "alpha=0.0"),
    (lambda log: curves.high_probability_accuracy(log, 0.0, alpha=0.1, rho=1.5), "rho=1.5"),
    (lambda log: curves.probability_lower_bounds(log, 0.0), "sigma=0.0"),
    (lambda log: curves.probability_distribution(log, 0.5, 0.4), "probabilities=[0.4]"),
    (lambda log: curves.average_certified_radius(log_of([])), "no rows"),
    (lambda log: curves.certified_accuracy(log_of([]), 0.0), "no rows"),
    (lambda log: curves.estimate_average_radius(log_of([])), "no rows"),
  ],
)
def test_bad_arguments_are_named(call, reason):
  with pytest.raises(ValueError) as error:
    call(log_of([0.5, 0.2]))
  assert reason in str(error.value)
