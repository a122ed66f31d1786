"""Pictures of images in rows, a row for each way in which they were changed."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jax_robust.evaluate import plot_style
from jax_robust.evaluate.attack_plots import name_of


class ImageRow(NamedTuple):
  """Images uint8 `[n, h, w, c]` and their labels `[n]`."""

  images: np.ndarray
  labels: np.ndarray


def draw_image_rows(
  path: str | os.PathLike, rows: Mapping[str, ImageRow], *, class_names: Sequence[str] = ()
) -> None:
  """Draws rows of images, the name of a row at its left, the label of each image below it.

  Args:
    path: of the PNG.
    rows: by name, all of as many images.
    class_names: in the order of the labels; () shows numbers.

  Raises:
    ValueError: no row, or rows of different lengths.
  """
  lengths = {name: len(row.images) for name, row in rows.items()}
  if len({*lengths.values()}) != 1 or 0 in lengths.values():
    raise ValueError(f"rows have lengths {lengths}: expected one or more rows of as many images")
  columns = next(iter(lengths.values()))
  figure = plot_style.make_figure(1.05 * columns + 1.0, 1.25 * len(rows) + 0.2)
  grid = figure.subplots(len(rows), columns, squeeze=False)
  for panels, (name, row) in zip(grid, rows.items(), strict=True):
    panels[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    for panel, image, label in zip(panels, row.images, row.labels, strict=True):
      panel.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
      panel.set_xlabel(name_of(int(label), class_names), fontsize=8, labelpad=2)
      panel.set(xticks=(), yticks=())
      panel.spines[:].set_visible(False)
  plot_style.save(path, figure, dpi=110)
