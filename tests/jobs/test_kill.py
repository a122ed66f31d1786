"""Runs that are really killed, at random moments, and asked to stop: nothing is lost.

The processes here are killed 9 times in the default tests and 64 times in the slow ones.
"""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from jax_robust.train import checkpoint, metrics

TINY = pathlib.Path(__file__).parent.parent / "tiny_config.py"
CONFIG = f"--config={TINY}:steps=120,save=4,evaluate=10,log=3"


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory, left_behind):
  """What an uninterrupted run leaves behind."""
  folder = tmp_path_factory.mktemp("whole") / "run"
  assert command([CONFIG, f"--workdir={folder}"]) == 0
  left = left_behind(folder)
  assert left["latest"][0] == 120 and len(left["metrics"]) == 40 + 12
  return left


def random_end(draw, number):
  """A moment up to some rows or saves from now, and up to the length of a save after that."""
  event = draw.choice(["row", "save", "save"])
  count = draw.randint(2, 6) if event == "row" else draw.randint(2, 4)
  return (number, event, count, draw.uniform(0.0, 0.08))


def killed_and_resumed(command, folder, draw, times):
  """Kills a run so many times, lets it finish, and returns the steps at which it was resumed."""
  steps = []
  for _ in range(times):
    code = command([CONFIG, f"--workdir={folder}"], random_end(draw, signal.SIGKILL))
    assert code == -signal.SIGKILL
    steps.append(newest(folder))
  assert command([CONFIG, f"--workdir={folder}"]) == 0
  return steps


def newest(folder):
  """The step of the newest checkpoint."""
  reader = checkpoint.Checkpointer(folder / "checkpoints" / "latest", read_only=True)
  step = reader.latest_step()
  reader.close()
  return step


@pytest.mark.parametrize(
  "seed, times", [(0, 8), *(pytest.param(seed, 8, marks=pytest.mark.slow) for seed in range(1, 6))]
)
def test_kill_minus_nine_loses_nothing(command, whole, left_behind, tmp_path, seed, times):
  steps = killed_and_resumed(command, tmp_path / "run", random.Random(seed), times)
  assert len({step for step in steps if step}) > 2, steps
  assert left_behind(tmp_path / "run") == whole
  kept = os.listdir(tmp_path / "run" / "checkpoints" / "latest")
  assert sorted(kept) == ["116", "120"], "what the kills left half-written is gone"


def test_asked_to_stop_it_saves_and_says_143(command, whole, left_behind, tmp_path):
  draw = random.Random(7)
  before = -1
  for _ in range(3):
    code = command([CONFIG, f"--workdir={tmp_path / 'run'}"], random_end(draw, signal.SIGTERM))
    assert code == 143
    reached = newest(tmp_path / "run")
    assert reached > before
    rows = metrics.read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert reached - 10 < rows[-1]["step"] <= reached, "the checkpoint is of the step it stopped at"
    before = reached
  assert command([CONFIG, f"--workdir={tmp_path / 'run'}"]) == 0
  assert left_behind(tmp_path / "run") == whole


class Command:
  """The command as one types it, in a process that the test watches and signals from outside."""

  def __init__(self, folder, cache):
    environment = {
      **os.environ,
      "XLA_FLAGS": "",
      "JAX_COMPILATION_CACHE_DIR": str(cache),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "PYTHONPATH": str(TINY.parent.parent),
    }
    self._file = folder / "metrics.jsonl"
    self._file.parent.mkdir(exist_ok=True)
    before = self._content()
    self.process = subprocess.Popen(
      [sys.executable, "-m", "jax_robust.main", CONFIG, f"--workdir={folder}"],
      env=environment,
      stderr=subprocess.PIPE,
      text=True,
    )
    # Its first row: the file is written anew at the start, and then grows.
    while self.process.poll() is None and not self._has_grown(before):
      time.sleep(0.005)

  def _content(self):
    """Which file it is, and how long."""
    if not self._file.exists():
      return (None, 0)
    status = self._file.stat()
    return (status.st_ino, status.st_size)

  def _has_grown(self, before):
    """Whether this process has written a row."""
    inode, size = self._content()
    if inode == before[0]:
      return False
    self._started_with = getattr(self, "_started_with", size)
    return size > self._started_with

  def end(self, number, seconds):
    """Sends a signal after a while and returns the exit code and what was printed."""
    time.sleep(seconds)
    self.process.send_signal(number)
    _, printed = self.process.communicate(timeout=300)
    return self.process.returncode, printed


def finish(folder, cache):
  """Runs the command to its end."""
  started = Command(folder, cache)
  _, printed = started.process.communicate(timeout=300)
  assert started.process.returncode == 0, printed
  return printed


def test_the_command_itself_is_stopped_killed_and_resumed(
  compilation_cache, whole, left_behind, tmp_path
):
  draw = random.Random(11)
  code, printed = Command(tmp_path / "run", compilation_cache).end(signal.SIGTERM, 0.1)
  assert code == 143 and "Traceback" not in printed
  code, printed = Command(tmp_path / "run", compilation_cache).end(
    signal.SIGKILL, draw.uniform(0, 0.2)
  )
  assert code == -signal.SIGKILL and "resuming from step" in printed
  finish(tmp_path / "run", compilation_cache)
  assert left_behind(tmp_path / "run") == whole


@pytest.mark.slow
def test_the_command_itself_is_killed_many_times(compilation_cache, whole, left_behind, tmp_path):
  draw, kills = random.Random(12), 0
  for folder in (tmp_path / str(i) for i in range(4)):
    for _ in range(6):
      code, _ = Command(folder, compilation_cache).end(signal.SIGKILL, draw.uniform(0, 0.3))
      kills += code == -signal.SIGKILL
    finish(folder, compilation_cache)
    assert left_behind(folder) == whole
  assert kills >= 20
