"""Two logs beside each other: the paired interval covers; logs that do not compare are refused."""

import math

import numpy as np
import pytest

from jax_robust import smoothing
from jax_robust.smoothing.log import make_log

FIRST = make_log(range(4), [1] * 4, [1, 1, -1, 1], [0.5, 0.9, 0.0, 0.3], header={"n": 1000})
COLUMNS = ("idx", "label", "predict", "radius", "correct")
SECOND = make_log(range(4), [1] * 4, [1, 2, 1, 1], [0.4, 0.9, 0.1, 0.3], header={"n": 1000})


def test_differences_are_counted_by_image():
  found = smoothing.compare_logs(FIRST, SECOND)
  averages = [smoothing.average_certified_radius(log) for log in (FIRST, SECOND)]
  assert found.difference.value == pytest.approx(averages[0] - averages[1])
  assert found[1:] == (2, 1, 2)
  back = smoothing.compare_logs(SECOND, FIRST)
  assert back.difference.value == pytest.approx(-found.difference.value)
  assert back[1:] == (1, 2, 2)
  assert smoothing.compare_logs(FIRST, FIRST).difference[:2] == (0.0, 0.0)


def test_intervals_cover(published_log):
  """Samples of two published logs: the paired interval holds the whole difference, and is short."""
  names = ("mnist_smoothmix_T1_alpha8_sigma1.00", "mnist_gaussian_sigma1.00")
  logs = [published_log(name) for name in names]
  whole = smoothing.compare_logs(*logs).difference
  rng = np.random.default_rng(0)
  trials, hits = 500, 0
  for _ in range(trials):
    rows = rng.integers(0, len(logs[0].idx), 100)
    samples = [log._replace(**{name: getattr(log, name)[rows] for name in COLUMNS}) for log in logs]
    found = smoothing.compare_logs(*samples, confidence=0.9).difference
    hits += found.low <= whole.value <= found.high
  assert abs(hits / trials - 0.9) < 4 * math.sqrt(0.9 * 0.1 / trials)
  alone = [smoothing.estimate_average_radius(log).standard_error for log in logs]
  assert whole.standard_error < 0.8 * math.hypot(*alone)


@pytest.mark.parametrize(
  ("other", "message"),
  [
    (smoothing.select_images(SECOND, [0, 1, 2]), "idx: expected logs of the same images"),
    (SECOND._replace(label=np.array([1, 1, 1, 2])), "label: expected logs of the same images"),
    (SECOND._replace(header={"n": 100}), "n=1000 and n=100: expected one number of draws"),
  ],
)
def test_logs_that_do_not_compare_are_refused(other, message):
  with pytest.raises(ValueError, match=message):
    smoothing.compare_logs(FIRST, other)


def test_one_image_proves_nothing():
  log = smoothing.select_images(FIRST, [0])
  found = smoothing.compare_logs(log, smoothing.select_images(SECOND, [0])).difference
  assert (found.low, found.high) == (-math.inf, math.inf)
