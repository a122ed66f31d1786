"""Runs that are really killed, at random moments, and asked to stop: nothing is lost.

Processes are killed 5 times in the default and thorough tests and up to 64 times in the slow ones.
"""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
from rows import mostly_slow

from jax_robust.train import checkpoint, metrics


@pytest.fixture(scope="module")
def whole(trained, left_behind):
  """What an uninterrupted run leaves behind."""
  left = left_behind(trained)
  assert left["latest"][0] == 80 and len(left["metrics"]) == 27 + 8
  return left


def random_end(draw, number):
  """A moment up to some rows or saves from now, and up to the length of a save after that."""
  event, count = draw.choice([("row", 2), ("row", 5), ("save", 2), ("save", 3), ("save", 3)])
  return (number, event, count, draw.uniform(0.0, 0.06))


def killed_and_resumed(command, argv, draw, times):
  """Kills a run so many times, lets it finish, and returns the steps at which it was resumed."""
  steps = []
  for _ in range(times):
    assert command(argv, random_end(draw, signal.SIGKILL)).code == -signal.SIGKILL
    steps.append(newest(pathlib.Path(argv[-1].partition("=")[2])))
  assert command(argv).code == 0
  return steps


def newest(folder):
  """The step of the newest checkpoint."""
  reader = checkpoint.Checkpointer(folder / "checkpoints" / "latest", read_only=True)
  step = reader.latest_step()
  reader.close()
  return step


@pytest.mark.parametrize(
  ("seed", "num_kills"),
  mostly_slow([(0, 2), *((seed, 6) for seed in range(7))], (0, 2)),
)
def test_kill_minus_nine_loses_nothing(
  command, run_flag, whole, left_behind, tmp_path, seed, num_kills
):
  argv = [run_flag, f"--workdir={tmp_path / 'run'}"]
  steps = killed_and_resumed(command, argv, random.Random(seed), num_kills)
  assert len({step for step in steps if step}) > num_kills // 3, steps
  assert left_behind(tmp_path / "run") == whole
  kept = os.listdir(tmp_path / "run" / "checkpoints" / "latest")
  assert sorted(kept) == ["76", "80"], "what the kills left half-written is gone"


@pytest.mark.slow
def test_asked_to_stop_it_saves_and_says_143(command, run_flag, whole, left_behind, tmp_path):
  draw = random.Random(7)
  argv = [run_flag, f"--workdir={tmp_path / 'run'}"]
  before = -1
  for _ in range(2):
    assert command(argv, random_end(draw, signal.SIGTERM)).code == 143
    reached = newest(tmp_path / "run")
    assert reached > before
    rows = metrics.read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert reached - 10 < rows[-1]["step"] <= reached, "the checkpoint is of the step it stopped at"
    before = reached
  assert command(argv).code == 0
  assert left_behind(tmp_path / "run") == whole


class Command:
  """The command as one types it, in a process that the test watches and signals from outside."""

  def __init__(self, run_flag, folder, environment):
    self._file = folder / "metrics.jsonl"
    self._file.parent.mkdir(exist_ok=True)
    before = self._content()
    self.process = subprocess.Popen(
      [sys.executable, "-m", "jax_robust.main", run_flag, f"--workdir={folder}"],
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


def finish(*arguments):
  """Runs the command to its end."""
  started = Command(*arguments)
  _, printed = started.process.communicate(timeout=300)
  assert started.process.returncode == 0, printed
  return printed


@pytest.mark.thorough
def test_the_command_itself_is_stopped_killed_and_resumed(
  command, run_flag, environment, whole, left_behind, tmp_path
):
  what = (run_flag, tmp_path / "run", environment)
  code, printed = Command(*what).end(signal.SIGTERM, 0.05)
  assert code == 143 and "Traceback" not in printed
  code, printed = Command(*what).end(signal.SIGKILL, random.Random(11).uniform(0, 0.1))
  assert code == -signal.SIGKILL and "resuming from step" in printed
  result = command([run_flag, f"--workdir={tmp_path / 'run'}"])
  assert result.code == 0, result.printed
  assert left_behind(tmp_path / "run") == whole


@pytest.mark.slow
def test_the_command_itself_is_killed_many_times(
  run_flag, environment, whole, left_behind, tmp_path
):
  draw, kills = random.Random(12), 0
  for folder in (tmp_path / str(i) for i in range(4)):
    what = (run_flag, folder, environment)
    for _ in range(6):
      code, _ = Command(*what).end(signal.SIGKILL, draw.uniform(0, 0.3))
      kills += code == -signal.SIGKILL
    finish(*what)
    assert left_behind(folder) == whole
  assert kills >= 12
