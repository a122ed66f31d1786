"""LeNet, the ResNets for CIFAR and ResNet-50: sizes, and agreement with the released programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

from jax_robust import models
from jax_robust.models.convert import from_torch, load_arrays, to_torch


@pytest.mark.parametrize(
  ("name", "options", "shape", "num_classes", "expected"),
  [
    ("lenet", {}, (28, 28, 1), 10, 431_080),
    ("cifar_resnet", {"depth": 20}, (32, 32, 3), 10, 272_474),
    ("cifar_resnet", {"depth": 110}, (32, 32, 3), 10, 1_730_714),
    ("resnet18", {}, (32, 32, 3), 10, 11_173_962),
    ("resnet34", {}, (32, 32, 3), 10, 21_282_122),
    ("preact_resnet34", {"shortcut": "1x1_raw"}, (32, 32, 3), 10, 21_280_330),
    ("preact_resnet50", {"shortcut": "1x1_activated"}, (32, 32, 3), 10, 23_513_162),
    ("resnet50", {}, (224, 224, 3), 1000, 25_557_032),
    ("resnet50", {"stem": "cifar"}, (32, 32, 3), 10, 23_520_842),
  ],
)
def test_parameter_counts(shapes_of, name, options, shape, num_classes, expected):
  net = models.create(name, num_classes=num_classes, **options)
  params = shapes_of(net, shape)["params"]
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_released_program_agrees(oracles, shapes_of):
  path = oracles / "models" / "cifar_resnet20.npz"
  recorded = np.load(path, allow_pickle=False)
  net = models.create("cifar_resnet", num_classes=10, depth=20)
  arrays = load_arrays(path, prefix="weights/")
  variables = from_torch(arrays, shapes_of(net), names="cifar_resnet")
  x = jnp.asarray(recorded["images_uint8"], jnp.float32) / 255

  @jax.jit
  def logits_and_gradient(x):
    logits, pull_back = jax.vjp(lambda x: net.apply(variables, x), x)
    return logits, pull_back(jnp.zeros_like(logits).at[:, 3].set(1))[0]

  logits, gradient = logits_and_gradient(x)
  assert_close(logits, recorded["logits"], 1e-4)
  assert_close(gradient, recorded["input_gradient_nhwc"], 1e-4)


def test_torchvision_names(shapes_of):
  arrays = to_torch(
    jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes_of(models.ResNet50(num_classes=7))),
    names="resnet50",
  )
  for name, shape in {
    "conv1.weight": (64, 3, 7, 7),
    "bn1.running_var": (64,),
    "layer1.0.downsample.0.weight": (256, 64, 1, 1),
    "layer1.0.downsample.1.bias": (256,),
    "layer4.2.conv3.weight": (2048, 512, 1, 1),
    "layer2.0.bn2.weight": (128,),
    "fc.weight": (7, 2048),
  }.items():
    assert arrays[name].shape == shape


def test_resnet50_has_the_strides_of_the_published_one():
  """Five halvings of 64 x 64 leave 2 x 2; BatchNorm and pool see what PyTorch's padding shows."""
  net = models.ResNet50(num_classes=3)
  x = jnp.zeros((1, 64, 64, 3))
  _, seen = jax.eval_shape(
    lambda x: net.init_with_output(jax.random.key(0), x, capture_intermediates=True, mutable=True),
    x,
  )
  kept = seen["intermediates"]
  sides = [kept[f"layer_{group}_block_0"]["__call__"][0].shape[1:] for group in range(4)]
  assert sides == [(16, 16, 256), (8, 8, 512), (4, 4, 1024), (2, 2, 2048)]


@pytest.mark.parametrize("depth", [0, 21, 2])
def test_bad_depth(depth):
  with pytest.raises(ValueError, match=f"depth={depth}: expected 6 n"):
    models.create("cifar_resnet", num_classes=10, depth=depth)


def test_lenet_of_odd_sizes_leaves_the_last_row_out():
  net = models.LeNet(num_classes=10)
  x = jax.random.uniform(jax.random.key(0), (2, 29, 29, 1))
  logits, variables = jax.jit(net.init_with_output)(jax.random.key(1), x)
  assert logits.shape == (2, 10)
  bound = 1 / np.sqrt(25)
  kernel = variables["params"]["conv_0"]["kernel"]
  assert 0.9 * bound < np.abs(kernel).max() <= bound  # PyTorch's uniform, not a normal
  assert np.any(variables["params"]["logits"]["bias"] != 0)
