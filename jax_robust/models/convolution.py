"""Convolutions of stride 1, cut so that XLA's CPU backend is faster at them and their gradients."""

import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float


def conv_general_dilated(lhs, rhs, window_strides, padding, **options):
  """As `flax.linen.Conv` calls `jax.lax.conv_general_dilated`, and the same but for the time.

  3x3 kernels with padding go to `same_convolution`, larger ones without to `valid_convolution`; all
  else, and all on accelerators, is XLA's.
  """
  ones = all(set(options.get(f"{side}_dilation") or (1,)) == {1} for side in ("lhs", "rhs"))
  simple = ones and set(window_strides) == {1} and options.get("feature_group_count", 1) == 1
  if simple and lhs.ndim == 4 and jax.default_backend() == "cpu":
    if rhs.shape[:2] == (3, 3) and padding in ("SAME", [(1, 1), (1, 1)]):
      return same_convolution(lhs, rhs, precision=options.get("precision"))
    if min(rhs.shape[:2]) > 3 and padding in ("VALID", [(0, 0), (0, 0)]):
      return valid_convolution(lhs, rhs, precision=options.get("precision"))
  return jax.lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)


def same_convolution(
  x: Float[Array, "b h w c"],
  kernel: Float[Array, "k k c d"],
  *,
  precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "b h w d"]:
  """Convolves with zero padding to the same size, stride 1; several columns at once on the CPU.

  XLA's CPU backend needs some 32 output channels to be fast. A kernel with two columns more and
  stride 2 makes two neighbouring outputs as twice the channels, with a third more multiplications:
  128 images of 32x32 with 16 channels took 12.0 ms, 8.3 ms as here, from 3 to 24 channels 26 ms
  and 2.6 ms, from 3 to 16 channels 8.4 ms and 2.7 ms (one core).

  Guarantees:
    `same_is_the_convolution`: to rounding, and so are first and second derivatives, in reverse and
    forward mode (forward mode takes two to five times as long as XLA's).

  Args:
    x: images.
    kernel: with an odd number of rows and columns.
    precision: as that of `jax.lax.conv`.

  Returns:
    The convolution.

  >>> x, kernel = jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1))
  >>> same_convolution(x, kernel)[0, :, :, 0].tolist()[0]
  [4.0, 6.0, 6.0, 4.0]
  """
  (c, d), width = kernel.shape[2:], x.shape[2]
  gains = max(_columns_at_once(c, d, width), _columns_at_once(d, c, width)) > 1
  if gains and jax.default_backend() == "cpu":
    return _by_columns(x, kernel, precision)
  return _convolve(x, kernel, precision, padding="SAME")


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _by_columns(x, kernel, precision):
  """The padded convolution, `_columns_at_once` neighbouring outputs as channels."""
  (rows, columns, c, d), width = kernel.shape, x.shape[2]
  num = _columns_at_once(c, d, width)
  shifted = [jnp.pad(kernel, ((0, 0), (i, num - 1 - i), (0, 0), (0, 0))) for i in range(num)]
  wide = jnp.stack(shifted, axis=3).reshape(rows, columns + num - 1, c, num * d)
  padding = [(rows // 2, rows // 2), (columns // 2, columns // 2)]
  y = _convolve(x, wide, precision, padding=padding, strides=(1, num))
  return y.reshape(*x.shape[:3], d)


def _columns_at_once(c: int, d: int, width: int) -> int:
  """How many neighbouring outputs with d channels, made from c, are fastest: 1, 2, 4 or 8.

  Measured for c and d from 1 to 96: with few inputs more than 32 outputs are needed.
  """
  enough = 33 if c < 8 else 24 if c <= 16 else 1
  nums = [num for num in (1, 2, 4, 8) if width % num == 0 and num * d >= enough]
  return min(nums, default=1)


@functools.partial(_by_columns.defjvp, symbolic_zeros=True)
def _by_columns_jvp(precision, primals, tangents):
  """The derivative in x as the transpose of what its gradient is best computed by."""
  (x, kernel), (dx, dkernel) = primals, tangents
  y, dy = _by_columns(x, kernel, precision), []
  if not isinstance(dx, SymbolicZero):

    def gradient_in_x(gradient):
      return _by_columns(gradient, kernel[::-1, ::-1].swapaxes(2, 3), precision)

    dy += jax.linear_transpose(gradient_in_x, y)(dx)
  if not isinstance(dkernel, SymbolicZero):
    dy.append(_convolve(x, dkernel, precision, padding="SAME"))
  return y, sum(dy[1:], dy[0])


def valid_convolution(
  x: Float[Array, "b h w c"],
  kernel: Float[Array, "k l c d"],
  *,
  precision: jax.lax.PrecisionLike = None,
) -> Float[Array, "b h2 w2 d"]:
  """Convolves without padding, stride 1; on the CPU with faster gradients.

  XLA's CPU backend computes the gradient in x as a convolution with as few output channels as x
  has, which 5x5 kernels make slow: 256 images of 28x28x1 took 35 ms of CPU time, 4 ms as here, and
  12x12x20 took 39 ms and 18 ms. With 3x3 kernels and 16 channels or more it is the other way round.
  The kernel's gradient for images of one channel took 19 ms, 7 ms as here.

  Guarantees:
    `gradients_are_those_of_the_convolution`: to rounding, and so are second derivatives.

  Args:
    x: images.
    kernel: of odd or even size.
    precision: as that of `jax.lax.conv`.

  Returns:
    The convolution.

  >>> x, kernel = jnp.ones((1, 6, 6, 1)), jnp.ones((5, 5, 1, 2))
  >>> valid_convolution(x, kernel)[0, :, :, 1].tolist()
  [[25.0, 25.0], [25.0, 25.0]]
  """
  if jax.default_backend() != "cpu":
    return _convolve(x, kernel, precision)
  return _with_fast_gradient(x, kernel, precision)


def _convolve(x, kernel, precision, *, padding="VALID", strides=(1, 1)):
  """XLA's."""
  return jax.lax.conv_general_dilated(
    x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _with_fast_gradient(x, kernel, precision):
  """The convolution, with `_backward` for its gradient."""
  return _convolve(x, kernel, precision)


def _forward(x, kernel, precision):
  """The convolution, and what its gradient needs."""
  return _convolve(x, kernel, precision), (x, kernel)


def _backward(precision, kept, gradient):
  """The gradients in the images and in the kernel."""
  x, kernel = kept
  to_x = _input_gradient(kernel, gradient, precision)
  if x.shape[-1] == 1:
    return to_x, _kernel_gradient_of_grey(x, kernel, gradient, precision)
  to_kernel = jax.vjp(lambda kernel: _convolve(x, kernel, precision), kernel)[1](gradient)[0]
  return to_x, to_kernel


def _input_gradient(kernel, gradient, precision):
  """Each pixel's share of each output, by one product, added up where it came from."""
  b, h, w, d = gradient.shape
  rows, columns, c, _ = kernel.shape
  # Flat, so that XLA makes a product for each place of the kernel and transposes no share after it.
  pixels, places = gradient.reshape(-1, d), kernel.reshape(-1, c, d)
  shares = jnp.einsum("nd,pcd->pnc", pixels, places, precision=precision)
  shares = shares.reshape(rows, columns, b, h, w, c)
  to_x = jnp.zeros((b, h + rows - 1, w + columns - 1, c), gradient.dtype)
  for i in range(rows):
    for j in range(columns):
      to_x = to_x.at[:, i : i + h, j : j + w].add(shares[i, j])
  return to_x


def _kernel_gradient_of_grey(x, kernel, gradient, precision):
  """The kernel's gradient, a product for each of its rows; of images of one channel."""
  (h, w, d), columns = gradient.shape[1:], kernel.shape[1]
  strips = jnp.concatenate([x[:, :, j : j + w] for j in range(columns)], -1)
  pixels = gradient.reshape(-1, d)

  def row(i):
    return jnp.matmul(strips[:, i : i + h].reshape(-1, columns).T, pixels, precision=precision)

  return jnp.stack([row(i) for i in range(kernel.shape[0])])[:, :, None]


_with_fast_gradient.defvjp(_forward, _backward)
