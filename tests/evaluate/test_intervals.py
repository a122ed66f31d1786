"""Intervals that cover, summaries, tables."""

import json

import numpy as np
import pytest
from scipy import stats

from jax_robust.evaluate import intervals, tables

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(("total", "confidence"), [(1, 0.95), (30, 0.95), (30, 0.8), (200, 0.99)])
def test_interval_covers(total, confidence):
  """Summed over all outcomes, exactly: never less than the confidence, and not always one."""
  each = [intervals.binomial_interval(k, total, confidence=confidence) for k in range(total + 1)]
  low, high = (np.array([getattr(i, end) for i in each]) for end in ("low", "high"))
  # Coverage is lowest right outside an end, so the ends are looked at from both sides.
  ends = np.concatenate([low, high])
  p = np.clip(np.concatenate([np.linspace(0, 1, 201), ends - 1e-9, ends + 1e-9]), 0, 1)[:, None]
  inside = (low[None] <= p) & (p <= high[None])
  coverage = (stats.binom.pmf(np.arange(total + 1)[None], total, p) * inside).sum(1)
  assert coverage.min() >= confidence - 1e-7
  assert coverage.min() < (1 + confidence) / 2 + 0.01


def test_interval_covers_in_simulation():
  draws = np.random.default_rng(0).binomial(50, 0.9, 2000)
  every = [intervals.binomial_interval(int(k), 50) for k in draws]
  assert np.mean([each.low <= 0.9 <= each.high for each in every]) >= 0.95


@pytest.mark.parametrize(("successes", "total"), [(0, 10), (10, 10), (63, 100), (1, 1)])
def test_interval_is_scipys(successes, total):
  expected = stats.binomtest(successes, total).proportion_ci(0.95, "exact")
  interval = intervals.binomial_interval(successes, total)
  np.testing.assert_allclose(interval, (successes / total, expected.low, expected.high), rtol=1e-8)


def test_interval_of_ten_thousand_is_a_percent_wide():
  value, low, high = intervals.binomial_interval(6000, 10_000)
  assert value == 0.6 and 0.0095 < value - low < 0.0098 and 0.0095 < high - value < 0.0098


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"successes": 11, "total": 10}, "successes=11, total=10"),
    ({"successes": -1, "total": 10}, "successes=-1, total=10"),
    ({"successes": 0, "total": 0}, "successes=0, total=0"),
    ({"successes": 1, "total": 2, "confidence": 1.0}, "confidence=1.0"),
    ({"successes": 1, "total": 2, "confidence": 95}, "confidence=95"),
  ],
)
def test_interval_errors(arguments, message):
  with pytest.raises(ValueError, match=message):
    intervals.binomial_interval(**arguments)


def test_summary_counts_flags_and_fits_into_json():
  flags = {"clean": np.arange(40) % 4 > 0, "robust": np.arange(40) % 2 > 0}
  summary = json.loads(json.dumps(intervals.summarise(flags)))
  assert summary["num_examples"] == 40
  assert summary["clean"] == 0.75 and summary["robust"] == 0.5
  assert summary["clean_interval"] == list(intervals.binomial_interval(30, 40)[1:])
  assert summary["robust_interval"] == list(intervals.binomial_interval(20, 40)[1:])


def test_table_is_markdown_with_aligned_columns():
  rows = [
    {"net": "a", "clean": 1.0, "robust": np.float32(0.5), "images": 10_000},
    {"net": "longer", "clean": np.float64(0.8125), "images": 3, "robust": 0.0},
    {"net": "short"},
  ]
  assert tables.markdown_table(rows).splitlines() == [
    "| net    | clean | robust | images |",
    "|--------|-------|--------|--------|",
    "| a      | 1.000 | .500   | 10000  |",
    "| longer | .812  | .000   | 3      |",
    "| short  |       |        |        |",
  ]


@pytest.mark.parametrize("count", [2, 3, 10])
def test_few_values_are_covered(count):
  draws = np.random.default_rng(0).normal(5, 2, (4000, count))
  found = [intervals.student_interval(each) for each in draws]
  covered = np.mean([each.low <= 5 <= each.high for each in found])
  assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4000)
  with pytest.raises(ValueError, match="expected two numbers or more"):
    intervals.student_interval(draws[0, :1])


def test_of_two_rows_the_scatter_of_blocks_is_students():
  values = np.random.default_rng(3).normal(size=(2, 4))
  mean, low, high = intervals.student_interval(values[1] - values[0])
  half = intervals.block_half_width(values)
  np.testing.assert_allclose([mean - half, mean + half], [low, high], rtol=1e-12)


def test_differences_are_covered_whatever_blocks_do():
  rng, rows, blocks = np.random.default_rng(4), 6, 2
  noise = rng.normal(size=(20_000, rows, blocks))
  noise += 50 * rng.normal(size=(20_000, 1, blocks))  # a good seed and a bad one
  halves = np.array([intervals.block_half_width(values) for values in noise])
  means = noise.mean(2)
  covered = np.mean(np.abs(means[:, 1] - means[:, 0]) <= halves)
  assert covered == pytest.approx(0.95, abs=0.005)


@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (4,)])
def test_one_row_or_block_has_no_scatter(shape):
  with pytest.raises(ValueError, match="two or more"):
    intervals.block_half_width(np.zeros(shape))
