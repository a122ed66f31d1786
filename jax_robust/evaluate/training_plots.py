"""Pictures of a training, drawn from its rows of metrics: exits, last layers, features, alarms."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_robust.evaluate import plot_style
from jax_robust.names import natural

_ALARM = {"color": "#B00020", "linewidth": 0.9, "alpha": 0.8}
_SIZE = 3.9, 2.5  # inches of a panel


class Panel(NamedTuple):
  """One picture: the title, the label of its axis, and the rows whose names fit a pattern.

  Attributes:
    title: above the panel.
    ylabel: beside it.
    pattern: of the names of values, the number of the exit or block as its group, if it has one.
    is_share: whether the axis goes from 0 to 100 %.
    by_depth: whether the last values are drawn over the blocks, rather than all over epochs; the
      pattern then has two groups, the line and the block.
  """

  title: str
  ylabel: str
  pattern: str
  is_share: bool = False
  by_depth: bool = False


class Run(NamedTuple):
  """A training.

  Attributes:
    rows: of its `metrics.jsonl`.
    steps_per_epoch: how many updates an epoch has; None where that is not known.
  """

  rows: Sequence[Mapping[str, Any]]
  steps_per_epoch: float | None = None


_EXITS = r"({})/(\d+)"
_KNOWN = (
  Panel("weights of each exit's last layer", "norm", r"kernel_norm_(\d+)"),
  Panel("weights of each exit's last layer", "variance", r"kernel_variance_(\d+)"),
  Panel("late exits against early ones", "largest norm, late / early", r"late_to_early"),
  Panel("detector: attack of several steps", "accuracy (%)", r"overfitting/several/(\d+)", True),
  Panel("detector: FGSM", "accuracy (%)", r"overfitting/single/(\d+)", True),
)
"""What a picture always shows, where a training measured it."""


def series_of(run: Run, pattern: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Steps and values of each name that fits a pattern, by the number in it, or by the name.

  >>> rows = [{"step": 1, "norm_0": 2.0}, {"step": 2, "loss": 0.0}]
  >>> series_of(Run(rows), r"norm_(\\d+)")["0"]
  (array([1]), array([2.]))
  """
  found: dict[str, list[tuple[int, float]]] = {}
  for row in run.rows:
    for name, value in row.items():
      match = re.fullmatch(pattern, name)
      if match and name not in ("step", "kind"):
        label = match.group(1) if match.groups() else name
        found.setdefault(label, []).append((row["step"], float(value)))
  return {
    label: (
      np.array([at for at, _ in found[label]]),
      np.array([value for _, value in found[label]]),
    )
    for label in sorted(found, key=natural)
  }


def panels_of(runs: Mapping[str, Run], kinds: Mapping[str, str]) -> list[Panel]:
  """What there is to draw of trainings.

  Args:
    runs: by name.
    kinds: the evaluator of each entry of their `evals`.
  """
  every = []
  for name, kind in kinds.items():
    stem = re.escape(name)
    if kind in ("clean_exits", "attacked_exits"):
      under = "as they are" if kind == "clean_exits" else "attacked"
      every.append(
        Panel(f"{name}: held-out images {under}", "accuracy (%)", rf"{stem}/(\d+)", True)
      )
  every += _KNOWN
  for name, kind in kinds.items():
    stem = re.escape(name)
    if kind == "feature_distance":
      for measure in ("absolute", "relative"):
        title = f"{name}: features by block"
        every.append(Panel(title, f"{measure} distance", rf"{stem}/{measure}/(\d+)"))
    elif kind == "gradient_alignment":
      every.append(Panel(f"{name}: directions", "cosine", rf"{stem}/(noise|directions)"))
  distances = [re.escape(name) for name, kind in kinds.items() if kind == "feature_distance"]
  for measure in ("absolute", "relative") if distances else ():
    pattern = rf"({'|'.join(distances)})/{measure}/(\d+)"
    title = "features by depth, last evaluation"
    every.append(Panel(title, f"{measure} distance", pattern, by_depth=True))
  return [panel for panel in every if any(series_of(run, panel.pattern) for run in runs.values())]


def draw_trainings(
  path: str | os.PathLike, runs: Mapping[str, Run], kinds: Mapping[str, str]
) -> None:
  """Draws what trainings measured, over epochs: a column for each run, a row for each panel.

  A single run's panels stand in rows of three. A red line marks an alarm of the detector of
  overfitting, with the exits and rules. Panels of one row share their axes.

  Args:
    path: of the PNG.
    runs: by name, which stands above the column.
    kinds: the evaluator of each entry of their `evals`.

  Raises:
    ValueError: no run has anything to draw.
  """
  panels = panels_of(runs, kinds)
  if not panels:
    raise ValueError(f"{', '.join(runs)}: nothing was measured of exits or blocks")
  across = len(runs) if len(runs) > 1 else min(3, len(panels))
  places = [(panel, name) for panel in panels for name in runs]
  down = -(-len(places) // across)
  figure = plot_style.make_figure(_SIZE[0] * across, _SIZE[1] * down)
  grid = figure.subplots(down, across, squeeze=False, sharey="row" if len(runs) > 1 else "none")
  for axes, place in zip(grid.flat, [*places, *[None] * (grid.size - len(places))], strict=True):
    if place is None:
      axes.set_axis_off()
      continue
    panel, name = place
    title = panel.title if len(runs) == 1 else f"{name}\n{panel.title}"
    draw = _draw_depth if panel.by_depth else _draw_panel
    draw(axes, panel, runs[name], title)
  plot_style.save(path, figure, dpi=120)


def _draw_panel(axes, panel: Panel, run: Run, title: str) -> None:
  """One panel: a line for each exit or block, and the alarms."""
  plot_style.add_grid(axes)
  scale = 1 / run.steps_per_epoch if run.steps_per_epoch else 1.0
  factor = 100 if panel.is_share else 1
  lines = series_of(run, panel.pattern)
  for style, label, (steps, values) in plot_style.styled(lines):
    name = _name_of(label, panel)
    axes.plot(steps * scale, factor * values, label=name, marker="o", markersize=2, **style)
  if panel.is_share:
    axes.set_ylim(0, 100)
  _draw_alarms(axes, run, scale)
  _label(axes, title, "epoch" if run.steps_per_epoch else "step", panel.ylabel, len(lines))


def _draw_depth(axes, panel: Panel, run: Run, title: str) -> None:
  """One panel over the blocks: a line for each attack, at the last evaluation."""
  plot_style.add_grid(axes)
  lines: dict[str, dict[int, float]] = {}
  for row in run.rows:  # later rows replace earlier ones
    for name, value in row.items():
      if match := re.fullmatch(panel.pattern, name):
        lines.setdefault(match.group(1), {})[int(match.group(2))] = float(value)
  for style, name, values in plot_style.styled(lines):
    blocks = sorted(values)
    axes.plot(blocks, [values[b] for b in blocks], label=name, marker="o", markersize=3, **style)
    axes.set_xticks(blocks)
  axes.set_ylim(bottom=0)
  _label(axes, title, "block", panel.ylabel, len(lines))


def _label(axes, title: str, xlabel: str, ylabel: str, num_lines: int) -> None:
  """What stands around a panel."""
  axes.set_title(title, fontsize=9, loc="left")
  axes.set_xlabel(xlabel, fontsize=8)
  axes.set_ylabel(ylabel, fontsize=8)
  axes.tick_params(labelsize=8)
  if num_lines > 1:
    axes.legend(frameon=False, fontsize=7, ncols=2 if num_lines > 3 else 1)


def _name_of(label: str, panel: Panel) -> str:
  """What a line is called."""
  if not label.isdigit():
    return {"noise": "gradients at x and x + noise", "directions": "FGSM and the attack"}.get(
      label, label
    )
  return f"block {label}" if "distance" in panel.ylabel else f"exit {label}"


def _draw_alarms(axes, run: Run, scale: float) -> None:
  """A line at every evaluation with an alarm; the first says which exits fell."""
  rows = [row for row in run.rows if row.get("kind") == "alarm"]
  for number, row in enumerate(rows):
    at = row["step"] * scale
    axes.axvline(at, **{**_ALARM, "alpha": _ALARM["alpha"] if number == 0 else 0.2})
    if number == 0:
      exits = sorted({name.split("/")[1] for name in row if "/" in name}, key=int)
      axes.annotate(
        f"alarm: exit {', '.join(exits)}", (at, 1), (2, -2), va="top", fontsize=7,
        color=_ALARM["color"], xycoords=("data", "axes fraction"), textcoords="offset points",
        bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1},
      )  # fmt: skip
