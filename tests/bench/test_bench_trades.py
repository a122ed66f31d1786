"""How long a TRADES-10 step of PreActResNet-18 takes on the CPU, against the same step in PyTorch.

  JAX_ROBUST_TORCH_PYTHON=python-with-torch pytest -m bench -s tests/bench/test_bench_trades.py

Every side is a process of its own; they are told to step in turns, so that whatever else the
machine does slows them alike. JAX_ROBUST_BENCH='batch=16,width=64,num_steps=10,rounds=3,cores=1'
changes the size. With `cores=1` the column of CPU seconds is meaningful on a busy machine too: with
more threads PyTorch's spin while they wait.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys

import pytest
from settings import sizes

HERE = pathlib.Path(__file__).resolve().parent
TORCH_PYTHON = os.environ.get("JAX_ROBUST_TORCH_PYTHON", sys.executable)
LEAST_SPEED = 0.75  # of PyTorch eager's


class Side:
  """One process; `step()` does one training step and returns its measurements."""

  def __init__(self, python, script, *flags, cores):
    env = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="2", JAX_PLATFORMS="cpu")
    env.pop("XLA_FLAGS", None)  # the suite's eight virtual devices
    env["JAX_NUM_CPU_DEVICES"] = str(len(cores))  # as `main` sets it
    env.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # as launch/local.sh
    env["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[1]), env.get("PYTHONPATH", "")])
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
    """Asks for one step and waits for it."""
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


def show(first, steps, size):
  """Prints the table and returns the median seconds of each side."""
  print(f"\nTRADES step, PreActResNet-18, {size}, load {os.getloadavg()}, CPU")
  print(f"{'side':16}{'seconds':>9}{'CPU s':>8}{'speed':>7}{'first s':>9}{'peak MiB':>10}")
  median = {n: statistics.median(s["seconds"] for s in runs) for n, runs in steps.items()}
  for name, runs in steps.items():
    cpu = statistics.median(s["cpu"] for s in runs)
    start = first[name].get("compile_seconds", 0) + first[name]["seconds"]
    speed = median["torch eager"] / median[name]
    peak = max(s["peak_mib"] for s in runs)
    print(f"{name:16}{median[name]:9.2f}{cpu:8.2f}{speed:7.2f}{start:9.1f}{peak:10.0f}")
  print("; ".join(f"{n}: {f['what']}" for n, f in first.items()))
  print(f"jax compiles in {first['jax']['compile_seconds']:.1f} s")
  return median


@pytest.mark.bench
def test_trades_step_against_pytorch():
  """At least .75 of PyTorch eager's speed; `torch.compile`'s is printed beside it."""
  if subprocess.run([TORCH_PYTHON, "-c", "import torch"], capture_output=True).returncode:
    pytest.skip(f"{TORCH_PYTHON} has no torch: set JAX_ROBUST_TORCH_PYTHON to a Python that has it")
  size = sizes(batch=64, width=64, num_steps=10, rounds=3, cores=os.cpu_count())
  flags = [f"--{name}={size[name]}" for name in ("batch", "width", "num_steps")]
  commands = {
    "torch eager": (TORCH_PYTHON, "torch_trades.py", *flags),
    "torch compile": (TORCH_PYTHON, "torch_trades.py", *flags, "--compiled"),
    "jax": (sys.executable, "jax_trades.py", *flags),
  }
  first, steps = measure(commands, rounds=size["rounds"], cores=size["cores"])
  median = show(first, steps, size)
  assert median["torch eager"] / median["jax"] >= LEAST_SPEED


@pytest.mark.bench
def test_trades_step_wastes_no_convolution():
  """The compiled step holds each convolution once: no weight gradient inside the attack."""
  flags = ["--batch=2", "--width=4", "--num_steps=2"]
  first, _ = measure(
    {"jax": (sys.executable, "jax_trades.py", *flags)}, rounds=0, cores=os.cpu_count()
  )
  layers, attack_steps = 20, 2
  attack = attack_steps * 2 * layers  # forward, and the gradient of the input
  training = 2 * (3 * layers - 1)  # clean and adversarial; the images need no gradient
  assert first["jax"]["compiled_convolutions"] == attack + training
