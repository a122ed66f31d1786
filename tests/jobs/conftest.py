"""A run of a second, as a config, as a command, and in a process of its own that can be killed."""

import functools
import multiprocessing
import os
import pathlib
import shutil
import sys
import threading
from typing import NamedTuple

import pytest

from jax_robust import config as config_lib

TINY = pathlib.Path(__file__).parent.parent / "tiny_config.py"
RUN = f"{TINY}:steps=80,save=4,evaluate=10,log=3"


def make_tiny(arg="", **changes):
  """The tiny config; `changes` are keys with `__` for the dots, and Python values."""
  config = config_lib.load(f"{TINY}:{arg}")
  for key, value in changes.items():
    *parents, name = key.split("__")
    block = functools.reduce(lambda block, parent: block[parent], parents, config)
    with block.ignore_type():
      block[name] = value
  return config


@pytest.fixture(scope="session")
def tiny():
  """`tiny(arg, **changes)`: the tiny config, `a__b=1` changing `a.b`."""
  return make_tiny


@pytest.fixture(scope="session")
def compilation_cache(tmp_path_factory):
  """A folder in which processes that do the same find what the first has compiled."""
  return tmp_path_factory.mktemp("xla")


@pytest.fixture(scope="session")
def trained(tmp_path_factory, compilation_cache):
  """The workdir of a finished run of 80 steps: look, don't touch."""
  folder = tmp_path_factory.mktemp("trained") / "run"
  result = run_process([f"--config={RUN}", f"--workdir={folder}"], compilation_cache)
  assert result.code == 0, result.printed
  return folder


@pytest.fixture
def copy(trained, tmp_path):
  """A copy of that workdir."""
  return pathlib.Path(shutil.copytree(trained, tmp_path / "copy"))


@pytest.fixture(scope="session")
def run_flag():
  """The flag that names the config of the finished run."""
  return f"--config={RUN}"


class Result(NamedTuple):
  """How a process ended (negative: by that signal), and what it printed."""

  code: int
  printed: str


@pytest.fixture(scope="session")
def command(compilation_cache):
  """`command(argv, end=None)`: runs the command line in a process; see `run_process`."""
  return lambda argv, end=None: run_process(argv, compilation_cache, end)


def run_process(argv, cache, end=None) -> Result:
  """Runs `main(argv)` in a process forked from one that has imported everything.

  Args:
    argv: of the command line.
    cache: folder of the compilation cache.
    end: `(what, "row" or "save", count, seconds)`: the signal `what` is sent to the process, or the
      function `what` called in it, so long after its count-th row of metrics, or after the start of
      its count-th save.

  Returns:
    The exit code and what was printed.
  """
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(["jax_robust.main", "jax_robust.jobs.train"])
  printed = cache / "printed.txt"
  process = context.Process(target=_main, args=(list(map(str, argv)), cache, end, printed))
  process.start()
  process.join(300)
  if process.is_alive():
    process.kill()
    raise TimeoutError(f"{argv} went on for five minutes: {printed.read_text()}")
  return Result(process.exitcode, printed.read_text())


def _main(argv, cache, end, printed):
  """What the forked process does."""
  os.environ |= {"XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(cache)}
  sys.stdout = sys.stderr = printed.open("w", buffering=1)
  import jax

  from jax_robust import main
  from jax_robust.train import checkpoint, metrics

  jax.config.update("jax_compilation_cache_dir", str(cache))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  if end is not None:
    what, event, count, seconds = end
    owner, name = {
      "row": (metrics.MetricsWriter, "write"),
      "save": (checkpoint.Checkpointer, "save"),
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


def everything_left(workdir):
  """Every array, number and name in a workdir that two equal runs must share."""
  from jax_robust.train import checkpoint, metrics, state

  found = {}
  for kind in checkpoint.KINDS:
    reader = checkpoint.Checkpointer(workdir / "checkpoints" / kind, read_only=True)
    arrays, info = reader.read(state.TrainState._fields)
    found[kind] = (
      reader.latest_step(), info, {name: (a.dtype.name, a.tobytes()) for name, a in arrays.items()}
    )  # fmt: skip
    reader.close()
  found["metrics"] = [
    {name: value for name, value in row.items() if not name.startswith("time/")}
    for row in metrics.read_metrics(workdir / "metrics.jsonl")
  ]
  return found


@pytest.fixture(scope="session")
def left_behind():
  """`left_behind(workdir)`: every array, number and name that two equal runs must share."""
  return everything_left
