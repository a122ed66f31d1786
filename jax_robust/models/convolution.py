"""Convolutions, cut so that XLA's CPU backend is faster at them and at their gradients."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float


def conv_general_dilated(lhs, rhs, window_strides, padding, **options):
  """As `flax.linen.Conv` calls `jax.lax.conv_general_dilated`, and the same but for the time.

  XLA's are all on accelerators, dilated and grouped ones, and those with more than 32 channels on
  both sides, with which a step of PreActResNet-18 took 9 % longer as here.
  """
  ones = all(set(options.get(f"{side}_dilation") or (1,)) == {1} for side in ("lhs", "rhs"))
  simple = ones and lhs.ndim == 4 and options.get("feature_group_count", 1) == 1
  narrow = min(rhs.shape[2:]) <= 32
  if not (simple and narrow) or jax.default_backend() != "cpu":
    return jax.lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
  precision = options.get("precision")
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
  layout = _Layout(tuple(window_strides), tuple(map(tuple, padding)))
  if layout == _Layout() and min(rhs.shape[:2]) > 3:
    return valid_convolution(lhs, rhs, precision=precision)
  return _convolution(lhs, rhs, layout, precision)


class _Layout(NamedTuple):
  """Strides, and zeros before and after, of rows and of columns."""

  strides: tuple[int, int] = (1, 1)
  padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))


_SAME = _Layout(padding=((1, 1), (1, 1)))


def _is_same(kernel, layout) -> bool:
  """Whether a 3x3 kernel makes an output of every pixel, and so does its transpose."""
  return kernel.shape[:2] == (3, 3) and layout == _SAME


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _convolution(x, kernel, layout, precision):
  """A convolution with the derivatives of `_convolution_jvp`."""
  if _is_same(kernel, layout):
    return _by_columns(x, kernel, layout.padding, precision)
  return _convolve(x, kernel, precision, *layout)


@functools.partial(_convolution.defjvp, symbolic_zeros=True)
def _convolution_jvp(layout, precision, primals, tangents):
  """Derivatives as the transposes of what the gradients are best computed by.

  So both modes work, to any order; forward mode takes two to five times as long as XLA's.
  """
  (x, kernel), (dx, dkernel) = primals, tangents
  y, dy = _convolution(x, kernel, layout, precision), []
  same, (rows, columns), (down, right) = _is_same(kernel, layout), kernel.shape[:2], layout.strides

  def gradient_in_x(gradient):
    return _convolution(gradient, kernel[::-1, ::-1].swapaxes(2, 3), layout, precision)

  def gradient_in_kernel(gradient):
    if same:
      return _kernel_gradient_by_strips(x, gradient, precision)
    return _kernel_gradient_by_windows(x, gradient, kernel.shape, layout, precision)

  if not isinstance(dx, SymbolicZero):
    if same:
      dy += jax.linear_transpose(gradient_in_x, y)(dx)
    else:
      dy.append(_convolve(dx, kernel, precision, *layout))
  if not isinstance(dkernel, SymbolicZero):
    # Windows of 3x3 at stride 2 hold each pixel 2.25 times; more than 4 times is too much memory.
    if same or rows * columns <= 4 * down * right:
      dy += jax.linear_transpose(gradient_in_kernel, y)(dkernel)
    else:
      dy.append(_convolve(x, dkernel, precision, *layout))
  return y, sum(dy[1:], dy[0])


def _by_columns(x, kernel, padding, precision):
  """A convolution that keeps the size, with several neighbouring outputs as channels of one.

  XLA's CPU backend needs some 32 output channels to be fast. A kernel with one column more and
  stride 2 makes two neighbours as twice the channels, with a third more multiplications. 128
  images of 32x32 with 16 channels took 12.0 ms, 8.3 ms as here, from 3 to 24 channels 26 ms and
  2.6 ms, from 3 to 16 channels 8.4 ms and 2.7 ms (one core).
  """
  (rows, columns, c, d), width = kernel.shape, x.shape[2]
  num = _columns_at_once(c, d, width)
  shifted = [jnp.pad(kernel, ((0, 0), (i, num - 1 - i), (0, 0), (0, 0))) for i in range(num)]
  wide = jnp.stack(shifted, axis=3).reshape(rows, columns + num - 1, c, num * d)
  return _convolve(x, wide, precision, (1, num), padding).reshape(*x.shape[:3], d)


def _columns_at_once(c: int, d: int, width: int) -> int:
  """How many neighbouring outputs with d channels, made from c, are fastest: 1, 2, 4 or 8.

  Measured with 3x3 kernels, c and d from 1 to 96: few inputs need more than 32 outputs.
  """
  enough = 33 if c < 8 else 24 if c <= 16 else 1
  nums = [num for num in (1, 2, 4, 8) if width % num == 0 and num * d >= enough]
  return min(nums, default=1)


def _kernel_gradient_by_strips(x, gradient, precision):
  """The gradient of a 3x3 kernel that keeps the size: one product of shifted images and gradients.

  XLA's is a convolution of transposed arrays, and into the transpositions it fuses, again, all
  BatchNorms and sums since the last block of another width: a third of a step of ResNet-20.
  """
  c, d = x.shape[-1], gradient.shape[-1]
  images = jnp.concatenate(_shifts(x, axis=2), -1).reshape(-1, 3 * c)
  gradients = jnp.concatenate(_shifts(gradient, axis=1)[::-1], -1).reshape(-1, 3 * d)
  product = jnp.einsum("nc,nd->cd", images, gradients, precision=precision)
  return product.reshape(3, c, 3, d).transpose(2, 0, 1, 3)


def _shifts(x, axis):
  """`x` as seen from the place before, from its own and from the one after, zeros around."""
  padded, size = jnp.pad(x, [(int(i == axis),) * 2 for i in range(x.ndim)]), x.shape[axis]
  return [jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(3)]


def _kernel_gradient_by_windows(x, gradient, shape, layout, precision):
  """The kernel's gradient as one product of every window with its output's gradient."""
  (rows, columns, c, d), (h, w) = shape, gradient.shape[1:3]
  down, right = layout.strides
  padded = jnp.pad(x, ((0, 0), *layout.padding, (0, 0)))
  windows = [
    padded[:, i : i + down * (h - 1) + 1 : down, j : j + right * (w - 1) + 1 : right]
    for i in range(rows)
    for j in range(columns)
  ]
  windows = jnp.concatenate(windows, -1).reshape(-1, rows * columns * c)
  product = jnp.einsum("nc,nd->cd", windows, gradient.reshape(-1, d), precision=precision)
  return product.reshape(shape)


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


def _convolve(x, kernel, precision, strides=(1, 1), padding="VALID"):
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
