"""A row of a certification log: printed, read back, and held to what a row must be."""

import datetime
import json
import math
import re
import types
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

from jax_robust.smoothing.bounds import ABSTAIN, format_radius

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
"""The columns as every program of the field writes them."""

DIGITS = 15
"""Significant digits of a radius: as many as a float64 keeps. The field prints 3, rounded."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_CLOCK = re.compile(r"(?:(-?[0-9]+) days?, )?([0-9]+):([0-5]?[0-9]):([0-5]?[0-9](?:\.[0-9]*)?)")


class Row(NamedTuple):
  """What CERTIFY said of one image, and in how many seconds."""

  idx: int
  label: int
  predict: int
  radius: float
  seconds: float


def format_header(header: Mapping[str, Any] = types.MappingProxyType({})) -> str:
  """How a log begins: the settings as a comment, where there are any, and the columns.

  >>> format_header({"sigma": 0.5})
  '# {"sigma": 0.5}\\nidx\\tlabel\\tpredict\\tradius\\tcorrect\\ttime\\n'
  """
  comment = f"# {json.dumps(dict(header), sort_keys=True)}\n" if header else ""
  return comment + "\t".join(COLUMNS) + "\n"


def format_row(
  idx: Integral,
  label: Integral,
  predict: Integral,
  radius: Real,
  seconds: Real,
  *,
  digits: int = DIGITS,
) -> str:
  """A row of a log, its end of line included; the radius is rounded down to so many digits.

  >>> format_row(3, 7, 7, 1.90573, 0.5, digits=3)
  '3\\t7\\t7\\t1.9\\t1\\t0:00:00.500000\\n'
  >>> format_row(3, 7, -1, 0.0, 16.602175)
  '3\\t7\\t-1\\t0.0\\t0\\t0:00:16.602175\\n'
  """
  time = datetime.timedelta(seconds=float(seconds))
  radius = format_radius(float(radius), digits)
  cells = (idx, label, predict, radius, int(predict == label), time)
  return "\t".join(map(str, cells)) + "\n"


def parse_row(line: str, order: Sequence[int]) -> tuple[Row, int]:
  """A line without its end, read: the row, and what it says in the column `correct`.

  Args:
    line: fields between tabs.
    order: where each of `COLUMNS` stands in it.

  Raises:
    ValueError: a field is missing, one too many, or not of its column's type; the reason.

  >>> parse_row("3\\t7\\t7\\t9.5e-01\\t1\\t1 day, 0:00:01", range(6))
  (Row(idx=3, label=7, predict=7, radius=0.95, seconds=86401.0), 1)
  """
  cells = line.split("\t")
  if len(cells) != len(order):
    raise ValueError(f"{len(cells)} fields {line!r}: expected {len(order)}, between tabs")
  fields = {name: cells[place].strip() for name, place in zip(COLUMNS, order, strict=True)}
  for name in ("idx", "label", "predict", "correct"):
    if not _INTEGER.fullmatch(fields[name]):
      raise ValueError(f"{name}={fields[name]!r}: expected an integer")
  if not _NUMBER.fullmatch(fields["radius"]):
    raise ValueError(f"radius={fields['radius']!r}: expected a finite number >= 0")
  integers = (int(fields[name]) for name in ("idx", "label", "predict"))
  row = Row(*integers, float(fields["radius"]), _seconds(fields["time"]))
  return row, int(fields["correct"])


def _seconds(time: str) -> float:
  """A duration, as Python prints a timedelta or in plain seconds."""
  if _NUMBER.fullmatch(time) and math.isfinite(float(time)):
    return float(time)
  match = _CLOCK.fullmatch(time)
  if not match:
    raise ValueError(f"time={time!r}: expected H:MM:SS.ffffff or seconds")
  days, hours, minutes, seconds = match.groups(default="0")
  return 86400 * int(days) + 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def fault_of(
  idx: Integral,
  label: Integral,
  predict: Integral,
  radius: Real,
  *,
  previous: Integral,
  correct: Integral | None = None,
) -> str | None:
  """Why a row can't be believed; None where it can.

  Args:
    idx: number of the image.
    label: its class.
    predict: certified class, or -1.
    radius: certified radius.
    previous: number of the image before it; -1 at the start.
    correct: what the row says in that column, where it has been printed.

  >>> fault_of(3, 7, -1, 0.5, previous=2)
  'radius=0.5, though the classifier abstains (predict=-1): expected 0'
  """
  if idx < 0:
    return f"idx={idx}: expected a number >= 0"
  if idx <= previous:
    return (
      f"idx={idx} {'again' if idx == previous else f'after {previous}'}: expected it to increase"
    )
  if label < 0 or predict < ABSTAIN:
    return f"label={label}, predict={predict}: expected classes >= 0, or predict=-1 (abstains)"
  if not (math.isfinite(radius) and radius >= 0):
    return f"radius={radius}: expected a finite number >= 0"
  if predict == ABSTAIN and radius > 0:
    return f"radius={radius}, though the classifier abstains (predict=-1): expected 0"
  if correct is not None and correct != (predict == label):
    return f"correct={correct} contradicts label={label}, predict={predict}"
  return None
