"""Pictures of labels and of what was learned from them: counts, confusions, shares of images."""

from collections.abc import Mapping, Sequence

import numpy as np

from jax_robust.evaluate import plot_style
from jax_robust.evaluate.intervals import Interval


def draw_labels_and_confusion(
  path,
  given: np.ndarray,
  confusion: np.ndarray,
  class_names: Sequence[str] = (),
  *,
  rows: str = "true",
  columns: str = "predicted",
) -> None:
  """Two panels: how often each label was given, and a confusion matrix in percent of its rows.

  Args:
    path: of the PNG.
    given: counts `[k]`.
    confusion: counts `[k, k]`, true classes in rows.
    class_names: in the order of the labels; () shows numbers.
    rows, columns: what the classes in rows and columns of the matrix are called.
  """
  names = list(class_names) or [str(k) for k in range(len(given))]
  figure = plot_style.make_figure(9.6, 4.2)
  bars, matrix = figure.subplots(1, 2)
  bars.barh(names, given, color=plot_style.COLORS[0])
  bars.invert_yaxis()
  bars.set(xlabel="images given this label", ylabel="label")
  plot_style.add_grid(bars)
  shares = 100 * confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
  matrix.imshow(shares, cmap="Blues", vmin=0, vmax=100)
  matrix.set(xlabel=columns, ylabel=rows)
  matrix.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 2 else 0)
  matrix.set_yticks(range(len(names)), names)
  for (row, column), share in np.ndenumerate(shares):
    if share >= 0.5:
      color = "white" if share > 50 else "black"
      matrix.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=color)
  matrix.set_title(f"% of the {rows} class", loc="right", fontsize=8, color="0.4")
  plot_style.save(path, figure)


def draw_labels(path, counts: Mapping[str, np.ndarray], class_names: Sequence[str] = ()) -> None:
  """How often each class is the label, in several sets side by side.

  Args:
    path: of the PNG.
    counts: `[k]`, by the name of the set.
    class_names: in the order of the labels; () shows numbers.
  """
  num_classes = len(next(iter(counts.values())))
  names = list(class_names) or [str(k) for k in range(num_classes)]
  figure, axes = plot_style.make_axes((6.4, 0.32 * num_classes + 1.4), "images", "")
  height = 0.8 / len(counts)
  for number, (name, each) in enumerate(counts.items()):
    places = np.arange(num_classes) + (number - (len(counts) - 1) / 2) * height
    axes.barh(places, each, height, color=plot_style.COLORS[number], label=f"{name}")
  axes.set_yticks(range(num_classes), names)
  axes.invert_yaxis()
  plot_style.save_with_legend(path, figure, axes)


def draw_shares(
  path,
  panels: Mapping[str, Mapping[str, Interval]],
  *,
  published: Mapping[str, Mapping[str, float]] | None = None,
  chance: float | None = None,
) -> None:
  """Shares of images as bars with their intervals, a panel for each kind of share, two in a row.

  Args:
    path: of the PNG.
    panels: by what is measured, the intervals by the name of the net.
    published: published shares, by panel and net, shown as diamonds.
    chance: a dashed line.
  """
  published = published or {}
  most = max(map(len, panels.values()))
  across = min(len(panels), 2)
  down = -(-len(panels) // across)
  figure = plot_style.make_figure(5.2 * across, (0.42 * most + 0.9) * down + 0.6)
  found = np.ravel(figure.subplots(down, across))
  for axes in found[len(panels) :]:
    axes.remove()
  found = found[: len(panels)]
  for axes, (measure, shares) in zip(found, panels.items(), strict=True):
    values = np.array([100 * each.value for each in shares.values()])
    low, high = (100 * np.array([getattr(each, end) for each in shares.values()])
                 for end in ("low", "high"))  # fmt: skip
    axes.barh(range(len(shares)), values, 0.62, color=plot_style.COLORS[0], alpha=0.75)
    axes.errorbar(
      values, range(len(shares)), xerr=[values - low, high - values], fmt="none", ecolor="black",
      capsize=3, label="95 % interval",
    )  # fmt: skip
    theirs = published.get(measure, {})
    places = [place for place, name in enumerate(shares) if name in theirs]
    if places:
      axes.plot(
        [100 * theirs[name] for name in shares if name in theirs], places, "D",
        color=plot_style.COLORS[1], markersize=6, label="published",
      )  # fmt: skip
    if chance is not None:
      axes.axvline(100 * chance, color="0.35", linestyle="--", linewidth=1, label="chance")
    axes.set_yticks(range(len(shares)), list(shares))
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel=f"{measure}, %")
    plot_style.add_grid(axes)
  named = {}
  for axes in found:
    handles, names = axes.get_legend_handles_labels()
    named.update(zip(names, handles, strict=True))
  figure.legend(
    list(named.values()), list(named), loc="outside upper right", ncols=3, frameon=False, fontsize=8
  )
  plot_style.save(path, figure)


def draw_confidences(path, confidences: Mapping[str, np.ndarray], note: str = "") -> None:
  """Histograms of a classifier's confidences, one over the other.

  Args:
    path: of the PNG.
    confidences: numbers in [0, 1], `[n]`, by the name of the images.
    note: above the picture.
  """
  figure, axes = plot_style.make_axes((6.4, 3.4), "confidence", "images", note)
  edges = np.linspace(0, 1, 41)
  for style, name, values in plot_style.styled(confidences):
    text = f"{name}: {len(values):,}"
    axes.hist(values, edges, histtype="step", label=text, **style)
  axes.set_xlim(0, 1)
  plot_style.save_with_legend(path, figure, axes)
