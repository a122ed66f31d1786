"""The command line in a process of its own that can be killed at a given moment.

A module, not part of conftest: the process unpickles `_main` by its module's name.
"""

import functools
import multiprocessing
import os
import sys
import threading
from typing import NamedTuple

from quick_compilation import XLA_FLAGS


class Result(NamedTuple):
  """How a process ended (negative: by that signal), and what it printed."""

  code: int
  printed: str


def run_process(argv, cache, end=None, *, printed, prepare=None) -> Result:
  """Runs `main(argv)` in a process forked from one that has imported everything.

  Args:
    argv: of the command line.
    cache: folder of the compilation cache.
    end: `(what, event, count, seconds)`: the signal `what` is sent to the process, or the function
      `what` called in it, so long after its count-th event: "row" is a row of metrics, "save" the
      start of a save, "arrays" a piece of arrays, "rows" a row of results.
    printed: a file for what it prints.
    prepare: what the process calls first.

  Returns:
    The exit code and what was printed.
  """
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(["jax_robust.main", "jax_robust.jobs.train"])
  process = context.Process(target=_main, args=(list(map(str, argv)), cache, end, printed, prepare))
  process.start()
  process.join(300)
  if process.is_alive():
    process.kill()
    raise TimeoutError(f"{argv} went on for five minutes: {printed.read_text()}")
  return Result(process.exitcode, printed.read_text())


def _main(argv, cache, end, printed, prepare):
  """What the forked process does."""
  os.environ |= {"XLA_FLAGS": XLA_FLAGS, "JAX_COMPILATION_CACHE_DIR": str(cache)}
  sys.stdout = sys.stderr = printed.open("w", buffering=1)
  import jax

  from jax_robust import main
  from jax_robust.runs import pieces
  from jax_robust.train import checkpoint, metrics

  jax.config.update("jax_compilation_cache_dir", str(cache))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  if prepare is not None:
    prepare()
  if end is not None:
    what, event, count, seconds = end
    owner, name = {
      "row": (metrics.MetricsWriter, "write"),
      "save": (checkpoint.Checkpointer, "save"),
      "arrays": (pieces.Arrays, "write"),
      "rows": (pieces.Rows, "write"),
    }[event]
    act = what if callable(what) else functools.partial(os.kill, os.getpid(), what)
    _after(owner, name, count, seconds, act)
  sys.exit(main.main(argv))


def _after(owner, name, count, seconds, act):
  """Lets `act` happen so long after the count-th call of a method."""
  original, calls = getattr(owner, name), []

  @functools.wraps(original)
  def counted(*args, **kwargs):
    calls.append(None)
    result = original(*args, **kwargs)
    if len(calls) == count and not seconds:
      act()
    elif len(calls) == count:
      timer = threading.Timer(seconds, act)
      timer.daemon = True
      timer.start()
    return result

  setattr(owner, name, counted)
