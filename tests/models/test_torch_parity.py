"""Every layout against the code that it is of: RobustBench's, torchvision's and timm's own nets.

  JAX_ROBUST_TORCH_PYTHON=python-with-the-extra-parity \\
    pytest -m slow -n 0 -s tests/models/test_torch_parity.py
"""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from safetensors.numpy import save_file

from jax_robust import config as config_lib
from jax_robust.models import convert, layouts
from jax_robust.runs import build, init_from, weights

pytestmark = pytest.mark.slow

SCRIPT = pathlib.Path(__file__).with_name("torch_nets.py")
TORCH_PYTHON = os.environ.get("JAX_ROBUST_TORCH_PYTHON", sys.executable)

WIDE = {"name": "wide_resnet", "depth": 10, "width": 2}
TRADES = {**WIDE, "padding": "symmetric", "activation": "relu"}
NONE = {"mean": (0.0,), "std": (1.0,)}
PREACT = {**NONE, "padding": "symmetric", "activation": "relu", "width": 64}
RESNET = {"stem": "cifar", "activation": "relu", "width": 64}
TORCHVISION = {**RESNET, "stem": "imagenet"}

# Net of torch_nets.py: layout, and what the file and init_check must tell of our net.
NETS = {
  "trades": ("trades", {**TRADES, **NONE}),
  "trades, sub_block1": ("trades", {**TRADES, **NONE}),
  "trades, normalised": (
    "trades",
    {**TRADES, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)},
  ),
  "deepmind, swish": ("deepmind", {**WIDE, "padding": "same", "activation": "swish"}),
  "deepmind, relu": ("deepmind", {**WIDE, "padding": "same", "activation": "relu"}),
  "deepmind preact 18": (
    "deepmind_preact",
    {"name": "preact_resnet18", "padding": "same", "activation": "swish", "shortcut": "3x3_raw"},
  ),
  "deepmind preact 34": ("deepmind_preact", {"name": "preact_resnet34", "activation": "relu"}),
  "kuangliu 18": ("kuangliu", {"name": "resnet18", **RESNET, **NONE}),
  "kuangliu 34": ("kuangliu", {"name": "resnet34", **RESNET, **NONE}),
  "kuangliu 50": ("kuangliu", {"name": "resnet50", **RESNET, **NONE}),
  "preact 18, raw": (
    "kuangliu_preact",
    {"name": "preact_resnet18", **PREACT, "shortcut": "1x1_raw", "final_batchnorm": False},
  ),
  "preact 18, activated": (
    "kuangliu_preact",
    {
      "name": "preact_resnet18",
      **PREACT,
      **NONE,
      "shortcut": "1x1_activated",
      "final_batchnorm": True,
    },
  ),
  "preact 34, activated": (
    "kuangliu_preact",
    {
      "name": "preact_resnet34",
      **PREACT,
      **NONE,
      "shortcut": "1x1_activated",
      "final_batchnorm": False,
    },
  ),
  "preact 50": (
    "kuangliu_preact",
    {
      "name": "preact_resnet50",
      **PREACT,
      **NONE,
      "shortcut": "1x1_activated",
      "final_batchnorm": False,
    },
  ),
  "torchvision 18": ("torchvision", {"name": "resnet18", **TORCHVISION, **NONE}),
  "torchvision 34": ("torchvision", {"name": "resnet34", **TORCHVISION, **NONE}),
  "torchvision 50": ("torchvision", {"name": "resnet50", **TORCHVISION, **NONE}),
  "timm 50": ("torchvision", {"name": "resnet50", **TORCHVISION, **NONE}),
}


def torch_side(*flags):
  """Runs the script, or skips where its Python has not the extra `parity`."""
  done = subprocess.run([TORCH_PYTHON, str(SCRIPT), *flags], capture_output=True, text=True)
  if "ModuleNotFoundError" in done.stderr:
    pytest.skip(f"{TORCH_PYTHON}: {done.stderr.splitlines()[-1]}: pip install 'jax_robust[parity]'")
  assert done.returncode == 0, done.stderr


def gradient_in_float64(net, variables, x):
  """The gradient of class three in the images, in which no ReLU is at zero to rounding."""
  rounded = {key: tuple(map(float, np.float32(getattr(net, key)))) for key in NONE}
  with jax.enable_x64(True):
    net = net.clone(dtype=jnp.float64, **rounded)
    variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), variables)
    gradient = jax.grad(lambda x: net.apply(variables, x)[:, 3].sum())
    return np.asarray(jax.jit(gradient)(jnp.asarray(x, jnp.float64)))


@pytest.mark.parametrize("name", NETS)
def test_the_net_is_that_of_its_own_code(tmp_path, name):
  torch_side("write", name, str(tmp_path / "net"))
  recorded = np.load(tmp_path / "net.npz")
  layout, expected = NETS[name]

  config = config_lib.load("evaluate_autoattack")
  config.model = {"name": layouts.FROM_WEIGHTS}
  if name != "trades":  # where init_check finds it; every choice compiles a net
    config.model.update({key: expected[key] for key in NONE if key in expected})
  config.init_from = str(tmp_path / "net.safetensors")
  config.init_check = str(tmp_path / "net.npz")
  config = init_from.complete(config, tmp_path)
  assert {key: config.model[key] for key in expected} == expected

  x = jnp.asarray(recorded["images"].transpose(0, 2, 3, 1))
  net = build.model(config, recorded["logits"].shape[1])
  params, model_state = weights.fit(weights.read_init(config), net, x.shape[1:], name=name)
  variables = {"params": params, **model_state}

  compiled = jax.jit(net.apply)
  logits, gradient = compiled(variables, x), gradient_in_float64(net, variables, x)
  pairs = ((logits, recorded["logits"]), (gradient, recorded["gradient"].transpose(0, 2, 3, 1)))
  off = [np.abs(a - b).max() / np.abs(b).max() for a, b in pairs]
  for ours, theirs in pairs:
    assert_close(ours, theirs, 1e-4)

  # And out again, with other weights: what PyTorch then computes is what the net here does.
  assert layouts.layout_of(net, config.model.name, layout=layout) == layout
  params["logits"]["kernel"] = -params["logits"]["kernel"]
  arrays = convert.to_torch(variables, names=layouts.LAYOUTS[layout].names)
  save_file(arrays, tmp_path / "net.safetensors", metadata=layouts.note(net, layout))
  np.savez(tmp_path / "net.npz", images=x)
  bare = name.replace(", normalised", "").replace(", sub_block1", "")
  if bare == name:
    torch_side("read", name, str(tmp_path / "net"))
    theirs = np.load(tmp_path / "net_torch.npz")["logits"]
    ours = compiled(variables, x)
    off.append(np.abs(theirs - ours).max() / np.abs(theirs).max())
    assert_close(ours, theirs, 1e-5)
  print(f"\n{name}: logits, gradients, export off by {', '.join(f'{each:.1e}' for each in off)}")
