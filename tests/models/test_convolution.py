"""The convolutions that are cut otherwise, and their derivatives, are the convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust.models.convolution import (
  _columns_at_once,
  conv_general_dilated,
  valid_convolution,
)

KEY = jax.random.key(0)
SHAPES = [((2, 9, 7, 3), (5, 5, 3, 4)), ((2, 6, 6, 1), (2, 3, 1, 2)), ((1, 5, 5, 2), (5, 5, 2, 1))]


def plain(x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


@pytest.mark.parametrize(("x_shape", "kernel_shape"), SHAPES)
def test_gradients_are_those_of_the_convolution(x_shape, kernel_shape):
  assert jax.default_backend() != "cpu" or "custom_vjp" in str(
    jax.make_jaxpr(valid_convolution)(jnp.zeros(x_shape), jnp.zeros(kernel_shape))
  )
  x, kernel = jax.random.normal(KEY, x_shape), jax.random.normal(KEY, kernel_shape)

  def both(convolve):
    def loss(x, kernel):
      return jnp.sum(jnp.sin(convolve(x, kernel)))

    def norm_of_gradient(x, kernel):
      return sum(jnp.sum(g**2) for g in jax.grad(loss, (0, 1))(x, kernel))

    first, second = jax.grad(loss, (0, 1)), jax.grad(norm_of_gradient, (0, 1))
    return jax.jit(lambda x, kernel: (convolve(x, kernel), first(x, kernel), second(x, kernel)))(
      x, kernel
    )

  found = [jax.tree.leaves(both(convolve)) for convolve in (valid_convolution, plain)]
  for ours, theirs in zip(*found, strict=True):
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * scale)


@pytest.mark.parametrize(
  ("shape", "kernel_size", "strides", "padding", "options"),
  [
    ((1, 8, 8, 3), 3, (1, 1), "SAME", {}),
    ((1, 8, 8, 3), 3, (1, 1), [(1, 1), (1, 1)], {}),
    ((1, 8, 8, 3), 5, (1, 1), "VALID", {}),
    ((1, 8, 8, 3), 5, (1, 1), "SAME", {}),
    ((1, 8, 8, 3), 3, (2, 2), "SAME", {}),
    ((1, 8, 8, 3), 3, (1, 1), [(0, 2), (1, 1)], {}),
    ((1, 8, 8, 3), 5, (1, 1), "VALID", {"rhs_dilation": (2, 1)}),
    ((1, 8, 8, 3), 3, (1, 1), [(1, 1), (1, 1)], {"lhs_dilation": (1, 2)}),
    ((1, 8, 8, 6), 3, (1, 1), "SAME", {"feature_group_count": 2}),
  ],
)
def test_every_convolution_is_that_of_xla(shape, kernel_size, strides, padding, options):
  x, kernel = jax.random.normal(KEY, shape), jax.random.normal(KEY, (kernel_size,) * 2 + (3, 4))
  options["dimension_numbers"] = ("NHWC", "HWIO", "NHWC")
  ours = conv_general_dilated(x, kernel, strides, padding, **options)
  theirs = jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
  np.testing.assert_allclose(ours, theirs, atol=1e-5)


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
  check_derivatives((2, 5, width, c), (3, 3, c, d), (1, 1), "SAME")


@pytest.mark.parametrize(
  ("size", "strides", "padding"),
  [
    (3, (2, 2), "SAME"),
    (3, (2, 2), [(1, 1), (1, 1)]),
    (1, (2, 2), "SAME"),
    (1, (1, 1), "SAME"),
    (2, (2, 1), "VALID"),
    (3, (3, 2), [(2, 0), (0, 3)]),
    (5, (1, 1), "SAME"),
    (7, (2, 2), "SAME"),
  ],
)
def test_layouts(size, strides, padding):
  check_derivatives((2, 8, 7, 3), (size, size, 3, 4), strides, padding)


def check_derivatives(x_shape, kernel_shape, strides, padding):
  """Both modes, twice, and batching are those of XLA's convolution."""
  x, kernel = jax.random.normal(KEY, x_shape), jax.random.normal(KEY, kernel_shape)
  dx, dkernel = jax.random.normal(KEY, x_shape), jax.random.normal(KEY, kernel_shape)

  def derivatives(convolve):
    def convolution(x, kernel):
      return convolve(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def loss(x, kernel):
      return jnp.mean(jnp.sin(convolution(x, kernel)))

    return jax.jit(lambda x, kernel, dx, dkernel: (
      convolution(x, kernel),
      jax.grad(loss, (0, 1))(x, kernel),
      jax.grad(lambda kernel: jnp.sum(jax.grad(loss)(x, kernel) ** 2))(kernel),
      jax.jvp(convolution, (x, kernel), (dx, dkernel)),
      jax.jvp(jax.grad(loss), (x, kernel), (dx, dkernel)),
      jax.vmap(convolution, (0, None))(jnp.stack([x, dx]), kernel),
    ))(x, kernel, dx, dkernel)  # fmt: skip

  found = [
    jax.tree.leaves(derivatives(f)) for f in (conv_general_dilated, jax.lax.conv_general_dilated)
  ]
  for ours, theirs in zip(*found, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
