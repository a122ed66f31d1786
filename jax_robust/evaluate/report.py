"""What an evaluation says: fractions with exact intervals, a table, a JSON file's content."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jax_robust.smoothing import clopper_pearson

FLAGS = ("clean", "robust", "noisy")
"""What is said of each image: classified correctly as it is, attacked, under Gaussian noise."""


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


def summarise(flags: Mapping[str, np.ndarray]) -> dict[str, float | list[float] | int]:
  """Fractions of the flags in `FLAGS`, their 95 % intervals, and the number of images.

  >>> summarise({"clean": np.array([True, True]), "robust": np.array([True, False])})["robust"]
  0.5
  """
  result: dict = {"num_examples": len(flags["clean"])}
  for name in [name for name in FLAGS if name in flags]:
    interval = binomial_interval(int(flags[name].sum()), len(flags[name]))
    result[name] = interval.value
    result[f"{name}_interval"] = [interval.low, interval.high]
  return result


def table(rows: Sequence[Mapping[str, object]]) -> str:
  """A Markdown table; the columns are those of the first row.

  >>> print(table([{"net": "trades", "clean": 0.95}, {"net": "standard", "clean": 1.0}]))
  | net      | clean |
  |----------|-------|
  | trades   | .950  |
  | standard | 1.000 |
  """
  columns = list(rows[0])
  cells = [columns, *([_cell(row.get(name, "")) for name in columns] for row in rows)]
  widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
  lines = [
    "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
    for line in cells
  ]
  lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
  return "\n".join(lines)


def _cell(value: object) -> str:
  """Three decimals without the leading zero for numbers, as the field prints accuracies."""
  if isinstance(value, (float, np.floating)):
    return f"{value:.3f}".removeprefix("0") if 0 <= value < 1 else f"{value:.3f}"
  return str(value)
