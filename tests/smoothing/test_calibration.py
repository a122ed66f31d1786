"""Calibration: closed forms, and what chance leaves of it."""

import numpy as np
import pytest

from jax_robust.smoothing import calibration

pytestmark = pytest.mark.fast


def test_bins_hold_their_upper_edge():
  confidence = np.array([0.0, 0.25, 0.2500001, 0.5, 1.0])
  bins = calibration.reliability(confidence, np.array([1, 0, 1, 1, 0], bool), num_bins=4)
  assert bins.edges.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
  assert bins.count.tolist() == [2, 2, 0, 1]
  np.testing.assert_array_equal(bins.accuracy, [0.5, 1.0, np.nan, 0.0])
  np.testing.assert_allclose(bins.confidence, [0.125, 0.37500005, np.nan, 1.0])
  full = bins.count > 0
  assert (bins.low[full] <= bins.accuracy[full]).all()
  assert (bins.high[full] >= bins.accuracy[full]).all()


def test_error_by_hand():
  confidence = np.array([0.9, 0.9, 0.6, 0.6])
  correct = np.array([True, True, True, False])
  found = calibration.expected_calibration_error(confidence, correct, num_bins=10)
  assert found == pytest.approx(0.5 * 0.1 + 0.5 * 0.1)


def test_calibrated_classifiers_err_little():
  rng = np.random.default_rng(0)
  for count in (1000, 100_000):
    confidence = rng.uniform(0.5, 1.0, count)
    correct = rng.uniform(size=count) < confidence
    assert calibration.expected_calibration_error(confidence, correct) < np.sqrt(15 / count)


def test_a_constant_gap_is_found():
  rng = np.random.default_rng(0)
  truth = rng.uniform(0.5, 0.8, 100_000)
  correct = rng.uniform(size=len(truth)) < truth
  for gap in (0.1, 0.2, -0.3):
    found = calibration.expected_calibration_error(truth + gap, correct)
    assert found == pytest.approx(abs(gap), abs=0.01)


def test_one_bin_compares_the_means():
  rng = np.random.default_rng(1)
  confidence, correct = rng.uniform(size=50), rng.uniform(size=50) < 0.3
  found = calibration.expected_calibration_error(confidence, correct, num_bins=1)
  assert found == pytest.approx(abs(confidence.mean() - correct.mean()))


@pytest.mark.parametrize(
  ("confidence", "correct", "num_bins", "reason"),
  [
    ([0.5, 1.1], [True, True], 15, "confidence holds 1.1"),
    ([0.5, np.nan], [True, True], 15, "confidence holds nan"),
    ([-0.1], [True], 15, "confidence holds -0.1"),
    ([0.5], [True, False], 15, "confidence (1,), correct (2,)"),
    ([], [], 15, "confidence (0,)"),
    ([0.5], [True], 0, "num_bins=0"),
  ],
)
def test_bad_arguments_are_named(confidence, correct, num_bins, reason):
  with pytest.raises((ValueError, TypeError)) as error:  # TypeError: of the shapes' checker
    calibration.reliability(np.array(confidence, float), np.array(correct, bool), num_bins)
  assert reason in str(error.value) or error.type is not ValueError
