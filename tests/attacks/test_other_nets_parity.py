"""Nets without a recorded run, attacked by the reference program itself and by us.

  XLA_FLAGS= JAX_ROBUST_TORCH_PYTHON=python-with-the-extra-parity \\
    pytest -m slow -n 0 -s tests/attacks/test_other_nets_parity.py
"""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import oracle_net
import pytest

from jax_robust import attacks

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "bench" / "torch_autoattack.py"
TORCH_PYTHON = os.environ.get("JAX_ROBUST_TORCH_PYTHON", sys.executable)

NETS = {
  # image side, channels, classes, eps of each norm
  "a hundred classes": (32, 3, 100, {"Linf": 0.5 / 255, "L2": 0.06}),
  "28 x 28 x 1": (28, 1, 10, {"Linf": 1.25 / 255, "L2": 0.15}),
  "eps 0": (32, 3, 10, {"Linf": 0.0, "L2": 0.0}),
}
BALLS = {"Linf": attacks.linf_ball, "L2": attacks.l2_ball}
NUM_IMAGES = 16


def make_net(path, name, norm):
  """Writes a random net, and images with the labels it gives them; one of them is wrong."""
  side, channels, classes, radii = NETS[name]
  draw = np.random.default_rng(0)
  sizes = (channels, 8, 16, 16, 32, 32)
  weights = {"fc.weight": draw.normal(size=(classes, 32)) / 4, "fc.bias": np.zeros(classes)}
  for i in range(5):
    fan_in = 9 * sizes[i]
    kernel = draw.normal(size=(sizes[i + 1], sizes[i], 3, 3)) * np.sqrt(2 / fan_in)
    weights[f"convs.{i}.weight"] = kernel
    for key, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
      weights[f"bns.{i}.{key}"] = np.full(sizes[i + 1], value, np.float32)
  images = draw.integers(0, 256, (NUM_IMAGES, side // 4, side // 4, channels), np.uint8)
  images = images.repeat(4, 1).repeat(4, 2)
  arrays = {f"weights/{key}": np.float32(value) for key, value in weights.items()}
  arrays |= {"images_uint8": images, "labels": np.zeros(NUM_IMAGES, np.int64)}
  arrays |= {f"{norm}/eps": radii[norm], "mean": np.full(channels, 0.5, np.float32)}
  arrays["std"] = np.full(channels, 0.25, np.float32)
  np.savez(path, **arrays)
  net = np.load(path)
  logits = jax.jit(oracle_net.make_logits_fn(net))(oracle_net.images_and_labels(net)[0])
  arrays["labels"] = np.asarray(logits).argmax(1)
  arrays["labels"][0] = (arrays["labels"][0] + 1) % classes
  np.savez(path, **arrays)
  return np.load(path)


def reference(path, norm, seed):
  """The reference's flags after each attack."""
  # One core: two threads of PyTorch wait for each other when others want the cores too.
  command = [TORCH_PYTHON, str(SCRIPT), f"--file={path}", f"--norm={norm}", f"--seed={seed}"]
  command += ["--cores=1"]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  flags = json.loads(done.stdout)
  return {name: np.array(found["robust"]) for name, found in flags.items() if name != "what"}


@pytest.mark.slow
@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("name", NETS)
def test_standard_agrees_with_the_reference(tmp_path, name, norm):
  if subprocess.run([TORCH_PYTHON, "-c", "import pyautoattack"], capture_output=True).returncode:
    pytest.skip(f"{TORCH_PYTHON} has no pyautoattack: set JAX_ROBUST_TORCH_PYTHON")
  path = tmp_path / "net.npz"
  net = make_net(path, name, norm)
  x, labels = oracle_net.images_and_labels(net)
  result = attacks.autoattack(
    oracle_net.make_logits_fn(net), x, labels, jax.random.key(0),
    ball=BALLS[norm](float(net[f"{norm}/eps"])),
  )  # fmt: skip
  seeds = range(1 if name == "eps 0" else 2)  # where nothing random could change a flag, one
  theirs = [reference(path, norm, seed) for seed in seeds]
  for attack, robust in result.robust_after.items():
    flags = np.stack([each[attack] for each in theirs])
    print(f"{name}, {norm}, {attack}: {robust.sum()} robust, reference {flags.sum(1)}")
    undecided = np.sum(flags.any(0) & ~flags.all(0))
    assert np.sum(robust & ~flags.any(0)) <= 1
    assert np.sum(~robust & flags.all(0)) <= 1 + undecided
  if name == "eps 0":
    np.testing.assert_array_equal(result.robust, result.clean)
    assert result.clean.sum() == NUM_IMAGES - 1
  else:
    assert 0.1 < result.robust.mean() < 0.9  # else it would test nothing
