"""Binomial bounds, CERTIFY and PREDICT on counts, and radii that are printed rounded down."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import special, stats

from jax_robust import smoothing

pytestmark = pytest.mark.fast

ALPHA = 0.001


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize("total", [1, 30, 400])
def test_lower_bound_covers(total, alpha):
  """Summed over all outcomes, exactly; and no larger bound would do."""
  counts = np.arange(total + 1)
  low = smoothing.lower_bound(counts, total, alpha=alpha)
  # The bound fails most often where p lies right below one of its values.
  p = np.concatenate([np.linspace(0.001, 0.999, 101), low[1:] * (1 - 1e-12)])[:, None]
  fails = (stats.binom.pmf(counts[None], total, p) * (low[None] > p)).sum(1)
  assert fails.max() <= alpha * (1 + 1e-9)
  assert fails.max() >= alpha * 0.99


@pytest.mark.parametrize(("total", "confidence"), [(1, 0.95), (30, 0.8), (1000, 0.99)])
def test_interval_is_scipys(total, confidence):
  """Bit by bit, since printed intervals must not change; that it covers is tested in `evaluate`."""
  k, tail = np.arange(total + 1), (1 - confidence) / 2
  low, high = smoothing.clopper_pearson(k, total, confidence=confidence)
  np.testing.assert_array_equal(low[1:], stats.beta.ppf(tail, k[1:], total - k[1:] + 1))
  np.testing.assert_array_equal(high[:-1], stats.beta.ppf(1 - tail, k[:-1] + 1, total - k[:-1]))
  assert low[0] == 0.0 and high[-1] == 1.0
  assert smoothing.clopper_pearson(0, 0, confidence=confidence) == (0.0, 1.0)


@pytest.mark.parametrize("total", [1, 10, 1000, 100_000, 10**7])
def test_no_votes_and_all_votes_have_bounds(total):
  low = smoothing.lower_bound(np.array([0, total]), total, alpha=ALPHA)
  assert low[0] == 0.0
  assert low[1] == pytest.approx(ALPHA ** (1 / total), rel=1e-15)
  votes = np.array([[0, total], [total, 0]])
  found = smoothing.certify(np.array([[1, 0], [1, 0]]), votes, sigma=2.0, alpha=ALPHA)
  assert found.label.tolist() == [-1, 0 if total >= 10 else -1]
  assert found.radius[0] == 0.0 and np.isfinite(found.radius).all()


def test_radius_of_all_votes_is_the_fields():
  for total, expected in ((100, 1.5005), (1000, 2.4633), (10_000, 3.1986), (100_000, 3.81146)):
    assert smoothing.max_radius(sigma=1.0, n=total, alpha=ALPHA) == pytest.approx(
      expected, abs=5e-5 if total < 100_000 else 5e-6
    )
  assert smoothing.max_radius(sigma=0.25, n=100_000, alpha=ALPHA) == pytest.approx(
    0.95286, abs=1e-5
  )


@pytest.mark.parametrize(("total", "least"), [(1000, 550), (10_000, 5156), (100_000, 50_490)])
def test_least_count_is_the_fields(total, least):
  assert smoothing.least_count(total, alpha=ALPHA) == least
  rows = np.array([[least, total - least], [least - 1, total - least + 1]])
  found = smoothing.certify(np.array([[9, 1], [9, 1]]), rows, sigma=1.0, alpha=ALPHA)
  assert found.label.tolist() == [0, -1]
  assert 0 < found.radius[0] < 1e-2 and found.radius[1] == 0
  assert found.lower_bound[1] < 0.5 <= found.lower_bound[0]


@pytest.mark.parametrize(("total", "least"), [(11, 11), (100, 67), (1000, 553)])
def test_prediction_thresholds_are_the_fields(total, least):
  rows = np.array([[total - least, least, 0], [total - least + 1, least - 1, 0]])
  found = smoothing.predict(rows, alpha=ALPHA)
  assert found.label.tolist() == [1, -1]
  for row, p_value in zip(rows, found.p_value, strict=True):
    assert p_value == pytest.approx(stats.binomtest(int(row[1]), total).pvalue, rel=1e-9)


def test_prediction_looks_at_the_two_leading_classes():
  found = smoothing.predict(np.array([[40, 900, 60], [450, 450, 100], [0, 5, 0]]), alpha=ALPHA)
  assert found.label.tolist() == [1, -1, -1]
  assert found.p_value[1] == 1.0 and found.p_value[2] == pytest.approx(2 * 0.5**5)
  assert smoothing.predict(np.array([0, 3, 8]), alpha=0.3).label.shape == ()


def test_wrong_class_with_probability_alpha():
  """Two level classes, the hardest case: how often a sample names either of them."""
  for p in ((0.5, 0.5), (0.34, 0.33, 0.33)):
    votes = np.random.default_rng(0).multinomial(200, p, 40_000)
    found = smoothing.predict(votes, alpha=0.05)
    named_wrong = (found.label > 0) if len(p) == 3 else (found.label >= 0)
    assert stats.binom.sf(named_wrong.sum() - 1, len(votes), 0.05) > 1e-4


def test_ties_in_the_selection_go_to_the_lowest_class():
  found = smoothing.certify(np.array([0, 5, 5]), np.array([0, 99, 1]), sigma=1.0, alpha=ALPHA)
  assert found.label == 1 and found.count == 99 and found.total == 100


def test_class_and_radius_come_from_different_votes():
  found = smoothing.certify(np.array([6, 4]), np.array([10, 90]), sigma=1.0, alpha=ALPHA)
  assert found.label == -1 and found.count == 10


def test_total_variation_is_taken_off():
  selection, votes = np.array([1, 9]), np.array([20, 980])
  low = smoothing.lower_bound(980, 1000, alpha=ALPHA)
  found = smoothing.certify(selection, votes, sigma=1.0, alpha=ALPHA, total_variation=0.01)
  assert found.lower_bound == low - 0.01
  assert found.radius == special.ndtri(low - 0.01)
  assert (
    smoothing.certify(selection, votes, sigma=1.0, alpha=ALPHA, total_variation=1.0).lower_bound
    == 0.0
  )
  plain = smoothing.predict(votes, alpha=ALPHA)
  assert smoothing.predict(votes, alpha=ALPHA, total_variation=1e-9).p_value == pytest.approx(
    plain.p_value + 1e-6
  )


def test_a_bound_of_one_half_certifies_radius_zero():
  """p_L < 1/2 abstains; n = 10 and alpha = 2^-10 give exactly 1/2."""
  found = smoothing.certify(np.array([1, 0]), np.array([10, 0]), sigma=1.0, alpha=2.0**-10)
  assert found.label == 0 and found.radius == 0.0


def test_results_are_float64():
  found = smoothing.certify(np.array([[1, 9]]), np.array([[1, 99]]), sigma=0.5, alpha=ALPHA)
  assert found.radius.dtype == found.lower_bound.dtype == np.float64


@hypothesis.given(
  st.one_of(st.floats(0, 10), st.floats(0, 1e-300), st.integers(0, 4000).map(lambda n: n / 1000)),
  st.integers(1, 15),
)
def test_never_more_than_the_radius(value, digits):
  text = smoothing.format_radius(value, digits)
  assert float(text) <= value
  assert smoothing.format_radius(float(text), digits) == text
  if value > 1e-290:
    step = 10.0 ** (math.floor(math.log10(value) + 1e-12) - digits + 1)
    assert value - float(text) <= step * 1.001
    assert sum(c.isdigit() for c in text.split("e")[0].replace(".", "").strip("0")) <= digits


def test_printing_is_that_of_the_field_rounded_down():
  largest = smoothing.max_radius(sigma=0.25, n=100_000, alpha=ALPHA)
  assert f"{largest:.3}" == "0.953" and smoothing.format_radius(largest) == "0.952"
  assert smoothing.format_radius(2 * largest) == "1.9" and smoothing.format_radius(0) == "0.0"
  assert smoothing.format_radius(1.12999e-5) == "1.12e-05"
  for value in (-1.0, math.nan, math.inf):
    with pytest.raises(ValueError, match="value="):
      smoothing.format_radius(value)
  for digits in (0, 16):
    with pytest.raises(ValueError, match=f"digits={digits}"):
      smoothing.format_radius(1.0, digits)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: smoothing.radius(0.7, sigma=0.0), "sigma=0.0"),
    (lambda: smoothing.radius(0.7, sigma=math.nan), "sigma=nan"),
    (lambda: smoothing.max_radius(sigma=-1.0, n=10, alpha=0.1), "sigma=-1.0"),
    (lambda: smoothing.lower_bound(5, 10, alpha=0.0), "alpha=0.0"),
    (lambda: smoothing.lower_bound(5, 10, alpha=1.0), "alpha=1.0"),
    (lambda: smoothing.lower_bound(11, 10, alpha=0.1), "counts=11, totals=10"),
    (lambda: smoothing.lower_bound(np.array([1, -1]), 10, alpha=0.1), "counts=-1, totals=10"),
    (lambda: smoothing.lower_bound(0, 0, alpha=0.1), "counts=0, totals=0"),
    (lambda: smoothing.predict(np.array([5]), alpha=0.1), "two classes"),
    (lambda: smoothing.predict(np.array([0, 0]), alpha=0.1), "at least one"),
    (lambda: smoothing.predict(np.array([0, -1]), alpha=0.1), "none negative"),
    (lambda: smoothing.check_budget(n=9, alpha=0.001), "n=9: too few votes .* at least 10"),
    (lambda: smoothing.check_budget(n=0, alpha=0.1), "n=0: expected a whole number"),
    (lambda: smoothing.check_budget(n=100, n0=0, alpha=0.1), "n0=0: expected a whole number"),
    (lambda: smoothing.check_budget(n=100, n0=1.5, alpha=0.1), "n0=1.5: expected a whole number"),
    (lambda: smoothing.check_budget(n=100, n0=101, alpha=0.1), "n0=101: expected at most n=100"),
    (lambda: smoothing.check_predict_budget(n=10, alpha=0.001), "n=10: .* at least 11"),
    (lambda: smoothing.check_predict_budget(n=0, alpha=0.9999), "n=0"),
    (lambda: smoothing.least_count(5, alpha=0.001), "n=5"),
    (lambda: smoothing.clopper_pearson(1, 2, confidence=1.0), "confidence=1.0"),
    (lambda: smoothing.clopper_pearson(3, 2, confidence=0.95), "counts=3, totals=2"),
  ],
)
def test_errors_name_what_is_wrong(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_counts_that_are_no_integers_are_refused():
  with pytest.raises((ValueError, TypeError)):  # TypeError: of the types' checker
    smoothing.certify(np.array([0.5, 1]), np.array([1, 2]), sigma=1.0, alpha=0.1)


def test_counts_of_different_shapes_are_refused():
  with pytest.raises(ValueError, match=r"shape \(2,\) and estimation_counts \(3,\)"):
    smoothing.certify(np.array([1, 2]), np.array([1, 2, 3]), sigma=1.0, alpha=0.1)


@pytest.mark.parametrize("power", range(1, 40))
def test_budgets_are_exact_at_powers_of_two(power):
  smoothing.check_budget(n=power, alpha=2.0**-power)
  with pytest.raises(ValueError, match="too few"):
    smoothing.check_budget(n=power, alpha=2.0**-power * 0.999)
  smoothing.check_predict_budget(n=power + 1, alpha=2.0**-power)
  with pytest.raises(ValueError, match="too few"):
    smoothing.check_predict_budget(n=power, alpha=2.0**-power)
