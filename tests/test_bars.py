"""Progress bars: on a terminal and in notebooks, above which lines stand; plain lines elsewhere."""

import contextlib
import fcntl
import io
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
import types
import warnings

import pytest

from jax_robust import bars, main
from jax_robust.errors import ConfigError
from jax_robust.runs import progress
from jax_robust.train import metrics

pytestmark = pytest.mark.fast


class Terminal(io.StringIO):
  """Standard error as a terminal."""

  def isatty(self):
    return True


@contextlib.contextmanager
def watched():
  """Standard error is a terminal in here; a fixture's would be replaced by pytest."""
  before, sys.stderr = sys.stderr, Terminal()
  try:
    yield sys.stderr
  finally:
    sys.stderr = before


def screen(text):
  """What is left on a screen of what was drawn over each other."""
  rows, row, column = [""], 0, 0
  for each in text.replace("\x1b[A", "\v"):
    if each in "\n\v":  # the cursor goes down or up
      row += 1 if each == "\n" else -1
      rows += [""] * (row + 1 - len(rows))
      column = 0 if each == "\n" else column
    elif each == "\r":
      column = 0
    else:
      rows[row] = rows[row][:column].ljust(column) + each + rows[row][column + 1 :]
      column += 1
  return [each.rstrip() for each in rows]


def test_a_job_shows_a_bar_and_lines_stand_above_it():
  with watched() as terminal:
    line = progress.ProgressLine("certify", 100, done=20)
    line.add(30, lambda: "acr 0.5")
    metrics.report("something to say")
    line.add(50, lambda: "acr 0.6")
  rows = screen(terminal.getvalue())
  assert rows[0] == "certify: 20 of 100 images are there already"
  assert rows[1] == "something to say"
  assert rows[2].startswith("certify: 100%") and "100/100" in rows[2] and "images/s" in rows[2]
  assert "acr 0.5" in rows[2] and "<00:00" in rows[2]


@pytest.mark.parametrize("silenced", [False, True])
def test_plain_lines_where_nobody_watches(monkeypatch, capsys, silenced):
  if silenced:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TQDM_DISABLE", "1")
  monkeypatch.setitem(sys.modules, "tqdm", None)  # not even imported
  assert not bars.are_shown()
  line = progress.ProgressLine("certify", 100)
  line.add(100, lambda: "acr 0.5")
  assert list(bars.counted("ab", "letters", 2)) == ["a", "b"]
  printed = sys.stderr.getvalue() if silenced else capsys.readouterr().err
  assert printed.startswith("certify: 100/100  ") and printed.endswith("  acr 0.5\n")
  assert printed.count("\n") == 1 and "\r" not in printed


def test_a_notebook_is_somebody_who_watches(monkeypatch):
  shell = types.SimpleNamespace(config={"IPKernelApp": {}})
  ipython = types.SimpleNamespace(get_ipython=lambda: shell)
  monkeypatch.setitem(sys.modules, "IPython", ipython)
  assert bars.are_shown()
  shell.config.clear()  # IPython in a terminal
  assert not bars.are_shown()
  ipython.get_ipython = lambda: None
  assert not bars.are_shown()


def test_bars_are_closed_however_a_job_ends():
  with watched() as terminal, pytest.raises(ConfigError), bars.closed_at_end():
    outer = bars.Bar("outer", 3)
    with bars.closed_at_end():
      inner = bars.Bar("inner", 3, stays=False)
      inner.add()
    assert inner._bar is None and outer._bar is not None
    outer.add()
    raise ConfigError("no")
  assert outer._bar is None
  outer.add()  # does nothing more
  rows = screen(terminal.getvalue())
  assert any(row.startswith("outer:  33%") for row in rows)
  assert not any("inner" in row for row in rows)


def test_what_is_logged_and_warned_stands_above():
  root = logging.getLogger()
  before, root.handlers = root.handlers, []
  try:
    with watched() as terminal, warnings.catch_warnings():
      warnings.simplefilter("always")
      main._set_up_logging()
      with contextlib.closing(bars.Bar("evaluating", 2)) as bar:
        logging.getLogger("jax_robust").info("known")
        warnings.warn("careful", stacklevel=1)
        bar.add(1)
  finally:
    root.handlers = before
    logging.captureWarnings(False)
  rows = screen(terminal.getvalue())
  assert rows[0] == "INFO jax_robust: known" and "careful" in rows[1]
  assert rows[-2].startswith("evaluating:  50%")


def test_a_real_terminal_sees_the_bar():
  """A process whose standard error is a pseudo-terminal."""
  code = "from jax_robust import bars\nfor _ in bars.counted(range(3), 'images', 3): pass\n"
  code += "bars.Bar('whole', 2).add(2)"
  ours, theirs = pty.openpty()
  fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
  process = subprocess.run([sys.executable, "-c", code], stderr=theirs, stdout=theirs)
  os.close(theirs)
  seen = b""
  with contextlib.suppress(OSError):
    while part := os.read(ours, 4096):
      seen += part
  os.close(ours)
  assert process.returncode == 0 and b"whole: 100%" in seen and b"2/2" in seen
  assert b"images" in seen
