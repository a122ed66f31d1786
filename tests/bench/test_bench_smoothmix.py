"""How long SmoothMix's epoch of MNIST takes, against the same steps in PyTorch.

  JAX_ROBUST_TORCH_PYTHON=python-with-torch \\
    pytest -m bench -n 0 -s tests/bench/test_bench_smoothmix.py

Every side is a process of its own; they are told to step in turns. The published program passes the
noises through the net one after the other during the attack; beside it stands one that passes them
together. JAX_ROBUST_BENCH='batch=64,noises=4,repeat=20,rounds=5,cores=2' changes the size: images a
step, noises an image, steps a turn, turns. With `cores=1` CPU seconds mean something on a busy
machine too: with more threads PyTorch's spin while they wait.
"""

import os
import statistics
import sys

import pytest
from settings import sizes
from sides import PLATFORM, TORCH_PYTHON, measure, need_torch

STEPS_PER_EPOCH = 940  # of MNIST's 60,000 images, 64 a step
LEAST_SPEED = 1.0  # of the published program's


def show(first, steps, size, num_steps):
  """Prints the table and returns the median seconds of a step by side."""
  print(f"\nSmoothMix step, LeNet, T={num_steps}, {size}, load {os.getloadavg()}, {PLATFORM}")
  columns = ("ms", "CPU ms", "speed", "epoch, s", "peak MiB")
  print(("{:18}" + "{:>10}" * 5).format("side", *columns))
  median = {n: statistics.median(s["seconds"] for s in runs) for n, runs in steps.items()}
  for name, runs in steps.items():
    cpu = statistics.median(s["cpu"] for s in runs)
    speed = median["torch published"] / median[name]
    peak = max(s["peak_mib"] for s in runs)
    print(
      f"{name:18}{median[name] * 1e3:10.1f}{cpu * 1e3:10.1f}{speed:10.2f}"
      f"{median[name] * STEPS_PER_EPOCH:10.0f}{peak:10.0f}"
    )
  print("; ".join(f"{n}: {f['what']}" for n, f in first.items()))
  print(f"ours compiles in {first['ours']['compile_seconds']:.1f} s")
  return median


@pytest.mark.bench
@pytest.mark.parametrize("num_steps", [1, 8])
def test_smoothmix_step_against_pytorch(num_steps):
  """At least level with the published program."""
  need_torch()
  size = sizes(batch=64, noises=4, repeat=20, rounds=5, cores=os.cpu_count())
  flags = [f"--{name}={size[name]}" for name in ("batch", "noises", "repeat")]
  flags.append(f"--num_steps={num_steps}")
  torch = (TORCH_PYTHON, "torch_smoothmix.py", *flags)
  commands = {
    "torch published": torch,
    "torch together": (*torch, "--together"),
    "ours": (sys.executable, "jax_smoothmix.py", *flags),
  }
  first, steps = measure(commands, rounds=size["rounds"], cores=size["cores"])
  median = show(first, steps, size, num_steps)
  assert median["torch published"] / median["ours"] >= LEAST_SPEED
