"""SmallCNN and MLP, and what every net does alike."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

from jax_robust import models
from jax_robust.models.convert import from_torch, load_arrays

SMALL = {
  "wide_resnet": models.WideResNet(num_classes=5, depth=10, width=1),
  "small_cnn": models.SmallCNN(num_classes=5, channels=(4, 8), strides=(1, 2)),
  "mlp": models.MLP(num_classes=5, hidden=(8,), norm=True),
}


def images(num=4, side=8, channels=3):
  return jax.random.uniform(jax.random.key(1), (num, side, side, channels))


def train(net, variables, x):
  return jax.jit(lambda v, x: net.apply(v, x, train=True, mutable=["batch_stats"]))(variables, x)


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_computes_low_and_returns_float32(name, draw_variables):
  net = SMALL[name]
  variables, x = draw_variables(net), images(16)
  logits, state = train(net.clone(dtype="bfloat16"), variables, x)
  exact, _ = train(net, variables, x)
  assert logits.shape == (16, 5)
  assert {a.dtype for a in jax.tree.leaves((logits, state))} == {jnp.dtype("float32")}
  assert 0 < jnp.abs(exact - logits).max() < 0.1 * jnp.abs(exact).max()


@pytest.mark.parametrize("name", SMALL)
def test_float64(name, draw_variables):
  net = SMALL[name]
  variables, x = draw_variables(net), images()
  single, single_state = train(net, variables, x)
  with jax.enable_x64(True):
    to_double = lambda tree: jax.tree.map(lambda a: np.asarray(a, np.float64), tree)  # noqa: E731
    double, state = train(net.clone(dtype="float64"), to_double(variables), to_double(x))
    assert {a.dtype for a in jax.tree.leaves((double, state))} == {jnp.dtype("float64")}
    double, state = jax.tree.map(np.asarray, (double, state))
  assert (double.astype(np.float32) != double).any()
  assert_close((single, single_state), (double, state), 1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(set(models.MODELS) - {"lenet", "unet"}))  # which have none
def test_batchnorm_fields_reach_every_layer(name, shapes_of):
  options = {"mlp": {"norm": True}, "cifar_resnet": {"depth": 8}, "wide_resnet": {"depth": 10}}
  net = models.create(
    name,
    num_classes=5,
    bn_group_size=2,
    bn_axis_name="data",
    bn_momentum=0.5,
    bn_epsilon=0.1,
    bn_debias=True,
    dtype="bfloat16",
    **options.get(name, {}),
  )
  layers = []

  def spy(call, args, kwargs, context):
    if isinstance(context.module, models.BatchNorm) and context.method_name == "__call__":
      layers.append(context.module)
    return call(*args, **kwargs)

  with nn.intercept_methods(spy):
    variables = shapes_of(net)
  assert len({layer.path for layer in layers}) == len(layers) > 0
  assert 3 * len(layers) == len(jax.tree.leaves(variables["batch_stats"]))
  for layer in layers:
    assert "batchnorm" in layer.name
    assert (layer.group_size, layer.axis_name) == (2, "data")
    assert (layer.momentum, layer.epsilon, layer.debias) == (0.5, 0.1, True)
    assert layer.dtype == "bfloat16"


def test_pad_to_pads_with_black_before_normalisation(draw_variables):
  net = models.MLP(num_classes=3, mean=(0.5,), std=(0.5,))
  variables = draw_variables(net, (12, 12, 1))
  x = images(side=9, channels=1)
  padded = jnp.pad(x, ((0, 0), (1, 2), (1, 2), (0, 0)))
  inside = net.clone(pad_to=12).apply(variables, x)
  assert_close(inside, net.apply(variables, padded), 1e-6)
  with pytest.raises(ValueError, match=r"pad_to=8 is smaller than the images, \(9, 9\)"):
    net.clone(pad_to=8).apply(variables, x)


@pytest.mark.parametrize("zero", [True, False])
def test_head_starts_as_asked(zero):
  net = models.MLP(num_classes=3, hidden=(), zero_init_logits=zero)
  logits, _ = net.init_with_output(jax.random.key(0), images())
  params = net.init(jax.random.key(0), images())["params"]["logits"]
  assert (logits == 0).all() == (params["kernel"] == 0).all() == zero
  assert (params["bias"] == 0).all()
  assert models.WideResNet(num_classes=3).zero_init_logits


def test_small_cnn_without_norm_has_biases_and_no_statistics(shapes_of):
  net = models.SmallCNN(num_classes=3, channels=(4,), strides=(2,), norm=False)
  variables = shapes_of(net)
  assert variables.keys() == {"params"}
  assert variables["params"]["conv_0"].keys() == {"kernel", "bias"}


def test_linear_classifier_is_linear(draw_variables):
  net = models.MLP(num_classes=3, hidden=())
  x = images()
  params = draw_variables(net)["params"]["logits"]
  expected = np.asarray(x).reshape(4, -1) @ params["kernel"] + params["bias"]
  assert_close(net.apply({"params": {"logits": params}}, x), expected, 1e-5)


def test_small_cnn_agrees_with_the_recorded_net(oracles):
  path = oracles / "autoattack" / "cifar10_cnn.npz"
  recorded = np.load(path, allow_pickle=False)
  net = models.SmallCNN(
    num_classes=10,
    channels=(32, 64, 64, 128, 128),
    strides=(1, 2, 1, 2, 1),
    padding=1,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
  )
  x = jnp.asarray(recorded["images_uint8"][:20], jnp.float32) / 255
  shapes = jax.eval_shape(net.init, jax.random.key(0), x)
  variables = from_torch(load_arrays(path, prefix="weights/"), shapes, names="small_cnn")
  logits = jax.jit(net.apply)(variables, x)
  assert_close(logits, recorded["logits"][:20], 1e-4)


def test_small_cnn_default_is_small():
  net = models.SmallCNN(num_classes=10)
  x = jnp.zeros((1, 32, 32, 3))
  variables = jax.eval_shape(net.init, jax.random.key(0), x)
  flops = jax.jit(net.apply).lower(variables, x).compile().cost_analysis()["flops"]
  assert flops / 2 < 5e6


def test_channels_and_strides_must_pair():
  with pytest.raises(ValueError, match=r"channels=\(4, 8\) and strides=\(1,\) differ"):
    models.SmallCNN(num_classes=3, channels=(4, 8), strides=(1,))


def test_integer_images_are_refused():
  net = models.MLP(num_classes=3)
  x = jnp.zeros((1, 2, 2, 3), jnp.uint8)
  message = (
    r"x is uint8; expected floating-point images in \[0, 1\]|u8\[1,2,2,3\]"  # ours, or jaxtyping's
  )
  with pytest.raises(TypeError, match=message):
    net.init(jax.random.key(0), x)
