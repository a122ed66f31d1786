"""Plots of attacked images and of robust accuracy over the attack's radius."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jax_robust.evaluate import plot_style

PICTURED = 6
"""How many images a picture shows."""


class Example(NamedTuple):
  """One attacked image: pixels in [0, 1] `[h, w, c]`, its label, probabilities before and after."""

  x: np.ndarray
  x_adv: np.ndarray
  label: int
  probs: np.ndarray
  probs_adv: np.ndarray


class Curve(NamedTuple):
  """Robust accuracy, with its interval, over attack radii."""

  eps: Sequence[float]
  robust: Sequence[float]
  low: Sequence[float]
  high: Sequence[float]


def draw_evaluation(
  path: str | os.PathLike,
  examples: Mapping[str, Sequence[Example]],
  curves: Mapping[str, Curve],
  *,
  eps: float,
  norm: str,
  class_names: Sequence[str] = (),
) -> None:
  """Draws attacked images, a block of rows for each net, and robust accuracy against eps.

  A block has three rows: the images, the perturbations (grey is none; scaled so that ±eps, or the
  largest entry where the ball is no cube, fills the range), and the attacked images. Class and
  confidence stand below, red where wrong.

  Args:
    path: of the PNG.
    examples: by the net's name, at least one each.
    curves: by the net's name.
    eps: radius that the examples were attacked with.
    norm: of the ball, for the axis.
    class_names: what the classes are called, in the order of the labels; by their numbers for ().
  """
  columns = max(len(rows) for rows in examples.values())
  height = 3 * len(examples)
  pictures = 1.25 * columns + 1.4  # inches, the names at the left included
  figure = plot_style.make_figure(pictures + 5.2, 1.45 * height + 0.6)
  left, right = figure.subfigures(1, 2, width_ratios=(pictures, 5.2))
  grid = left.subplots(height, columns, squeeze=False)
  for axes in grid.flat:
    axes.set_axis_off()
    axes.set_anchor("E")  # a narrower image moves away from the names at its left
  for block, (name, rows) in enumerate(examples.items()):
    for column, example in enumerate(rows):
      _draw_column(
        grid[3 * block : 3 * block + 3, column],
        example,
        eps if norm == "linf" else None,
        class_names,
      )
    for row, title in enumerate((f"{name}\nclean", "perturbation", "attacked")):
      _write(grid[3 * block + row, 0], title, at=(0, 0.5), offset=(-6, 0), fontsize=9)
  _draw_curves(right.subplots(), curves, eps, norm)
  plot_style.save(path, figure, dpi=110)


def _draw_column(axes, example: Example, scale: float | None, class_names) -> None:
  """One image: clean, its perturbation, attacked."""
  delta = example.x_adv - example.x
  scale = scale or float(np.abs(delta).max()) or 1.0
  shown = (example.x, np.clip(0.5 + delta / (2 * scale), 0, 1), example.x_adv)
  for panel, image in zip(axes, shown, strict=True):
    panel.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
  for panel, probs in ((axes[0], example.probs), (axes[2], example.probs_adv)):
    guess = int(np.argmax(probs))
    color = "black" if guess == example.label else "tab:red"
    text = f"{name_of(guess, class_names)}  {probs[guess]:.0%}"
    _write(panel, text, at=(0.5, 0), offset=(0, -3), fontsize=8, color=color)


def name_of(label: int, class_names: Sequence[str]) -> str:
  """What a picture calls a class: its name, cut where it is long, or else its number.

  >>> name_of(1, ["cat", "dog"]), name_of(1, [])
  ('dog', '1')
  """
  if label >= len(class_names):
    return str(label)
  name = "".join(c if c.isprintable() else "?" for c in class_names[label]).replace("$", r"\$")
  return name if len(name) <= 14 else f"{name[:13]}…"


def _write(axes, text: str, *, at, offset, **style) -> None:
  """Writes beside a panel: from a point of it, in axes fractions, away by points."""
  across, down = offset
  axes.annotate(
    text,
    at,
    offset,
    xycoords="axes fraction",
    textcoords="offset points",
    ha="right" if across else "center",
    va="top" if down else "center",
    **style,
  )


def _draw_curves(axes, curves: Mapping[str, Curve], eps: float, norm: str) -> None:
  """Robust accuracy against eps, with bands."""
  for name, curve in curves.items():
    (line,) = axes.plot(curve.eps, curve.robust, marker="o", markersize=3, label=name)
    axes.fill_between(curve.eps, curve.low, curve.high, color=line.get_color(), alpha=0.15)
  axes.axvline(eps, color="0.6", linewidth=0.8, linestyle="--")
  symbol = {"linf": r"$\ell_\infty$", "l2": r"$\ell_2$", "l1": r"$\ell_1$"}.get(norm, norm)
  axes.set(xlabel=f"attack radius eps ({symbol})", ylabel="accuracy under attack", ylim=(0, 1.02))
  axes.set_xlim(left=0)
  axes.grid(alpha=0.25)
  axes.legend(frameon=False)
