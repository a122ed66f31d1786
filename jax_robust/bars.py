"""Progress bars where somebody watches: on a terminal, and in notebooks. Elsewhere there are none.

What is printed goes through `print_line`, which keeps a bar below it.
"""

import contextlib
import contextvars
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from jax_robust.errors import brought_by

_T = TypeVar("_T")
_SECONDS_BETWEEN_NOTES = 1.0
_open: contextvars.ContextVar[list["Bar"] | None] = contextvars.ContextVar("open", default=None)


def are_shown() -> bool:
  """Whether somebody watches: standard error is a terminal, or this is a notebook.

  `TQDM_DISABLE=1` in the environment says no.
  """
  if os.environ.get("TQDM_DISABLE", "").lower() not in ("", "0", "false"):
    return False
  return sys.stderr.isatty() or _is_notebook()


def _is_notebook() -> bool:
  """Whether this is the kernel of a notebook, as tqdm asks."""
  ipython = sys.modules.get("IPython")
  shell = ipython.get_ipython() if ipython else None
  return shell is not None and "IPKernelApp" in shell.config


def print_line(line: str) -> None:
  """Prints a line to standard error, at once, above a bar if there is one."""
  if are_shown():
    _tqdm().write(line, file=sys.stderr)
    sys.stderr.flush()
  else:
    print(line, file=sys.stderr, flush=True)


def _tqdm() -> Any:
  """The class that draws bars, as text or as a notebook's widget."""
  with brought_by("train"):
    from tqdm.auto import tqdm

  return tqdm


class Bar:
  """How much is done, how fast, and how long the rest takes; nothing where nobody watches.

  Args:
    name: what stands before it.
    total: how much there is to do.
    done: how much of it was done by an earlier start.
    unit: what is counted.
    stays: whether it is left on the screen in the end.

  Attributes:
    is_shown: whether somebody watches.
  """

  def __init__(
    self, name: str, total: int, *, done: int = 0, unit: str = "images", stays: bool = True
  ):
    self.is_shown = are_shown()
    self._bar: Any = None
    self._asked = 0.0
    if self.is_shown:
      self._bar = _tqdm()(
        desc=name, total=total, initial=done, unit=f" {unit}", leave=stays, dynamic_ncols=True,
        file=sys.stderr,
      )  # fmt: skip
      if (bars := _open.get()) is not None:
        bars.append(self)

  def add(self, count: int = 1, note: Callable[[], str] = str) -> None:
    """Counts so many more; `note()`, asked once a second, is what stands behind."""
    if self._bar is not None:
      now = time.monotonic()
      if note is not str and now - self._asked >= _SECONDS_BETWEEN_NOTES:
        self._asked = now
        self.note(note())
      self._bar.update(count)
      if self._bar.n >= self._bar.total:
        self.close()

  def move(self, done: int) -> None:
    """Says how much is done in all."""
    if self._bar is not None:
      self.add(done - self._bar.n)

  def note(self, text: str) -> None:
    """Sets what stands behind."""
    if self._bar is not None:
      self._bar.set_postfix_str(text, refresh=False)

  def close(self) -> None:
    """Leaves the bar as it is, or takes it from the screen."""
    if self._bar is not None:
      self._bar.close()
      self._bar = None


@contextlib.contextmanager
def closed_at_end() -> Iterator[None]:
  """Closes the bars that are opened in here, however it is left."""
  bars: list[Bar] = []
  token = _open.set(bars)
  try:
    yield
  finally:
    _open.reset(token)
    for bar in reversed(bars):
      bar.close()


def counted(
  items: Iterable[_T],
  name: str,
  total: int,
  size: Callable[[_T], int] = lambda item: 1,
  *,
  unit: str = "images",
) -> Iterator[_T]:
  """The items, with a bar that counts `size` of each once the next is asked for.

  >>> list(counted([1, 2], "items", 2))
  [1, 2]
  """
  with contextlib.closing(Bar(name, total, unit=unit, stays=False)) as bar:
    for item in items:
      yield item
      bar.add(size(item))
