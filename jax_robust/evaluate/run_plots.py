"""Curves of several trainings in one picture, by step."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from jax_robust.evaluate import plot_style

_SIZE = 7.2, 3.6  # inches of the axes
_MOST_NAMED = 24
_LONGEST = 80  # characters
_LINE = 0.19  # inches of a line of the legend


def draw_curves(
  path: str | os.PathLike,
  curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
  ylabel: str,
  *,
  is_share: bool = False,
) -> None:
  """Draws what trainings measured, a line for each; values that are not finite leave gaps.

  Args:
    path: of the PNG.
    curves: steps and values of each training, by its name in the legend; one without any only
      keeps its colour from the others.
    ylabel: what was measured.
    is_share: whether the values are shares, and drawn as 0 to 100 %.
  """
  names = [name for name, (steps, _) in curves.items() if len(steps)]
  named, lines = len(names) <= _MOST_NAMED, []
  columns = 1 if max(map(len, names)) > 40 else 2
  rows = -(-len(names) // columns) if named else 1
  size = _SIZE[0], _SIZE[1] + _LINE * rows
  figure, axes = plot_style.make_axes(size, "step", f"{ylabel} (%)" if is_share else ylabel)
  for style, _, (steps, values) in plot_style.styled(curves):
    if not len(steps):
      continue
    shown = np.where(np.isfinite(values), values, np.nan) * (100 if is_share else 1)
    marker = "o" if len(values) < 30 else ""
    lines += axes.plot(steps, shown, marker=marker, markersize=3, **style)
  axes.set_xlim(left=0)
  if is_share:
    axes.set_ylim(0, 100)
  if named:
    # Given by hand: Matplotlib leaves out names that begin with _, and sets $…$ as formulas.
    labels = [_short(name).replace("$", r"\$") for name in names]
    place = {"loc": "outside lower left", "ncols": columns}
    figure.legend(lines, labels, frameon=False, fontsize=8, **place)
  else:
    axes.set_title(f"{len(names)} runs", loc="right", fontsize=8, color="0.4")
  plot_style.save(path, figure, dpi=120)


def _short(name: str) -> str:
  """A name, cut where it is too long for a legend."""
  return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
