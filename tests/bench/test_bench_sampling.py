"""How fast a diffusion net draws MNIST's digits, against the same net and sampler in PyTorch.

  JAX_ROBUST_TORCH_PYTHON=PYTHON pytest -m bench -n 0 -s tests/bench/test_bench_sampling.py

where PYTHON has torch. The size is changed by
JAX_ROBUST_BENCH='batch=100,steps=18,width=32,rounds=5,cores=2'.
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

LEAST_SPEED = 0.7  # of PyTorch eager's, in the faster of its two layouts


@pytest.mark.bench
def test_sampling_against_pytorch():
  need_torch()
  size = sizes(batch=100, steps=18, width=32, rounds=5, cores=os.cpu_count())
  flags = [f"--{name}={size[name]}" for name in ("batch", "steps", "width")]
  torch = (TORCH_PYTHON, "torch_sampling.py", *flags)
  commands = {
    "torch": torch,
    "torch channels last": (*torch, "--channels_last"),
    "jax": (sys.executable, "jax_sampling.py", *flags),
  }
  first, turns = measure(commands, rounds=size["rounds"], cores=size["cores"])
  print(f"\n{size}, load {os.getloadavg()}, {PLATFORM}")
  print(f"{'side':22}{'images/s':>10}{'CPU s':>8}{'compile s':>11}{'peak MiB':>10}")
  median = {n: statistics.median(s["seconds"] for s in runs) for n, runs in turns.items()}
  for name, runs in turns.items():
    cpu = statistics.median(s["cpu"] for s in runs)
    peak = max(s["peak_mib"] for s in runs)
    compiling = first[name].get("compile_seconds", 0)
    print(f"{name:22}{size['batch'] / median[name]:10.1f}{cpu:8.2f}{compiling:11.1f}{peak:10.0f}")
  print("; ".join(f"{n}: {f['what']}" for n, f in first.items()))
  fastest = min(seconds for name, seconds in median.items() if name.startswith("torch"))
  print(f"ratio to the faster of PyTorch's: {fastest / median['jax']:.2f}")
  assert fastest / median["jax"] >= LEAST_SPEED


@pytest.mark.bench
def test_both_samplers_are_one():
  """With one's weights and noise, the other draws the same images."""
  torch = pytest.importorskip("torch")
  from jax_sampling import make_net, make_sampler
  from torch_sampling import Net, sample

  from jax_robust.types import normals

  net, label = make_net(8), np.arange(3)
  rows = jnp.zeros((3, 28, 28, 1)), jnp.ones(3), jnp.asarray(label)
  params = jax.tree.map(
    lambda a: 0.3 * jax.random.normal(jax.random.key(a.size), a.shape),
    jax.jit(net.init)(jax.random.key(0), *rows)["params"],
  )
  theirs, arrays = Net(8).eval(), {}
  for path, value in jax.tree.leaves_with_path(params):
    *names, last = (each.key for each in path)
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]
    last = {"kernel": "weight", "scale": "weight"}.get(last, last)
    arrays[".".join([*names, last])] = torch.tensor(np.array(value.transpose(axes)))
  theirs.load_state_dict(arrays)
  keys = jax.random.split(jax.random.key(1), 3)
  noise = torch.tensor(np.array(normals(keys, (28, 28, 1)).transpose(0, 3, 1, 2)))
  with torch.inference_mode():
    expected = sample(theirs, noise, torch.tensor(label), 6).permute(0, 2, 3, 1).numpy()
  found = make_sampler(net, 6)({"params": params}, keys, jnp.asarray(label))
  assert_close([found], [expected], 1e-3)
