"""The convolutions that are arranged anew on the CPU are JAX's, and so are their derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from jax.sharding import PartitionSpec as P
from rows import mostly_slow

from jax_robust import models
from jax_robust.models.convolution import _columns_at_once, conv_general_dilated
from jax_robust.nets.exits import predictions

KEY = jax.random.key(0)
LAYOUT = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


@pytest.mark.parametrize(
  ("shape", "kernel_size", "strides", "padding", "options"),
  [
    ((1, 8, 8, 3), 3, (1, 1), [(0, 2), (1, 1)], {}),
    ((1, 8, 8, 3), 3, (1, 1), "VALID", {"rhs_dilation": (2, 1)}),
    ((1, 8, 8, 3), 3, (1, 1), [(1, 1), (1, 1)], {"lhs_dilation": (1, 2)}),
    ((1, 8, 8, 6), 3, (1, 1), "SAME", {"feature_group_count": 2}),
  ],
)
def test_every_convolution_is_that_of_xla(shape, kernel_size, strides, padding, options):
  x, kernel = jax.random.normal(KEY, shape), jax.random.normal(KEY, (kernel_size,) * 2 + (3, 4))
  ours = conv_general_dilated(x, kernel, strides, padding, **options, **LAYOUT)
  theirs = jax.lax.conv_general_dilated(x, kernel, strides, padding, **options, **LAYOUT)
  assert_close(ours, theirs)


@pytest.mark.parametrize(
  ("x_shape", "kernel_shape", "strides", "padding"),
  [
    # Without padding, more than 3x3: colour, grey, and one output of one place.
    ((2, 9, 7, 3), (5, 5, 3, 4), (1, 1), "VALID"),
    ((2, 6, 6, 1), (4, 5, 1, 2), (1, 1), "VALID"),
    ((1, 5, 5, 2), (5, 5, 2, 1), (1, 1), "VALID"),
    # Several columns at once: see the test of `_columns_at_once`.
    ((2, 5, 4, 16), (3, 3, 16, 16), (1, 1), "SAME"),
    ((2, 5, 8, 3), (3, 3, 3, 16), (1, 1), [(1, 1), (1, 1)]),
    ((2, 5, 6, 3), (3, 3, 3, 24), (1, 1), "SAME"),
    ((2, 5, 5, 3), (3, 3, 3, 16), (1, 1), "SAME"),
    ((2, 5, 4, 32), (3, 3, 32, 64), (1, 1), "SAME"),
    # Strides and other paddings.
    ((2, 8, 7, 3), (3, 3, 3, 4), (2, 2), "SAME"),
    ((2, 8, 7, 3), (3, 3, 3, 4), (2, 2), [(1, 1), (1, 1)]),
    ((2, 8, 7, 3), (1, 1, 3, 4), (2, 2), "SAME"),
    ((2, 8, 7, 3), (1, 1, 3, 4), (1, 1), "SAME"),
    ((2, 8, 7, 3), (2, 2, 3, 4), (2, 1), "VALID"),
    ((2, 8, 7, 1), (2, 3, 1, 4), (1, 1), "VALID"),
    ((2, 8, 7, 3), (3, 3, 3, 4), (3, 2), [(2, 0), (0, 3)]),
    ((2, 8, 7, 3), (5, 5, 3, 4), (1, 1), "SAME"),
    ((2, 8, 7, 3), (7, 7, 3, 4), (2, 2), "SAME"),
    # 3x3 that halves: by parity, few outputs (also of wide kernels), many channels of the gradient.
    ((2, 8, 6, 3), (3, 3, 3, 4), (2, 2), [(1, 1), (1, 1)]),
    ((2, 4, 4, 3), (3, 3, 3, 4), (2, 2), [(1, 1), (1, 1)]),
    ((2, 4, 2, 33), (3, 3, 33, 34), (2, 2), [(1, 1), (1, 1)]),
    ((2, 6, 8, 3), (3, 3, 3, 40), (2, 2), [(1, 1), (1, 1)]),
    ((2, 5, 8, 3), (3, 3, 3, 4), (2, 2), [(1, 1), (1, 1)]),
  ],
)
def test_derivatives_are_those_of_xla(x_shape, kernel_shape, strides, padding):
  """Both modes, twice, and batching."""
  draw = np.random.default_rng(0)
  x, dx = draw.normal(size=(2, *x_shape)).astype(np.float32)
  kernel, dkernel = draw.normal(size=(2, *kernel_shape)).astype(np.float32)

  def derivatives(convolve, x, kernel):
    def convolution(x, kernel):
      return convolve(x, kernel, strides, padding, **LAYOUT)

    def loss(x, kernel):
      return jnp.mean(jnp.sin(convolution(x, kernel)))

    gradient = jax.grad(loss, (0, 1))
    return (
      gradient(x, kernel),
      jax.grad(lambda *at: sum(jnp.sum(g**2) for g in gradient(*at)), (0, 1))(x, kernel),
      jax.jvp(convolution, (x, kernel), (dx, dkernel)),
      jax.jvp(gradient, (x, kernel), (dx, dkernel)),
      jax.vmap(convolution, (1, None), 1)(jnp.stack([x, dx], 1), kernel),
      jax.vmap(convolution, (None, 0))(x, jnp.stack([kernel, dkernel])),
    )

  ours, theirs = (
    functools.partial(derivatives, f) for f in (conv_general_dilated, jax.lax.conv_general_dilated)
  )
  assert_close(*jax.jit(lambda *at: (ours(*at), theirs(*at)))(x, kernel))


# Channels in and out and width for which 1, 2, 4 or 8 columns are made at once, in x and backwards.
@pytest.mark.parametrize(
  ("c", "d", "width", "columns"),
  [
    (16, 16, 4, (2, 2)),
    (3, 16, 8, (4, 8)),
    (3, 24, 6, (2, 1)),
    (3, 16, 5, (1, 1)),
    (32, 64, 4, (1, 1)),
  ],
)
def test_columns_at_once(c, d, width, columns):
  assert (_columns_at_once(c, d, width), _columns_at_once(d, c, width)) == columns


@pytest.mark.parametrize("check_vma", [True, False])
def test_kernel_gradients_are_summed_over_devices(check_vma):
  """As JAX does by default under `shard_map`, and by hand where it does not look."""
  x, kernel = jnp.arange(8.0 * 36).reshape(8, 6, 6, 1), jnp.ones((5, 5, 1, 2))

  def gradient(x, kernel):
    return jax.grad(lambda k: conv_general_dilated(x, k, (1, 1), "VALID", **LAYOUT).sum())(kernel)

  def on_each(x, kernel):
    return gradient(x, kernel) if check_vma else jax.lax.psum(gradient(x, kernel), "data")

  mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  mapped = jax.shard_map(
    on_each, mesh=mesh, in_specs=(P("data"), P()), out_specs=P(), check_vma=check_vma
  )
  assert_close(jax.jit(mapped)(x, kernel), gradient(x, kernel))


NETS = {
  "cifar_resnet": {"depth": 8},
  "preact_resnet18": {"width": 2},
  "resnet18": {"width": 2},
  "wide_resnet": {"depth": 10, "width": 1},
  "small_cnn": {"channels": (4, 8), "strides": (1, 2)},
  "mlp": {"hidden": (4,)},
  "msdnet": {
    "num_blocks": 1, "base": 1, "channels": 2, "growth": 2,
    "growth_factors": (1, 2), "bottleneck_factors": (1, 2),
  },
}  # fmt: skip


CLASSIFIERS = [*filter(models.is_classifier, models.MODELS)]


def twins(name):
  """A small net and its twin with plain convolutions, and an image's shape."""
  net = models.create(name, num_classes=3, **NETS.get(name, {}))
  return net, net.clone(convolution="xla"), (16, 16, 1) if name == "lenet" else (8, 8, 3)


@pytest.mark.thorough
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_plain_convolutions_are_one_option_away(name, shapes_of):
  ours, plain, shape = twins(name)
  variables, x = shapes_of(ours, shape), jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  arranged = name != "mlp" and jax.default_backend() == "cpu"
  assert (" convolution[" in str(jax.make_jaxpr(ours.apply)(variables, x))) == arranged
  assert " convolution[" not in str(jax.make_jaxpr(plain.apply)(variables, x))


# ResNet-50's first layer is among the layouts above; the others have the layers of CifarResNet or
# PreActResNet-18.
DEEP = ("resnet18", "resnet34", "resnet50", "preact_resnet34", "preact_resnet50")


@pytest.mark.thorough
@pytest.mark.parametrize("name", mostly_slow(CLASSIFIERS, *({*CLASSIFIERS} - {*DEEP})))
def test_both_modes_through_every_net(name, draw_variables):
  """Forward mode, and forward over reverse, are those of the net with XLA's convolutions."""
  *nets, shape = twins(name)
  variables = draw_variables(nets[0], shape)
  ours, plain = (functools.partial(net.apply, variables) for net in nets)
  x, dx = jax.random.uniform(KEY, (1, *shape)), jax.random.normal(KEY, (1, *shape))

  def derivatives(apply_fn, x):
    total = lambda x: jnp.sum(jnp.sin(predictions(apply_fn(x))))  # noqa: E731
    return jax.jvp(jax.value_and_grad(total), (x,), (dx,))

  assert_close(*jax.jit(lambda x: (derivatives(ours, x), derivatives(plain, x)))(x))


def test_every_weight_has_its_hessian():
  """`jacfwd` and `hessian` of LeNet's loss in its first kernel, as with XLA's convolutions."""
  net = models.LeNet(num_classes=3)
  x = jax.random.uniform(KEY, (1, 16, 16, 1))
  params = jax.jit(net.init)(KEY, x)["params"]

  def loss(net, bias):
    changed = {**params, "conv_1": {**params["conv_1"], "bias": bias}}
    return jnp.sum(jnp.sin(net.apply({"params": changed}, x)))

  bias = params["conv_1"]["bias"]
  ours, theirs = (
    jax.jit(jax.hessian(functools.partial(loss, net)))(bias)
    for net in (net, net.clone(convolution="xla"))
  )
  assert_close(ours, theirs)
