"""The convolution with a gradient of its own is the convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust.models.convolution import conv_general_dilated, valid_convolution

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
  ("strides", "padding", "options"),
  [
    ((2, 2), "VALID", {}),
    ((1, 1), "SAME", {}),
    ((1, 1), [(1, 1), (1, 1)], {}),
    ((1, 1), "VALID", {"rhs_dilation": (2, 2)}),
    ((1, 1), "VALID", {"feature_group_count": 2}),
  ],
)
def test_other_convolutions_are_refused(strides, padding, options):
  x, kernel = jnp.zeros((1, 6, 6, 2)), jnp.zeros((3, 3, 2, 2))
  with pytest.raises(ValueError, match="expected"):
    conv_general_dilated(x, kernel, strides, padding, **options)
