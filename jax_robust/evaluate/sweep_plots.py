"""Plots of what a grid of trainings found: a panel a measure, a line for each of the other keys."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_robust.evaluate import plot_style
from jax_robust.evaluate.intervals import Interval


class Point(NamedTuple):
  """What was found with certain values of the config.

  Attributes:
    changes: the values, as typed, by key.
    values: the intervals by what was measured.
  """

  changes: Mapping[str, str]
  values: Mapping[str, Interval]


def draw_sweep(
  path: str | os.PathLike, points: Sequence[Point], *, over: str = "", baseline: Point | None = None
) -> None:
  """Draws what was measured against the key with most numbers, a line for the values of the others.

  Args:
    path: of the PNG.
    points: all with the same keys, which may be none.
    over: what the intervals are over, to be told.
    baseline: what the points are compared with, drawn as a line across; the points' intervals are
      those of their differences to it. A bound that is NaN is not drawn.
  """
  measures = list(dict.fromkeys(name for point in points for name in point.values))
  key = _abscissa(points)
  figure = plot_style.make_figure(4.6 * len(measures), 3.6)
  panels = np.ravel(figure.subplots(1, len(measures)))
  places = _places([point.changes.get(key, "") for point in points])
  lines: dict[str, list[Point]] = {}
  for point in points:
    others = ", ".join(f"{name}={text}" for name, text in point.changes.items() if name != key)
    lines.setdefault(others, []).append(point)
  for axes, measure in zip(panels, measures, strict=True):
    for style, name, members in plot_style.styled(lines):
      shown = [point for point in members if measure in point.values]
      found = np.array([point.values[measure] for point in shown]).reshape(-1, 3)
      axes.errorbar(
        [places[point.changes.get(key, "")] for point in shown], found[:, 0],
        yerr=np.abs(found[:, 1:] - found[:, :1]).T, label=name, capsize=3, marker="o",
        markersize=4, **style,
      )  # fmt: skip
    if baseline and measure in baseline.values:
      _draw_baseline(axes, baseline, measure)
    _label(axes, places, key, measure)
  of = " of the difference to the baseline," if baseline else ""
  if over and any(np.isfinite(bar.low) for point in points for bar in point.values.values()):
    panels[0].set_title(f"95 % intervals{of} over {over}", loc="left", fontsize=8)
  if len(lines) > 1 or baseline:
    plot_style.save_with_legend(path, figure, panels[0])
  else:
    plot_style.save(path, figure)


def _draw_baseline(axes, baseline: Point, measure: str) -> None:
  """A line across the panel."""
  value = baseline.values[measure].value
  name = ", ".join(f"{key}={text}" for key, text in baseline.changes.items())
  axes.axhline(value, color="0.35", linestyle="--", linewidth=1.2, label=f"baseline: {name}")


def _abscissa(points: Sequence[Point]) -> str:
  """The key with the most different numbers; where none has numbers, with the most values."""
  keys = points[0].changes
  values = {key: {point.changes[key] for point in points} for key in keys}
  return max(values, key=lambda key: (_are_numbers(values[key]), len(values[key])), default="")


def _are_numbers(texts: Any) -> bool:
  return all(_number(text) is not None for text in texts)


def _number(text: str) -> float | None:
  """A number or a fraction, as typed; None of anything else."""
  above, slash, below = text.partition("/")
  try:
    return float(above) / float(below) if slash else float(above)
  except (ValueError, ZeroDivisionError):
    return None


def _places(texts: Sequence[str]) -> dict[str, float]:
  """Where each value stands on the axis: numbers at their value, others one after another."""
  each = list(dict.fromkeys(texts))
  if _are_numbers(each):
    each.sort(key=lambda text: _number(text) or 0.0)
    return {text: _number(text) or 0.0 for text in each}
  return {text: float(place) for place, text in enumerate(each)}


def _label(axes, places: Mapping[str, float], key: str, measure: str) -> None:
  """Names the axes, and the values where they are no numbers."""
  axes.set(xlabel=key, ylabel=measure)
  plot_style.add_grid(axes)
  if not _are_numbers(places):
    axes.set_xticks(list(places.values()), list(places))
  elif min(places.values()) > 0 and max(places.values()) > 20 * min(places.values()):
    axes.set_xscale("log")
