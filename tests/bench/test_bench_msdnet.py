"""How long MSDNet's forward pass and its FGSM training step take, against the same in PyTorch.

  JAX_ROBUST_TORCH_PYTHON=python-with-torch pytest -m bench -n 0 -s tests/bench/test_bench_msdnet.py

Every side is a process of its own; they are told to work in turns, so that whatever else the
machine does slows them alike. JAX_ROBUST_BENCH='batch=64,rounds=5,repeat=1,cores=2' changes the
size: images, turns, pieces of work a turn.
"""

import os
import statistics
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from settings import sizes
from sides import PLATFORM, TORCH_PYTHON, measure, need_torch

from jax_robust import models
from jax_robust.models.convert import from_torch

LEAST_SPEED = 0.7  # of PyTorch eager's, whose images are in the faster of its two layouts


def show(work, first, turns, size):
  """Prints the table and returns the median seconds of each side."""
  print(f"\nMSDNet-5, {work}, {size}, load {os.getloadavg()}, {PLATFORM}")
  print(f"{'side':22}{'ms':>9}{'CPU ms':>9}{'speed':>7}{'first s':>9}{'peak MiB':>10}")
  median = {n: statistics.median(s["seconds"] for s in runs) for n, runs in turns.items()}
  for name, runs in turns.items():
    cpu = statistics.median(s["cpu"] for s in runs)
    start = first[name].get("compile_seconds", 0) + first[name]["seconds"]
    speed, peak = median["torch"] / median[name], max(s["peak_mib"] for s in runs)
    print(f"{name:22}{median[name] * 1e3:9.0f}{cpu * 1e3:9.0f}{speed:7.2f}{start:9.1f}{peak:10.0f}")
  print("; ".join(f"{n}: {f['what']}" for n, f in first.items()))
  return median


@pytest.mark.bench
@pytest.mark.parametrize("work", ["forward", "training"])
def test_msdnet_against_pytorch(work):
  need_torch()
  size = sizes(batch=64, rounds=5, repeat=1, cores=os.cpu_count())
  flags = [f"--work={work}", *(f"--{name}={size[name]}" for name in ("batch", "repeat"))]
  torch = (TORCH_PYTHON, "torch_msdnet.py", *flags)
  commands = {
    "torch": torch,
    "torch channels last": (*torch, "--channels_last"),
    "jax": (sys.executable, "jax_msdnet.py", *flags),
  }
  first, turns = measure(commands, rounds=size["rounds"], cores=size["cores"])
  median = show(work, first, turns, size)
  fastest = min(seconds for name, seconds in median.items() if name.startswith("torch"))
  assert fastest / median["jax"] >= LEAST_SPEED


@pytest.mark.bench
def test_both_nets_are_one():
  """With one's weights and running statistics, the other has the same logits at every exit."""
  torch = pytest.importorskip("torch")
  from torch_msdnet import MSDNet

  torch.manual_seed(0)
  theirs, image = MSDNet(), torch.rand(4, 3, 32, 32)
  theirs(image)  # in training mode: running statistics that are not those of the start
  theirs.eval()
  net = models.create("msdnet", num_classes=10)
  shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  arrays = {name: each.numpy() for name, each in theirs.state_dict().items()}
  variables = from_torch(arrays, shapes, names="msdnet")
  with torch.inference_mode():
    expected = [logits.numpy() for logits in theirs(image)]
  found = jax.jit(net.apply)(variables, np.asarray(image.permute(0, 2, 3, 1)))
  assert_close(list(found), expected, 1e-4)
