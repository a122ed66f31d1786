"""A training with trackers, in a process that can be killed, for the tests of real trackers."""

import os
import pathlib
import signal
import subprocess
import sys
import time

from jax_robust.train import metrics

ROOT = pathlib.Path(__file__).parents[2]
TINY = f"{ROOT / 'tests' / 'tiny_config.py'}:steps=60,save=4,evaluate=10,log=3"


def start(folder, *flags, environment):
  """The command line in a process of its own; `flags` are keys of the config."""
  config = folder / "config.json"
  argv = [f"--config={config if config.exists() else TINY}", f"--workdir={folder}"]
  argv += [f"--config.{flag}" for flag in flags]
  with (folder.parent / "printed.txt").open("a") as printed:
    return subprocess.Popen(
      [sys.executable, "-m", "jax_robust.main", *argv],
      env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
      stdout=printed,
      stderr=subprocess.STDOUT,
    )


def run(folder, *flags, environment):
  """The exit code of the command line."""
  return start(folder, *flags, environment=environment).wait(300)


def kill_after(num_rows, process, folder):
  """Kills a training once it has written so many rows."""
  until = time.monotonic() + 240
  while time.monotonic() < until and process.poll() is None:
    if (folder / "metrics.jsonl").exists() and len(rows_of(folder)) >= num_rows:
      break
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.wait()


def rows_of(folder):
  return metrics.read_metrics(folder / "metrics.jsonl")


def series(folder, kind, name):
  """(step, value) of a metric."""
  return [(row["step"], row[name]) for row in rows_of(folder) if row["kind"] == kind]
