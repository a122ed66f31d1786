"""How long CERTIFY takes at N = 100,000, against the published sampling loop in PyTorch.

  JAX_ROBUST_TORCH_PYTHON=python-with-torch \\
    pytest -m bench -n 0 -s tests/bench/test_bench_certify.py

Every side is a process of its own with the same weights and images; the batch size of each is the
fastest of several. They certify in turns. The published loop counts votes one by one in Python;
beside it stands the same loop with NumPy's `bincount`, and the faster of two layouts in memory.
JAX_ROBUST_BENCH='images=1,rounds=4,n=100000,batch=0,tune=4000,cores=2' changes the size: images a
turn, turns, draws an image, the batch (0: tuned), draws of the tuning. With `cores=1` CPU seconds
mean something on a busy machine too.

On a GPU: JAX_PLATFORMS=cuda, with a PyTorch that finds it too, and tune=16000,images=10, so that
larger batches are tried and filled; tf32=0 keeps PyTorch's convolutions from TF32, which is their
default there, while ours are in float32.
"""

import os
import statistics
import subprocess
import sys

import numpy as np
import pytest
from settings import sizes
from sides import HERE, PLATFORM, TORCH_PYTHON, environment, measure, need_torch

NETS = {"lenet": 0, "resnet20": 20, "resnet110": 110}
"""Depths of the ResNets; 0 is LeNet."""

LEAST_SPEED = 1.0 if PLATFORM == "cpu" else 3.0
"""Of the published loop's."""
SELECTION = 100


def show(name, first, steps, size):
  """Prints the table, and the floor beside it; returns the median seconds of an image by side."""
  images, num_draws = size["images"], size["n"] + SELECTION
  seconds = {n: statistics.median(s["seconds"] for s in r) / images for n, r in steps.items()}
  print(f"\nCERTIFY of {name}, {size}, load {os.getloadavg()}, {PLATFORM}")
  columns = ("s/image", "CPU s", "images/s", "speed", "batch", "GFLOP/s")
  print(("{:18}" + "{:>10}" * 6).format("side", *columns))
  flops = first["torch published"]["flops"] * num_draws
  for side, runs in steps.items():
    cpu = statistics.median(s["cpu"] for s in runs) / images
    speed = seconds["torch published"] / seconds[side]
    print(
      f"{side:18}{seconds[side]:10.2f}{cpu:10.2f}{1 / seconds[side]:10.3f}{speed:10.2f}"
      f"{first[side]['batch']:10}{flops / seconds[side] / 1e9:10.1f}"
    )
  rates = [s["matmul"] for n in steps if n != "ours" for s in (first[n], *steps[n])]
  print(
    f"floor: {flops / 1e9:.0f} GFLOP an image at {max(rates) / 1e9:.0f} GFLOP/s, the rate of a "
    f"2048 x 2048 matrix product: {flops / max(rates):.2f} s"
  )
  print(f"ours compiles in {first['ours']['compile_seconds']:.1f} s")
  print("; ".join(f"{n}: {f['what']}" for n, f in first.items()))
  return seconds


def check_same(first, steps, num_draws):
  """Both sides have the same net, and the votes of an image are those of the same law."""
  logits = {side: np.array(found["logits"]) for side, found in first.items()}
  shares = {side: np.concatenate([s["shares"] for s in runs]) for side, runs in steps.items()}
  error = 6 * np.sqrt(0.25 * 2 / num_draws)
  for side in first:
    np.testing.assert_allclose(logits["ours"], logits[side], atol=1e-3)
    np.testing.assert_allclose(shares["ours"], shares[side], atol=error)


DEEPEST = pytest.param("resnet110", marks=pytest.mark.gpu)


@pytest.mark.bench
@pytest.mark.parametrize("name", ["lenet", "resnet20", DEEPEST])
def test_certify_against_the_published_loop(name, tmp_path):
  """Not slower than `LEAST_SPEED` says; three times the published loop's speed on a GPU."""
  need_torch()
  depth = NETS[name]
  size = sizes(
    images=1, rounds=4, n=100_000, batch=0, tune=1000 if depth else 4000, cores=os.cpu_count(),
    tf32=1,
  )  # fmt: skip
  flags = [f"--file={tmp_path / 'problem.npz'}", f"--depth={depth}"]
  write = [sys.executable, str(HERE / "jax_certify.py"), *flags, "--write=8"]
  subprocess.run(write, env=environment(), check=True)
  flags += [f"--{key}={size[key]}" for key in ("images", "n", "batch", "tune")]
  torch = (TORCH_PYTHON, "torch_certify.py", *flags, f"--tf32={size['tf32']}")
  commands = {
    "torch published": torch,
    "torch at best": (*torch, "--best"),
    "ours": (sys.executable, "jax_certify.py", *flags),
  }
  first, steps = measure(commands, rounds=size["rounds"], cores=size["cores"])
  seconds = show(name, first, steps, size)
  check_same(first, steps, size["n"])
  assert seconds["torch published"] / seconds["ours"] >= LEAST_SPEED
