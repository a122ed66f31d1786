"""A bar for each set of images: the shares of its nearest neighbours in each pool."""

import os
from collections.abc import Mapping

from jax_robust.evaluate import plot_style

_BAR, _MARGIN, _WIDTH = 0.34, 1.1, 7.2  # inches
_LEAST_NAMED = 0.06  # share that has room for its number


def draw_shares(
  path: str | os.PathLike, shares: Mapping[str, Mapping[str, float]], *, note: str = ""
) -> None:
  """Draws a stacked bar for each set, with dashed lines where an even split would be.

  Args:
    path: of the PNG.
    shares: of the nearest neighbours by pool, by set; all of the same pools.
    note: above the bars, such as the space in which neighbours were looked for.
  """
  size = _WIDTH, _MARGIN + _BAR * len(shares)
  figure, axes = plot_style.make_axes(size, "nearest neighbours in (% of images)", "", note)
  pools, names = list(next(iter(shares.values()))), list(shares)
  left = [0.0] * len(names)
  for pool, color in zip(pools, plot_style.COLORS, strict=False):
    widths = [100 * shares[name][pool] for name in names]
    axes.barh(names, widths, left=left, color=color, label=pool, height=0.72)
    for row, (start, width) in enumerate(zip(left, widths, strict=True)):
      if width >= 100 * _LEAST_NAMED:
        place = {"ha": "center", "va": "center", "color": "white", "fontsize": 8}
        axes.text(start + width / 2, row, f"{width:.0f}", **place)
    left = [start + width for start, width in zip(left, widths, strict=True)]
  for number in range(1, len(pools)):
    axes.axvline(100 * number / len(pools), color="black", linestyle="--", linewidth=1)
  axes.set_xlim(0, 100)
  axes.invert_yaxis()  # the first set on top
  axes.grid(visible=False)
  plot_style.save_with_legend(path, figure, axes)
