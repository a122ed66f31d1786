"""Fractions with exact confidence intervals, and the summary of an evaluation's flags."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import special

from jax_robust.smoothing import clopper_pearson


class Interval(NamedTuple):
  """A fraction and the two-sided confidence interval around it."""

  value: float
  low: float
  high: float


def binomial_interval(successes: int, total: int, *, confidence: float = 0.95) -> Interval:
  """Clopper and Pearson's exact interval of a success probability.

  Guarantees:
    `interval_covers`: the true probability lies inside with probability at least `confidence`.

  Args:
    successes: how often it happened, 0 to `total`.
    total: how often it could have, at least 1.
    confidence: of the interval, in (0, 1).

  Returns:
    The fraction and its bounds.

  Raises:
    ValueError: counts or confidence out of range.

  >>> binomial_interval(0, 10).low, round(binomial_interval(0, 10).high, 4)
  (0.0, 0.3085)
  """
  if not 0 <= successes <= total or total < 1:
    raise ValueError(f"successes={successes}, total={total}: expected 0 <= successes <= total > 0")
  low, high = clopper_pearson(successes, total, confidence=confidence)
  return Interval(successes / total, float(low), float(high))


def summarise(columns: Mapping[str, np.ndarray]) -> dict[str, float | list[float] | int]:
  """Means of columns per image, by name, their 95 % intervals, and the number of images.

  The mean of flags is a share, and its interval exact; that of values has the normal one.

  >>> summarise({"clean": np.array([True, True]), "robust": np.array([True, False])})["robust"]
  0.5
  """
  result: dict = {"num_examples": len(next(iter(columns.values())))}
  for name, column in columns.items():
    is_flag = np.issubdtype(column.dtype, np.bool_)
    interval = (
      binomial_interval(int(column.sum()), len(column)) if is_flag else mean_interval(column)
    )
    result[name] = interval.value
    result[f"{name}_interval"] = [interval.low, interval.high]
  return result


def mean_interval(values: np.ndarray) -> Interval:
  """Mean and 95 % interval of values by the normal approximation; of one value, the value.

  Args:
    values: numbers `[n]`, independent of one another.

  >>> mean_interval(np.array([1.0, 3.0])).value
  2.0
  """
  values = values.astype(np.float64)
  mean = float(values.mean())
  half = 1.96 * float(values.std(ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else 0.0
  return Interval(mean, float(mean - half), float(mean + half))


def student_interval(values: np.ndarray) -> Interval:
  """Mean and 95 % interval of few values, by Student's distribution.

  Guarantees:
    `few_values_are_covered`: of independent normal values, however few, it holds their expectation
      with probability .95; `mean_interval` needs dozens of them for that, and of three gives .81.

  Args:
    values: numbers `[n]`, independent of one another, at least two.

  Raises:
    ValueError: fewer than two values.

  >>> [round(bound, 3) for bound in student_interval(np.array([1.0, 3.0]))]
  [2.0, -10.706, 14.706]
  """
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or len(values) < 2:
    raise ValueError(f"values has shape {values.shape}: expected two numbers or more, [n]")
  factor = float(special.stdtrit(len(values) - 1, 0.975))
  mean, half = float(values.mean()), factor * float(values.std(ddof=1)) / np.sqrt(len(values))
  return Interval(mean, float(mean - half), float(mean + half))


def block_half_width(values: np.ndarray) -> float:
  """Half the 95 % interval of the difference of two rows' means, by the scatter of all rows.

  The analysis of variance of randomised blocks: what a block (a seed) does to all rows alike falls
  out of a difference, and what is left is taken to scatter as much in every row. Ten rows of two
  blocks so estimate it with nine degrees of freedom, where two rows alone have one.

  Guarantees:
    `of_two_rows_it_is_students`: of their differences.
    `differences_are_covered`: of independent normal values of one variance, a difference lies
      within it of its expectation with probability .95; the largest of many does so more rarely.

  Args:
    values: numbers `[rows, blocks]`, at least two of each.

  Raises:
    ValueError: fewer.

  >>> round(block_half_width(np.array([[0.0, 0.0], [1.0, 3.0]])), 3)
  12.706
  """
  values = np.asarray(values, np.float64)
  if values.ndim != 2 or min(values.shape) < 2:
    raise ValueError(f"values has shape {values.shape}: expected [rows, blocks], two or more")
  rows, blocks = values.shape
  means = values.mean(1, keepdims=True) + values.mean(0, keepdims=True) - values.mean()
  freedom = (rows - 1) * (blocks - 1)
  variance = np.square(values - means).sum() / freedom
  return float(special.stdtrit(freedom, 0.975) * np.sqrt(2 * variance / blocks))
