"""A run of a second, as a config, as a command, and in a process of its own that can be killed."""

import contextlib
import fcntl
import functools
import os
import pathlib
import shutil

import pytest
import two_exits
from forked import run_process
from one_device import on_one_device, one_device  # noqa: F401
from quick_compilation import XLA_FLAGS

from jax_robust import config as config_lib
from jax_robust import jobs
from jax_robust.runs import pieces

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
def common(tmp_path_factory):
  """A folder that all workers of pytest-xdist share."""
  root = tmp_path_factory.getbasetemp()
  root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
  (root / "jobs").mkdir(exist_ok=True)
  return root / "jobs"


@pytest.fixture(scope="session")
def compilation_cache(common):
  """A folder in which processes that do the same find what the first has compiled."""
  (common / "xla").mkdir(exist_ok=True)
  return common / "xla"


@pytest.fixture(scope="session")
def environment(compilation_cache):
  """The environment of a process started afresh that computes what the forked ones do."""
  return {
    **os.environ,
    "XLA_FLAGS": XLA_FLAGS,
    "JAX_COMPILATION_CACHE_DIR": str(compilation_cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "PYTHONPATH": str(TINY.parent.parent),
  }


@contextlib.contextmanager
def alone(common, name):
  """The folder of that name, while no other worker is in here."""
  folder = common / name
  folder.mkdir(exist_ok=True)
  with (common / f"{name}.lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield folder


@pytest.fixture(scope="session")
def trained(common, compilation_cache):
  """The workdir of a finished run of 80 steps: look, don't touch."""
  with alone(common, "trained") as place:
    folder = place / "run"
    if not (folder / "results").exists():
      argv = [f"--config={RUN}", f"--workdir={folder}"]
      result = run_process(argv, compilation_cache, printed=common / "trained.txt")
      assert result.code == 0, result.printed
  return folder


@pytest.fixture(scope="session")
def known():
  """`model.name='two_exits'`, a net with two exits, for the tests that ask for it."""
  with two_exits.known():
    yield


@pytest.fixture(scope="session")
def make_two_exits(tiny, known):
  """`make(job, **changes)`: a config of a net with two exits, trained for two steps."""

  def make(job="train", **changes):
    small = {f"early_exit__{key}": value for key, value in two_exits.SMALL.items()}
    config = tiny("steps=2,save=2,evaluate=2", model={"name": "two_exits"}, **{**small, **changes})
    config.job = job
    return config

  return make


@pytest.fixture(scope="session")
def run_two_exits(common, make_two_exits):
  """The workdir of a TRADES training of that net, with the results of both jobs on exits."""
  with alone(common, "two_exits") as place:
    folder = place / "run"
    if not (place / "done").exists():
      with one_device():
        for job in ("train", "early_exit", "exit_attacks"):
          jobs.run(make_two_exits(job), folder)
      (place / "done").touch()
  return folder


@pytest.fixture
def copy(trained, tmp_path):
  """A copy of that workdir."""
  return pathlib.Path(shutil.copytree(trained, tmp_path / "copy"))


@pytest.fixture(scope="session")
def run_flag():
  """The flag that names the config of the finished run."""
  return f"--config={RUN}"


@pytest.fixture(scope="session")
def command(compilation_cache, tmp_path_factory):
  """`command(argv, end=None)`: runs the command line in a process; see `run_process`."""
  printed = tmp_path_factory.mktemp("printed") / "text"
  return functools.partial(_run, compilation_cache, printed)


def _run(cache, printed, argv, end=None, prepare=None):
  """`run_process` with the arguments in the order that tests give them."""
  return run_process(argv, cache, end, printed=printed, prepare=prepare)


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


@pytest.fixture
def stop_after(monkeypatch):
  """`stop_after(num)`: stops a job once, behind so many pieces; returns those that it writes."""

  def stop_after(num):
    write, written, stopped = pieces.Arrays._write, [], []

    def write_or_stop(store, content):
      if len(written) == num and not stopped:
        stopped.append(True)
        raise KeyboardInterrupt
      written.append(content)
      write(store, content)

    monkeypatch.setattr(pieces.Arrays, "_write", write_or_stop)
    return written

  return stop_after
