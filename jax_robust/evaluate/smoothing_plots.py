"""Plots of smoothed classifiers, drawn from logs and arrays: radii, probabilities, calibration."""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jax_robust.evaluate import plot_style
from jax_robust.evaluate.plot_labels import place_labels
from jax_robust.smoothing import calibration, curves
from jax_robust.smoothing.log import CertifyLog
from jax_robust.smoothing.rounding import round_down

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
_END = {"marker": "o", "markevery": [-1], "markersize": 4, "clip_on": False}
_BAND = {"alpha": 0.18, "linewidth": 0}


class Run(NamedTuple):
  """One point of the trade-off between clean accuracy and average radius.

  Attributes:
    clean: accuracy of the smoothed classifier.
    average_radius: ACR.
    label: the option that distinguishes it from the method's other runs, such as `η = 5`.
    clean_interval: ends of the interval, where it is known.
    radius_interval: ends of the interval, where it is known.
  """

  clean: float
  average_radius: float
  label: str = ""
  clean_interval: tuple[float, float] | None = None
  radius_interval: tuple[float, float] | None = None


def run_of(log: CertifyLog, label: str = "") -> Run:
  """The point of a log, with 95 % intervals over images."""
  band = curves.certified_accuracy_band(log, 0.0)
  estimate = curves.estimate_average_radius(log)
  return Run(
    clean=float(band.value[0]),
    average_radius=estimate.value,
    label=label,
    clean_interval=(float(band.low[0]), float(band.high[0])),
    radius_interval=(estimate.low, estimate.high),
  )


def draw_certified_accuracy(path: str | os.PathLike, logs: Mapping[str, CertifyLog]) -> None:
  """Draws certified accuracy against the radius, with 95 % intervals and each method's ACR.

  A curve ends with a dot at its largest radius. Names stand in the order of the averages.

  Args:
    path: of the PNG.
    logs: by method.
  """
  figure, axes = plot_style.make_axes(
    (7.6, 4.2), r"$\ell_2$ radius", "certified accuracy (%)", "bands: 95 % intervals"
  )
  averages = []
  for style, method, log in plot_style.styled(logs):
    largest = float(log.radius.max(initial=0.0))
    points = np.union1d(np.linspace(0.0, largest, 401), log.radius[log.correct])
    band = curves.certified_accuracy_band(log, points)
    averages.append(curves.average_certified_radius(log))
    name = f"{method}\nACR {round_down(averages[-1], 3)}"
    axes.plot(points, 100 * band.value, label=name, **_END, **style)
    axes.fill_between(points, 100 * band.low, 100 * band.high, color=style["color"], **_BAND)
    fall = [100 * band.value[-1], 0]
    axes.plot([largest] * 2, fall, color=style["color"], linestyle=":", linewidth=1)
  axes.set_xlim(left=0)
  axes.set_ylim(0, 100)
  plot_style.save_with_legend(path, figure, axes, np.argsort(averages)[::-1])


def draw_probabilities(
  path: str | os.PathLike, logs: Mapping[str, CertifyLog], sigmas: Mapping[str, float]
) -> None:
  """Draws the empirical distribution of p_A, on an axis that opens towards 1.

  A curve ends with a dot where the number of samples allows no more.

  Args:
    path: of the PNG.
    logs: by method.
    sigmas: noise of each method's log.
  """
  figure, axes = plot_style.make_axes(
    (7.6, 4.2),
    r"$p_A$: probability of the true class under the noise, lower bound",
    r"images with a smaller $p_A$ (%)",
  )
  most, heights = 0.5, []
  for style, method, log in plot_style.styled(logs):
    largest = float(curves.probability_lower_bounds(log, sigmas[method]).max(initial=0.5))
    points = 1.0 / (1.0 + np.exp(-np.linspace(0.0, math.log(largest / (1 - largest)), 401)))
    share = curves.probability_distribution(log, sigmas[method], np.minimum(points, largest))
    axes.plot(points, 100 * share, label=method, **_END, **style)
    most = max(most, largest)
    heights.append(share.mean())
  axes.set_xscale("logit")
  ticks = (0.5, 0.7, 0.9, 0.97, 0.99, 0.999, 0.9999, 0.99999)
  axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
  axes.minorticks_off()
  axes.set_xlim(0.5, 1 - 0.7 * (1 - most))
  axes.set_ylim(0, 100)
  plot_style.save_with_legend(path, figure, axes, np.argsort(heights)[::-1])


def draw_trade_off(path: str | os.PathLike, methods: Mapping[str, Sequence[Run]]) -> None:
  """Draws clean accuracy against the average radius: a line joins the runs of a method.

  Args:
    path: of the PNG.
    methods: runs by method, in the order of the option that they differ in.
  """
  has_bars = any(r.clean_interval or r.radius_interval for runs in methods.values() for r in runs)
  figure, axes = plot_style.make_axes(
    (6.2, 4.6),
    "clean accuracy of the smoothed classifier (%)",
    "average certified radius",
    "bars: 95 % intervals" if has_bars else "",
  )
  texts, lines = [], []
  for marker, (style, method, runs) in zip(
    itertools.cycle(_MARKERS), plot_style.styled(methods), strict=False
  ):
    clean = [100 * run.clean for run in runs]
    radius = [run.average_radius for run in runs]
    axes.plot(clean, radius, marker=marker, markersize=6, **style)
    lines.append((clean, radius))
    for x, y, run in zip(clean, radius, runs, strict=True):
      for ends in _bars(x, y, run):
        axes.plot(*ends, color=style["color"], alpha=0.35, linewidth=1)
        lines.append(ends)
      name = ", ".join(filter(None, [method if run is runs[0] else "", run.label]))
      texts.append(axes.text(x, y, name, color=plot_style.darker(style["color"]), fontsize=9))
  axes.margins(0.12)
  place_labels(figure, axes, texts, lines)
  plot_style.save(path, figure)


def draw_reliability(
  path: str | os.PathLike,
  votes: Mapping[str, tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]],
  *,
  num_bins: int = 15,
) -> None:
  """Draws reliability diagrams, one panel a method: accuracy by confidence, and how common it is.

  Args:
    path: of the PNG.
    votes: by method, the share of votes for the predicted class and whether it is right, `[n]`.
    num_bins: bins of equal width in [0, 1].
  """
  figure = plot_style.make_figure(2.8 * len(votes) + 0.7, 4.2)
  panels = figure.subplots(
    2, len(votes), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1)
  )
  for column, (style, method, (confidence, correct)) in enumerate(plot_style.styled(votes)):
    bins = calibration.reliability(confidence, correct, num_bins)
    error = calibration.expected_calibration_error(confidence, correct, num_bins)
    _draw_bins(panels[:, column], bins, style["color"])
    panels[0, column].set_title(f"{method}\nECE {error:.3f}", fontsize=10)
    panels[1, column].set_xlabel("confidence (share of votes)")
  panels[0, 0].set_ylabel("accuracy")
  panels[1, 0].set_ylabel("images (%)")
  plot_style.save(path, figure)


def draw_confidence_path(
  path: str | os.PathLike,
  confidences: Mapping[str, Float[np.ndarray, "n p"]],
  positions: Sequence[float] | Float[np.ndarray, " p"] | None = None,
) -> None:
  """Draws smoothed confidence in the true class on the way from images to their adversarial points.

  A curve is the mean over images; its band holds the middle half of them.

  Args:
    path: of the PNG.
    confidences: by method, of each image at each point of its way, `[n, p]`.
    positions: of the points on the way, `[p]`, from 0, the image, to 1, its adversarial point;
      None: at equal distances.
  """
  figure, axes = plot_style.make_axes(
    (6.4, 4.0),
    "position on the way",
    "smoothed confidence in the true class",
    "curves: mean, bands: middle half of the images",
  )
  for style, method, values in plot_style.styled(confidences):
    values = np.asarray(values)
    at = np.linspace(0.0, 1.0, values.shape[1]) if positions is None else np.asarray(positions)
    low, high = np.quantile(values, (0.25, 0.75), axis=0)
    axes.plot(at, values.mean(axis=0), label=method, **style)
    axes.fill_between(at, low, high, color=style["color"], **_BAND)
  axes.set_xticks((0, 0.25, 0.5, 0.75, 1), ("0\nimage", ".25", ".5", ".75", "1\nadversarial"))
  axes.set_xlim(0, 1)
  axes.set_ylim(0, 1)
  plot_style.save_with_legend(path, figure, axes)


def _draw_bins(panels, bins: calibration.Reliability, color: str) -> None:
  """A reliability diagram, and the histogram of confidence below it."""
  top, bottom = panels
  width = bins.edges[1]
  middles = bins.edges[:-1] + width / 2
  full = bins.count > 0
  top.plot([0, 1], [0, 1], color="0.5", linewidth=0.8, linestyle="--")
  reach = np.stack([bins.accuracy - bins.low, bins.high - bins.accuracy])[:, full]
  top.errorbar(
    bins.confidence[full], bins.accuracy[full], reach, color=color, marker="o", markersize=4
  )
  bottom.bar(middles, 100 * bins.count / bins.count.sum(), 0.9 * width, color=color)
  top.set_ylim(0, 1.02)
  top.set_xlim(0, 1.02)
  for axis in (top.xaxis, top.yaxis):
    axis.set_ticks((0, 0.25, 0.5, 0.75, 1), ("0", ".25", ".5", ".75", "1"))
  for axes in panels:
    plot_style.add_grid(axes)


def _bars(x: float, y: float, run: Run) -> list[tuple[list[float], list[float]]]:
  """The lines of a point's intervals, where they are known."""
  bars = []
  if run.clean_interval:
    bars.append(([100 * end for end in run.clean_interval], [y, y]))
  if run.radius_interval:
    bars.append(([x, x], list(run.radius_interval)))
  return bars
