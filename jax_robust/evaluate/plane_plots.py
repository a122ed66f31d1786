"""Pictures of classifiers of the plane: what each of them says of every place in a square."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_robust.evaluate import plot_style

_MARGIN = 0.13


def draw_learning_from_adversarial_points(
  path, points: np.ndarray, labels: np.ndarray, radius: float, found: Mapping[str, Any]
) -> None:
  """Four panels: data and first net; its adversarial points; the second net on them, on the data.

  Args:
    path: of the PNG.
    points: `[n, 2]` in [0, 1].
    labels: `[n]`, 0 or 1.
    radius: of the boxes around the points, in which the adversarial ones lie.
    found: of one seed, as in `studies.two_dimensional`: `adversarial`, `given`, `kept`, of every
      point, `first_says` and `student_says` on a grid `[m, m]`, rows being y, and counts.
  """
  figure = plot_style.make_figure(12.4, 3.5)
  panels = figure.subplots(1, 4)
  kept = np.asarray(found["kept"])
  adversarial, given = found["adversarial"][kept], found["given"][kept]
  total = len(points)
  titles = (
    f"a. first net: {found['first_correct']} of {total} right",
    f"b. {len(given)} adversarial points, radius {radius:g}",
    "c. second net, trained on them alone",
    f"d. second net: {found['student_correct']} of {total} right",
  )
  grids = found["first_says"], found["first_says"], found["student_says"], found["student_says"]
  shown = ((points, labels), (adversarial, given), (adversarial, given), (points, labels))
  for panel, title, grid, (where, classes) in zip(panels, titles, grids, shown, strict=True):
    _draw_regions(panel, grid)
    for label, color in enumerate(plot_style.COLORS[:2]):
      chosen = where[np.asarray(classes) == label]
      panel.plot(*chosen.T, "o", color=color, markersize=6, markeredgecolor="white")
    panel.set_title(title, fontsize=9)
    panel.set(xlim=(-_MARGIN, 1 + _MARGIN), ylim=(-_MARGIN, 1 + _MARGIN), xticks=[0, 1])
    panel.set(yticks=[0, 1], aspect="equal")
  frame = radius * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)])
  for point in points[kept]:
    panels[1].plot(*(point + frame).T, color="0.35", linewidth=0.7)
  plot_style.save(path, figure)


def _draw_regions(panel, grid: np.ndarray) -> None:
  """What a net says on a grid of the unit square, in pale colours."""
  line = np.linspace(0, 1, len(grid))
  panel.contourf(line, line, grid, (-0.5, 0.5, 1.5), colors=plot_style.COLORS[:2], alpha=0.22)
