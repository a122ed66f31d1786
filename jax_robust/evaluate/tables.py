"""Markdown tables of results."""

from collections.abc import Mapping, Sequence

import numpy as np


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
  """A Markdown table with the columns of the first row; numbers have three decimals.

  >>> print(markdown_table([{"net": "trades", "clean": 0.95}, {"net": "standard", "clean": 1.0}]))
  | net      | clean |
  |----------|-------|
  | trades   | .950  |
  | standard | 1.000 |
  """
  columns = list(rows[0])
  cells = [columns, *([_cell(row.get(name, "")) for name in columns] for row in rows)]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  lines = [
    "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
    for line in cells
  ]
  lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
  return "\n".join(lines)


def by_class(
  columns: Mapping[str, np.ndarray],
  labels: np.ndarray,
  class_names: Sequence[str],
  num_classes: int,
) -> dict[str, dict[str, float | int]]:
  """Means of columns per image over each class that has images, and how many it has.

  Classes go by their names, or by their numbers where two have one name or there are none.

  >>> by_class({"clean": np.array([True, False])}, np.array([1, 1]), ("cat", "dog"), 2)
  {'dog': {'clean': 0.5, 'count': 2}}
  """
  is_named = len(set(class_names)) == num_classes
  found = {}
  for label in np.unique(labels).tolist():
    here = labels == label
    means = {name: float(column[here].mean()) for name, column in columns.items()}
    found[class_names[label] if is_named else str(label)] = {**means, "count": int(here.sum())}
  return found


def _cell(value: object) -> str:
  """Three decimals without the leading zero for numbers, as the field prints accuracies."""
  if isinstance(value, (float, np.floating)):
    return f"{value:.3f}".removeprefix("0") if 0 <= value < 1 else f"{value:.3f}"
  return str(value)
