"""How long a TRADES-10 step of PreActResNet-18 takes on the CPU, against the same step in PyTorch.

  JAX_ROBUST_TORCH_PYTHON=python-with-torch pytest -m bench -s tests/bench/test_bench_trades.py

Every side is a process of its own; they are told to step in turns, so that whatever else the
machine does slows them alike. JAX_ROBUST_BENCH='batch=16,width=64,num_steps=10,rounds=3,cores=1'
changes the size. With `cores=1` the column of CPU seconds is meaningful on a busy machine too: with
more threads PyTorch's spin while they wait.
"""

import os
import statistics
import sys

import pytest
from settings import sizes
from sides import PLATFORM, TORCH_PYTHON, measure, need_torch

LEAST_SPEED = 0.75  # of PyTorch eager's


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
  need_torch()
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
  if PLATFORM == "cpu":
    training -= 2 * layers  # with so few channels the kernels' gradients are matrix products
  assert first["jax"]["compiled_convolutions"] == attack + training
