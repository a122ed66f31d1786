"""Numbers of a report as text."""

import math
from collections.abc import Sequence

from jax_robust.report.table import PERCENT, RADIUS, SECONDS, Cell
from jax_robust.smoothing.rounding import round_down, round_up
from jax_robust.train.metrics import clock


def cell_text(cell: Cell) -> str:
  """What a cell shows: shares in percent, certified radii rounded down.

  >>> cell_text(Cell(0.5125, PERCENT)), cell_text(Cell(0.0099, RADIUS)), cell_text(Cell(3))
  ('51.2', '0.009', '3')
  >>> cell_text(Cell(75.0, SECONDS, text="at least"))
  'at least 0:01:15'
  """
  if cell.kind == SECONDS:
    return f"{cell.text} {clock(cell.value)}".strip()
  return cell.text or number(cell.value, cell.kind)


def number(value: object, kind: str) -> str:
  """A value by its kind."""
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    return str(value)
  if not math.isfinite(value):
    return str(value)
  if kind == PERCENT:
    return f"{100 * value:.1f}"
  if kind == RADIUS:
    return round_down(value, 3)
  return str(value) if isinstance(value, int) else f"{value:.4g}"


def interval_text(interval: Sequence[float], kind: str) -> str:
  """An interval, its bounds rounded outwards.

  >>> interval_text((0.48123, 0.54381), PERCENT)
  '[48.1, 54.4]'
  """
  low, high = interval
  factor, digits = {PERCENT: (100, 1), RADIUS: (1, 3)}.get(kind, (1, 4))
  if not (math.isfinite(low) and math.isfinite(high)):
    return f"[{low}, {high}]"
  return f"[{round_down(factor * low, digits)}, {round_up(factor * high, digits)}]"


def unit_of(kind: str) -> str:
  """What stands beside the name of a column."""
  return {PERCENT: "%", SECONDS: "h:m:s"}.get(kind, "")
