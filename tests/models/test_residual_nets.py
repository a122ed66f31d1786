"""WideResNet and PreActResNet-18: sizes, and agreement with the released programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from rows import mostly_slow

from jax_robust import models
from jax_robust.models.convert import from_torch, load_arrays
from jax_robust.models.layers import conv
from jax_robust.models.normalization import constants
from jax_robust.models.preact_resnet import PreActBlock

MEAN, STD = constants("cifar10")


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.thorough
@pytest.mark.parametrize(
  ("depth", "width", "ten", "hundred"),
  [
    (10, 1, 78_106, 83_956),
    (16, 4, 2_748_890, 2_772_020),
    (28, 10, 36_479_194, 36_536_884),
    (34, 10, 46_160_474, 46_218_164),
    (34, 20, 184_531_674, 184_646_964),
    (70, 16, 266_796_506, 266_888_756),
    (106, 16, 415_475_162, 415_567_412),
  ],
)
def test_parameter_counts_of_wide_resnets(shapes_of, depth, width, ten, hundred):
  net = models.create("wide_resnet", num_classes=10, depth=depth, width=width)
  assert_counts(shapes_of(net)["params"], ten, hundred)


def test_parameter_counts_of_preact_resnet18(shapes_of):
  params = shapes_of(models.create("preact_resnet18", num_classes=10))["params"]
  assert_counts(params, 12_548_426, 12_594_596)


def assert_counts(params, ten, hundred):
  """The number of parameters for 10 classes; 90 more classes add to the last layer alone."""
  features, classes = params["logits"]["kernel"].shape
  assert (count(params), count(params) + 90 * (features + 1), classes) == (ten, hundred, 10)


def test_classes_change_the_last_layer_alone(shapes_of):
  few, many = (
    shapes_of(models.WideResNet(num_classes=k, depth=10, width=1))["params"] for k in (10, 100)
  )
  assert (few.pop("logits")["kernel"].shape, many["logits"]["bias"].shape) == ((64, 10), (100,))
  assert many.pop("logits")["kernel"].shape == (64, 100) and few == many


def test_released_program_agrees(oracles, shapes_of):
  arrays = load_arrays(oracles / "models" / "wide_resnet_16_2_swish.npz", prefix="weights/")
  recorded = np.load(oracles / "models" / "wide_resnet_16_2_swish.npz", allow_pickle=False)
  net = models.WideResNet(num_classes=10, depth=16, width=2, mean=MEAN, std=STD)
  variables = from_torch(arrays, shapes_of(net), names="wide_resnet")
  x = jnp.asarray(recorded["images_uint8"], jnp.float32) / 255

  @jax.jit
  def logits_and_gradient(x):
    def class_three(x):
      logits = net.apply(variables, x)
      return logits[:, 3].sum(), logits

    gradient, logits = jax.grad(class_three, has_aux=True)(x)
    return logits, gradient

  logits, gradient = logits_and_gradient(x)
  assert_close(logits, recorded["logits"], 1e-4)
  assert_close(gradient, recorded["input_gradient_nhwc"], 1e-4)


def test_training_mode_agrees_with_the_recorded_step(oracles, shapes_of):
  path = oracles / "training" / "trades_step.npz"
  recorded = np.load(path, allow_pickle=False)
  net = models.WideResNet(num_classes=10, depth=10, width=2, mean=MEAN, std=STD)
  shapes = shapes_of(net)
  variables = from_torch(load_arrays(path, prefix="weights/"), shapes, names="wide_resnet")
  x_adv = jnp.asarray(recorded["released/x_adv"])
  logits, state = jax.jit(lambda x: net.apply(variables, x, train=True, mutable=["batch_stats"]))(
    x_adv
  )
  assert_close(logits, recorded["released/adv_logits"], 1e-4)
  after = load_arrays(path, prefix="released/batch_stats/")
  expected = from_torch(after, {"batch_stats": shapes["batch_stats"]}, names="wide_resnet")
  assert_close(state["batch_stats"], expected["batch_stats"], 1e-4)


REMAT = {
  "wide_resnet": models.WideResNet(num_classes=4, depth=10, width=1),
  "preact_resnet18": models.PreActResNet18(num_classes=4, width=2),
  "cifar_resnet": models.CifarResNet(num_classes=4, depth=8),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", mostly_slow(REMAT, "preact_resnet18"))
def test_remat_changes_neither_names_nor_numbers(name, draw_variables):
  net = REMAT[name].clone(convolution="xla")  # which compiles faster
  x = jax.random.uniform(jax.random.key(1), (4, 8, 8, 3))
  variables = draw_variables(net)

  def gradient(net):
    loss_fn = lambda params: (  # noqa: E731
      net.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])[0] ** 2
    ).sum()
    return jax.jit(jax.grad(loss_fn))(variables["params"])

  remat = net.clone(remat=True)
  assert_close(gradient(remat), gradient(net), 1e-4)
  assert "remat" in str(jax.make_jaxpr(remat.apply)(variables, x))


def test_preact_projection_takes_the_raw_input(draw_variables):
  """With the residual branch switched off, a block is the strided 3x3 convolution of its input."""
  block = PreActBlock(
    (4, 4), stride=2, activation="silu", conv=conv, batchnorm=models.BatchNorm,
    kernel_sizes=(3, 3), shortcut="3x3_raw",
  )  # fmt: skip
  variables = draw_variables(functools.partial(block.init, train=False), (8, 8, 3))
  variables["params"]["conv_1"]["kernel"][:] = 0
  x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
  shortcut = conv(4, 3, stride=2, name="shortcut")
  expected = shortcut.apply({"params": variables["params"]["shortcut"]}, x)
  assert_close(block.apply(variables, x, False), expected, 1e-5)


@pytest.mark.parametrize("depth", [4, 12, 29])
def test_depth_must_fit(depth):
  with pytest.raises(ValueError, match=f"depth={depth}: expected 6 n"):
    models.WideResNet(num_classes=10, depth=depth)


def test_batchnorms_are_named_so(shapes_of):
  """Weight decay leaves them out by that name: every scale, and no kernel, lies under it."""
  for name in ("wide_resnet", "preact_resnet18"):
    params = shapes_of(models.create(name, num_classes=10))["params"]
    for path, _ in jax.tree.leaves_with_path(params):
      path = jax.tree_util.keystr(path, simple=True, separator="/")
      assert ("batchnorm" in path) == (path.endswith("scale") or _is_batchnorm_bias(path)), path


def _is_batchnorm_bias(path):
  return path.endswith("bias") and path != "logits/bias"
