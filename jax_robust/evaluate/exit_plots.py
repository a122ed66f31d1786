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
  lines: Mapping[str, Line],
  *,
  unit: str,
  chosen: Sequence[tuple[float, float]] = (),
  note: str = "",
) -> None:
  """Draws accuracy over the expected cost of an image.

  Args:
    path: of the PNG.
    lines: by name; those that are joined are sweeps, the others points.
    unit: of the costs, for the axis.
    chosen: points of the budget that is deployed, encircled.
    note: written above the axes.
  """
  figure, axes = plot_style.make_axes((7.2, 4.2), f"expected cost of an image ({unit})",
                                      "accuracy", note)  # fmt: skip
  for number, (style, name, line) in enumerate(plot_style.styled(lines)):
    if not line.joined:
      style = {**style, "linestyle": "none", "marker": _MARKERS[number % len(_MARKERS)]}
    axes.plot(line.costs, line.accuracies, label=name, markersize=5, **style)
  for cost, accuracy in chosen:
    axes.plot(cost, accuracy, marker="o", markersize=11, color="0.3", fillstyle="none")
  axes.set_ylim(bottom=0)
  axes.set_xlim(left=0)
  plot_style.save_with_legend(path, figure, axes)
