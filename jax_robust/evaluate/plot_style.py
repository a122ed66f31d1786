"""The look of all plots: figures without a display, axes with a grid, a colour for each method.

The colours are Okabe and Ito's, which colour-blind people can tell apart; dashes and markers tell
methods apart where colours repeat, and in greyscale.
"""

import contextlib
import contextvars
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from jax_robust.atomic import write_atomically
from jax_robust.errors import brought_by

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
_DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
_DPI = 160
_saved: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar(
  "saved", default=None
)


def make_figure(width: float, height: float):
  """A figure of so many inches that needs no display."""
  with brought_by("plots"):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

  figure = Figure(figsize=(width, height), layout="constrained")
  FigureCanvasAgg(figure)
  return figure


def make_axes(size: tuple[float, float], xlabel: str, ylabel: str, note: str = ""):
  """A figure and its only axes, with a note above them, which says what bands or bars mean."""
  figure = make_figure(*size)
  axes = figure.subplots()
  axes.set(xlabel=xlabel, ylabel=ylabel)
  axes.set_title(note, loc="right", fontsize=8, color="0.4")
  add_grid(axes)
  return figure, axes


def add_grid(axes) -> None:
  """A grid to read values from, and no frame around it."""
  axes.grid(alpha=0.25)
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)


def styled(methods: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str, Any]]:
  """Colour and dash of the line of each method, its name, and its value in `methods`."""
  for number, (method, content) in enumerate(methods.items()):
    dash = _DASHES[number // len(COLORS) % len(_DASHES)]
    style = {"color": COLORS[number % len(COLORS)], "linestyle": dash, "linewidth": 1.6}
    yield style, method, content


def darker(color: str) -> tuple[float, ...]:
  """A colour that can be read as text on white."""
  return tuple(0.65 * int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))


def save(path, figure, *, dpi: int = _DPI) -> None:
  """Writes a PNG, whole or not at all; one that is there, or a symbolic link, is replaced."""
  if (figures := _saved.get()) is not None:
    figures[pathlib.Path(path).stem] = figure
  write_atomically(path, lambda stream: figure.savefig(stream, format="png", dpi=dpi))


@contextlib.contextmanager
def collected() -> Iterator[dict[str, Any]]:
  """Yields a dictionary that gets each Matplotlib figure that is saved, by the stem of its file."""
  figures: dict[str, Any] = {}
  token = _saved.set(figures)
  try:
    yield figures
  finally:
    _saved.reset(token)


def save_with_legend(path, figure, axes, order: Any = None) -> None:
  """Names the lines beside the axes, where they cover nothing, and writes a PNG."""
  handles, names = axes.get_legend_handles_labels()
  order = range(len(names)) if order is None else order
  figure.legend(
    [handles[i] for i in order],
    [names[i] for i in order],
    loc="outside right upper",
    frameon=False,
    fontsize=9,
  )
  save(path, figure)
