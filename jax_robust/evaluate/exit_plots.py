"""Plots of accuracy against what an image costs: budgets, exits and ensembles."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jax_robust.evaluate import plot_style

_MARKERS = ("o", "s", "^", "D")


class Line(NamedTuple):
  """Accuracies, what they cost, and whether the points are joined."""

  costs: Sequence[float]
  accuracies: Sequence[float]
  joined: bool


def draw_budgets(
  path: str | os.PathLike,
  lines: Mapping[str, Mapping[str, Line]],
  *,
  unit: str,
  chosen: Sequence[tuple[float, float]] = (),
  note: str = "",
) -> None:
  """Draws accuracy over the expected cost of an image.

  Args:
    path: of the PNG.
    lines: by input, which has a colour of its own, and by kind of answer, which has a marker.
    unit: of the costs, for the axis.
    chosen: points of the budget that is deployed, encircled.
    note: written above the axes.
  """
  label = f"expected cost of an image ({unit})"
  figure, axes = plot_style.make_axes((7.2, 4.2), label, "accuracy", note)
  for style, given, kinds in plot_style.styled(lines):
    for number, (kind, line) in enumerate(kinds.items()):
      shown = {"color": style["color"], "label": f"{kind}, {given}", "markersize": 6}
      if line.joined:
        shown["linewidth"] = style["linewidth"]
      else:
        shown |= {"linestyle": "none", "marker": _MARKERS[number % len(_MARKERS)]}
      axes.plot(line.costs, line.accuracies, **shown)
  for cost, accuracy in chosen:
    axes.plot(cost, accuracy, marker="o", markersize=12, color="0.3", fillstyle="none")
  axes.set_ylim(bottom=0)
  axes.set_xlim(left=0)
  plot_style.save_with_legend(path, figure, axes)
