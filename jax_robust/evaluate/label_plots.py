"""Pictures of labels: how often each was given, and what is taken for what."""

from collections.abc import Sequence

import numpy as np

from jax_robust.evaluate import plot_style


def draw_labels_and_confusion(
  path, given: np.ndarray, confusion: np.ndarray, class_names: Sequence[str] = ()
) -> None:
  """Two panels: how often each label was given, and a confusion matrix in percent of its rows.

  Args:
    path: of the PNG.
    given: counts `[k]`.
    confusion: counts `[k, k]`, true classes in rows.
    class_names: in the order of the labels; () shows numbers.
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
  matrix.set(xlabel="predicted", ylabel="true")
  matrix.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 2 else 0)
  matrix.set_yticks(range(len(names)), names)
  for (row, column), share in np.ndenumerate(shares):
    if share >= 0.5:
      color = "white" if share > 50 else "black"
      matrix.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=color)
  matrix.set_title("% of the true class", loc="right", fontsize=8, color="0.4")
  plot_style.save(path, figure)
