"""The convolutions of the nets: `jax.lax.conv_general_dilated`, or a faster arrangement on the CPU.

XLA's CPU backend is slow at convolutions with few channels and at some of their gradients. Here
such a convolution is a JAX primitive, bilinear in images and kernel, with the same values to
rounding: its evaluation and its two transposes are arranged anew, and JAX derives both modes of
differentiation, to any order, from these.
"""

import functools

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array


def conv_general_dilated(lhs: Array, rhs: Array, window_strides, padding, **options) -> Array:
  """As `jax.lax.conv_general_dilated`, with the arguments that `flax.linen.Conv` passes.

  It calls that function on accelerators, for dilated and grouped convolutions, under `shard_map`
  with `check_vma=True`, and for more than 32 channels on both sides, where the arrangements below
  made a step of PreActResNet-18 9 % slower; but not where 3x3 kernels halve images of 4x4 pixels
  or fewer.

  Guarantees:
    `every_convolution_is_that_of_xla`: to rounding, with any options.
    `derivatives_are_those_of_xla`: to rounding, in both modes and twice; batching too.

  Args:
    lhs: images `[b, h, w, c]`.
    rhs: kernel `[k, l, c, d]`.
    window_strides: of rows and columns.
    padding: "SAME", "VALID", or zeros before and after, of rows and of columns.
    **options: the other arguments of `jax.lax.conv_general_dilated`.

  Returns:
    The convolved images `[b, h2, w2, d]`.

  >>> images, kernel = jnp.ones((1, 6, 6, 1)), jnp.ones((5, 5, 1, 2))
  >>> layout = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
  >>> conv_general_dilated(images, kernel, (1, 1), "VALID", **layout)[0, :, :, 1].tolist()
  [[25.0, 25.0], [25.0, 25.0]]
  """
  undilated = all(set(options.get(f"{side}_dilation") or (1,)) == {1} for side in ("lhs", "rhs"))
  simple = undilated and lhs.ndim == 4 and options.get("feature_group_count", 1) == 1
  tracked = _varies_over_devices(lhs) or _varies_over_devices(rhs)
  if not simple or tracked or jax.default_backend() != "cpu":
    return jax.lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
  strides, padding = tuple(window_strides), tuple(map(tuple, padding))
  narrow = min(rhs.shape[2:]) <= 32
  if not narrow and not (_halves(lhs, rhs, strides, padding) and max(lhs.shape[1:3]) <= 4):
    return jax.lax.conv_general_dilated(lhs, rhs, strides, padding, **options)
  return _convolution.bind(
    lhs,
    rhs,
    strides=strides,
    padding=padding,
    # Read here: a primitive is lowered after the `with` block that sets the default has ended.
    precision=options.get("precision") or jax.config.jax_default_matmul_precision,  # pyrefly: ignore
  )


CONVOLUTIONS = {"auto": conv_general_dilated, "xla": jax.lax.conv_general_dilated}
"""Choices of a net's `convolution`: the fastest for the backend, or always `jax.lax`'s."""


def _varies_over_devices(x) -> bool:
  """Whether JAX tracks over which axes of a `shard_map` x varies, as it does by default.

  The gradients of a kernel that does not vary must then be summed over devices; the transposes
  below would not do so. JAX has had two names for what it tracks.
  """
  aval = jax.typeof(x)
  tracked = getattr(aval, "manual_axis_type", aval)
  return bool(getattr(tracked, "varying", None) or getattr(tracked, "vma", None))


def _evaluate(x, kernel, *, strides, padding, precision):
  """The values of the convolution."""
  if _keeps_size(kernel, strides, padding):
    return _by_columns(x, kernel, padding, precision)
  return _xla(x, kernel, strides=strides, padding=padding, precision=precision)


def _gradient_in_x(gradient, x, kernel, **layout):
  """The transpose in the images."""
  if _keeps_size(kernel, layout["strides"], layout["padding"]):
    return _convolution.bind(gradient, kernel[::-1, ::-1].swapaxes(2, 3), **layout)
  if _is_valid(kernel, layout["strides"], layout["padding"]):
    return _x_gradient_by_places(gradient, kernel, layout["precision"])
  if _halves(x.aval, kernel, layout["strides"], layout["padding"]):
    if max(gradient.shape[1:3]) <= 2:
      return _x_gradient_of_few(gradient, kernel, layout["precision"])
    if gradient.shape[-1] <= 32:
      return _x_gradient_by_parity(gradient, kernel, layout["precision"])
  return _transpose(lambda x: _xla(x, kernel, **layout), x, gradient)


def _gradient_in_kernel(gradient, x, kernel, **layout):
  """The transpose in the kernel."""
  strides, padding, precision = layout["strides"], layout["padding"], layout["precision"]
  shape = kernel.aval.shape
  if _keeps_size(kernel.aval, strides, padding):
    return _kernel_gradient_by_strips(gradient, x, precision)
  if x.shape[-1] == 1 and _is_valid(kernel.aval, strides, padding):
    return _kernel_gradient_by_rows(gradient, x, shape, precision)
  if min(shape[2:]) > 32:
    return _transpose(lambda kernel: _xla(x, kernel, **layout), kernel, gradient)
  # Windows of 3x3 at stride 2 hold each pixel 2.25 times; more than 4 times is too much memory.
  if shape[0] * shape[1] <= 4 * strides[0] * strides[1]:
    return _kernel_gradient_by_windows(gradient, x, shape, strides, padding, precision)
  return _transpose(lambda kernel: _xla(x, kernel, **layout), kernel, gradient)


def _batch(arrays, axes, **layout):
  """Under `jax.vmap`: several batches of images become one; several kernels go to `_xla`."""
  (x, kernel), (x_axis, kernel_axis) = arrays, axes
  if kernel_axis is not None:
    return jax.vmap(functools.partial(_xla, **layout), axes)(x, kernel), 0
  x = jnp.moveaxis(x, x_axis, 0)
  y = _convolution.bind(x.reshape(-1, *x.shape[2:]), kernel, **layout)
  return y.reshape(*x.shape[:2], *y.shape[1:]), 0


def _xla(x, kernel, *, strides, padding, precision):
  """Calls `jax.lax.conv_general_dilated`, channels last."""
  return jax.lax.conv_general_dilated(
    x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision
  )


def _transpose(linear_fn, unknown, gradient):
  """JAX's own transpose of a linear function of `unknown`."""
  shape = jax.ShapeDtypeStruct(unknown.aval.shape, unknown.aval.dtype)
  return jax.linear_transpose(linear_fn, shape)(gradient)[0]


_convolution = Primitive("convolution")
_convolution.def_impl(_evaluate)
_convolution.def_abstract_eval(
  lambda *avals, **layout: jax.make_jaxpr(functools.partial(_xla, **layout))(*avals).out_avals[0]
)
mlir.register_lowering(_convolution, mlir.lower_fun(_evaluate, multiple_results=False))
ad.defbilinear(_convolution, _gradient_in_x, _gradient_in_kernel)
batching.primitive_batchers[_convolution] = _batch


def _keeps_size(kernel, strides, padding) -> bool:
  """Whether a 3x3 kernel makes an output of every pixel, and so does its transpose."""
  return kernel.shape[:2] == (3, 3) and (strides, padding) == ((1, 1), ((1, 1), (1, 1)))


def _is_valid(kernel, strides, padding) -> bool:
  """Whether a kernel of more than 3x3 is applied without padding at stride 1."""
  return min(kernel.shape[:2]) > 3 and (strides, padding) == ((1, 1), ((0, 0), (0, 0)))


def _halves(x, kernel, strides, padding) -> bool:
  """Whether a 3x3 kernel makes an output of every second row and column of an even number."""
  return (
    kernel.shape[:2] == (3, 3)
    and (strides, padding) == ((2, 2), ((1, 1), (1, 1)))
    and not (x.shape[1] % 2 or x.shape[2] % 2)
  )


def _by_columns(x, kernel, padding, precision):
  """A convolution that keeps the size, with several neighbouring outputs as channels of one.

  XLA's CPU backend needs some 32 output channels to be fast. A kernel with one column more and
  stride 2 makes two neighbours as twice the channels, with a third more multiplications. For 128
  images of 32x32 with 16 channels XLA took 12.0 ms, this 8.3 ms; from 3 to 24 channels 26 ms and
  2.6 ms, from 3 to 16 channels 8.4 ms and 2.7 ms (one core).
  """
  (rows, columns, c, d), width = kernel.shape, x.shape[2]
  num = _columns_at_once(c, d, width)
  shifted = [jnp.pad(kernel, ((0, 0), (i, num - 1 - i), (0, 0), (0, 0))) for i in range(num)]
  wide = jnp.stack(shifted, axis=3).reshape(rows, columns + num - 1, c, num * d)
  y = _xla(x, wide, strides=(1, num), padding=padding, precision=precision)
  return y.reshape(*x.shape[:3], d)


def _columns_at_once(c: int, d: int, width: int) -> int:
  """How many neighbouring outputs with d channels, made from c, are fastest: 1, 2, 4 or 8.

  Measured with 3x3 kernels, c and d from 1 to 96: few inputs need more than 32 outputs.
  """
  enough = 33 if c < 8 else 24 if c <= 16 else 1
  nums = [num for num in (1, 2, 4, 8) if width % num == 0 and num * d >= enough]
  return min(nums, default=1)


def _x_gradient_by_places(gradient, kernel, precision):
  """What each place of the kernel adds to each pixel: one matrix product, then sums of slices.

  XLA's CPU backend computes this as a convolution with as few output channels as x has, which 5x5
  kernels make slow: for 256 images of 28x28x1 it took 35 ms of CPU time, this 4 ms, and for
  12x12x20 39 ms and 18 ms. With 3x3 kernels and 16 channels or more it is the other way round.
  """
  (b, h, w, _), (rows, columns, c, _) = gradient.shape, kernel.shape
  parts = _parts_of_places(gradient, kernel, precision)
  to_x = jnp.zeros((b, h + rows - 1, w + columns - 1, c), gradient.dtype)
  for i in range(rows):
    for j in range(columns):
      to_x = to_x.at[:, i : i + h, j : j + w].add(parts[i, j])
  return to_x


def _x_gradient_by_parity(gradient, kernel, precision):
  """For a 3x3 kernel that halves the size: pixels of one parity of row and column at once.

  A pixel of even row gets from row 1 of the kernel, one of odd row from rows 2 and 0: a 2x2 kernel
  with four times the channels makes all four kinds, where XLA convolves a gradient spread out with
  zeros. For 64 images of 32x32, from 6 to 26 channels: XLA 9.2 ms, this 1.9 ms (one core).
  """
  (b, h, w, d), c = gradient.shape, kernel.shape[2]

  def by_parity(kernel):  # of rows: [parity, place in the gradient, columns, c, d]
    return jnp.stack(
      [jnp.stack([kernel[1], jnp.zeros_like(kernel[0])]), jnp.stack([kernel[2], kernel[0]])]
    )

  rows = by_parity(kernel)
  both = by_parity(rows.transpose(2, 0, 1, 3, 4))  # [parity, place, parity, place of rows, c, d]
  wide = both.transpose(3, 1, 5, 2, 0, 4).reshape(2, 2, d, 4 * c)
  to_x = _xla(gradient, wide, strides=(1, 1), padding=((0, 1), (0, 1)), precision=precision)
  to_x = to_x.reshape(b, h, w, 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
  return to_x.reshape(b, 2 * h, 2 * w, c)


def _x_gradient_of_few(gradient, kernel, precision):
  """For a 3x3 kernel that leaves 2x2 outputs or fewer: one matrix product, then sums.

  For 64 images of 4x4 with 128 channels: XLA 16 ms, this 1.0 ms (one core).
  """
  (b, h, w, _), c = gradient.shape, kernel.shape[2]
  parts = _parts_of_places(gradient, kernel, precision)

  def interleave(first, middle, last, axis):  # what the rows or columns of the kernel add
    after = jax.lax.slice_in_dim(first, 1, None, axis=axis)
    after = jnp.pad(after, [(0, int(i == axis)) for i in range(first.ndim)])
    return jnp.stack([middle, last + after], axis + 1)

  rows = [interleave(*parts[i], axis=2) for i in range(3)]
  return interleave(*rows, axis=1).reshape(b, 2 * h, 2 * w, c)


def _parts_of_places(gradient, kernel, precision):
  """What each place of the kernel adds, `[rows, columns, b, h, w, c]`, before it is moved there."""
  rows, columns, c, d = kernel.shape
  # Flat, so that XLA makes a product for each place of the kernel and transposes nothing after it.
  pixels, places = gradient.reshape(-1, d), kernel.reshape(-1, c, d)
  parts = jnp.einsum("nd,pcd->pnc", pixels, places, precision=precision)
  return parts.reshape(rows, columns, *gradient.shape[:3], c)


def _kernel_gradient_by_rows(gradient, x, shape, precision):
  """For images of one channel: a matrix product for each row of the kernel.

  For 256 images of 28x28 XLA took 19 ms, this 7 ms.
  """
  (h, w, d), (rows, columns) = gradient.shape[1:], shape[:2]
  strips = jnp.concatenate([x[:, :, j : j + w] for j in range(columns)], -1)
  pixels = gradient.reshape(-1, d)

  def row(i):
    return jnp.matmul(strips[:, i : i + h].reshape(-1, columns).T, pixels, precision=precision)

  return jnp.stack([row(i) for i in range(rows)])[:, :, None]


def _kernel_gradient_by_strips(gradient, x, precision):
  """For a 3x3 kernel that keeps the size: one product of shifted images and shifted gradients.

  XLA computes it as a convolution of transposed arrays, and repeats inside these transpositions all
  BatchNorms and sums since the last block of another width: a third of a step of ResNet-20.
  """
  c, d = x.shape[-1], gradient.shape[-1]
  images = jnp.concatenate(_shifts(x, axis=2), -1).reshape(-1, 3 * c)
  gradients = jnp.concatenate(_shifts(gradient, axis=1)[::-1], -1).reshape(-1, 3 * d)
  product = jnp.einsum("nc,nd->cd", images, gradients, precision=precision)
  return product.reshape(3, c, 3, d).transpose(2, 0, 1, 3)


def _shifts(x, axis):
  """`x` moved by one place forwards, not moved, and moved backwards, with zeros at the ends."""
  padded, size = jnp.pad(x, [(int(i == axis),) * 2 for i in range(x.ndim)]), x.shape[axis]
  return [jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(3)]


def _kernel_gradient_by_windows(gradient, x, shape, strides, padding, precision):
  """One product of every window of the images with the gradient of its output."""
  (rows, columns, c, d), (h, w), (down, right) = shape, gradient.shape[1:3], strides
  padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  windows = [
    padded[:, i : i + down * (h - 1) + 1 : down, j : j + right * (w - 1) + 1 : right]
    for i in range(rows)
    for j in range(columns)
  ]
  windows = jnp.concatenate(windows, -1).reshape(-1, rows * columns * c)
  product = jnp.einsum("nc,nd->cd", windows, gradient.reshape(-1, d), precision=precision)
  return product.reshape(shape)
