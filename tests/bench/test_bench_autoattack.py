"""How long standard AutoAttack takes on the oracle net, against the reference program on PyTorch.

  JAX_ROBUST_TORCH_PYTHON=python-with-the-extra-parity \\
    pytest -m bench -n 0 -s tests/bench/test_bench_autoattack.py

Both sides attack the same images of the same net in processes of their own, in turns.
JAX_ROBUST_BENCH='images=64,rounds=1' changes the size.
"""

import json
import os
import statistics
import subprocess
import sys

import numpy as np
import pytest
from settings import sizes
from sides import HERE, TORCH_PYTHON, environment, need_torch

LEAST_SPEED = 1.0  # of the reference's


def run(python, script, *flags, cores):
  """One evaluation in a process of its own."""
  env = environment(JAX_NUM_CPU_DEVICES=str(cores))
  command = [python, str(HERE / script), *flags]
  done = subprocess.run(command, env=env, capture_output=True, text=True)
  if done.returncode:
    raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr}")
  return json.loads(done.stdout)


def show(norm, theirs, ours):
  """Prints the table of one norm and returns the speed of the whole, compilation included."""
  total = {"seconds": [0.0, 0.0], "forward": [0, 0]}
  print(f"\n{norm}: {theirs[0]['what']}; {ours[0]['what']}; load {os.getloadavg()}")
  columns = (
    "attack",
    "theirs s",
    "ours s",
    "compile s",
    "speed",
    "their fwd",
    "fwd",
    "bwd",
    "robust",
  )
  print(("{:10}" + "{:>10}" * 8).format(*columns))
  for name in (key for key in theirs[0] if key != "what"):
    seconds = [statistics.median(run[name]["seconds"] for run in side) for side in (theirs, ours)]
    a, b = theirs[0][name], ours[0][name]
    robust = f"{np.sum(a['robust'])}/{np.sum(b['robust'])}"
    compiling = statistics.median(run[name]["compile_seconds"] for run in ours)
    print(
      f"{name:10}{seconds[0]:10.1f}{seconds[1]:10.1f}{compiling:10.1f}"
      f"{seconds[0] / seconds[1]:10.2f}{a['forward']:10}{b['forward']:10}{b['backward']:10}"
      f"{robust:>10}"
    )
    for i in range(2):
      total["seconds"][i] += seconds[i]
      total["forward"][i] += (a, b)[i]["forward"]
  speed = total["seconds"][0] / total["seconds"][1]
  print(f"whole: {total['seconds'][0]:.1f} s and {total['seconds'][1]:.1f} s: speed {speed:.2f}")
  return speed


@pytest.mark.bench
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_autoattack_against_the_reference(norm, oracles):
  """At least level with PyTorch, compilation included; the flags agree to an image or two."""
  need_torch("pyautoattack")
  size = sizes(images=200, batch=128, rounds=1, cores=os.cpu_count())
  flags = [f"--file={oracles / 'autoattack' / 'cifar10_cnn.npz'}", f"--norm={norm}"]
  flags += [f"--{name}={size[name]}" for name in ("images", "batch")]
  theirs, ours = [], []
  for _ in range(size["rounds"]):
    cores = size["cores"]
    theirs.append(run(TORCH_PYTHON, "torch_autoattack.py", *flags, f"--cores={cores}", cores=cores))
    ours.append(run(sys.executable, "jax_autoattack.py", *flags, cores=cores))
  speed = show(norm, theirs, ours)
  for name, flags_of in ours[0].items():
    if name != "what":
      difference = np.sum(np.array(flags_of["robust"]) != np.array(theirs[0][name]["robust"]))
      assert difference <= 2, name
  assert speed >= LEAST_SPEED
