"""Benchmarks of several sides: a process each, told to do one piece of work in turns."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
TORCH_PYTHON = os.environ.get("JAX_ROBUST_TORCH_PYTHON", sys.executable)
PLATFORM = os.environ.get("JAX_PLATFORMS", "cpu")


def has_torch(*others: str) -> bool:
  """Whether the Python of the other side has PyTorch, and other packages."""
  command = [TORCH_PYTHON, "-c", f"import {', '.join(('torch', *others))}"]
  return not subprocess.run(command, capture_output=True).returncode


def need_torch(*others: str) -> None:
  """Skips a test where the Python of the other side lacks PyTorch, or one of the other packages."""
  if not has_torch(*others):
    lacks = f"lacks torch or {', '.join(others)}" if others else "has no torch"
    pytest.skip(f"{TORCH_PYTHON} {lacks}: set JAX_ROBUST_TORCH_PYTHON to a Python that has it")


def environment(**changes: str) -> dict[str, str]:
  """That of a side: of an ordinary run, not of the test suite; with changes."""
  env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "JAX_PLATFORMS": PLATFORM, **changes}
  env.pop("XLA_FLAGS", None)  # the suite's eight virtual devices
  env.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # as launch/local.sh
  env["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[1]), env.get("PYTHONPATH", "")])
  return env


class Side:
  """One process; `step()` does one piece of work and returns its measurements."""

  def __init__(self, python, script, *flags, cores):
    env = environment(JAX_NUM_CPU_DEVICES=str(len(cores)))  # as `main` sets it
    self.process = subprocess.Popen(
      [python, str(HERE / script), *flags],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=env,
      preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )

  def read(self):
    """The next line of measurements; raises where the process ended instead."""
    line = self.process.stdout.readline()
    if not line:
      raise RuntimeError(f"{self.process.args} ended with status {self.process.wait()}")
    return json.loads(line)

  def step(self):
    """Asks for one piece of work and waits for it."""
    self.process.stdin.write("\n")
    self.process.stdin.flush()
    return self.read()

  def close(self):
    """Ends the process."""
    self.process.stdin.close()
    self.process.kill()
    self.process.wait()


def measure(commands, *, rounds, cores):
  """Starts every side, then steps them in turns; returns the first line and the steps of each."""
  available = set(sorted(os.sched_getaffinity(0))[:cores])
  sides = {}
  try:
    first = {}
    for name, command in commands.items():  # one after the other: compilation is timed
      sides[name] = Side(*command, cores=available)
      first[name] = sides[name].read()
    steps = {name: [] for name in sides}
    for _ in range(rounds):
      for name, side in sides.items():
        steps[name].append(side.step())
  finally:
    for side in sides.values():
      side.close()
  return first, steps
