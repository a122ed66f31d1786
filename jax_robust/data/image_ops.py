"""Image operations with Pillow's results, in JAX, on one uint8 image `[h, w, c]`, c = 1 or 3.

Integer arithmetic wherever Pillow rounds, so that the results agree to the grey level; the blends
(brightness, contrast, color, sharpness) are float32 as in Pillow and agree to within one level.
All are safe under `jit` and `vmap`; amounts may be traced.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def rotate_matrix(degrees: float, *, height: int, width: int) -> tuple[float, ...]:
  """A counter-clockwise rotation about the image's centre, from output to input pixels: 2x3."""
  angle = -math.radians(degrees % 360.0)
  cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
  x, y = width / 2, height / 2
  return (cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)


def fixed_point(matrix: tuple[float, ...]) -> np.ndarray:
  """The 2x3 matrix in Pillow's 16.16 fixed point, moved to pixel centres: int32 `[6]`."""
  a, b, c, d, e, f = matrix
  moved = (a, b, c + 0.5 * (a + b), d, e, f + 0.5 * (d + e))
  return np.floor(np.array(moved, np.float64) * 65536 + 0.5).astype(np.int32)


def affine(image: Array, matrix: Array, *, fill: int) -> Array:
  """Nearest-neighbour warp by a `fixed_point` matrix (output to input); outside is `fill`."""
  height, width, channels = image.shape
  y, x = jnp.mgrid[:height, :width]
  a, b, c, d, e, f = matrix
  source_x, source_y = (a * x + b * y + c) >> 16, (d * x + e * y + f) >> 16
  inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
  index = jnp.where(inside, source_y * width + source_x, 0)
  pixels = jnp.take(image.reshape(height * width, channels), index, axis=0, mode="clip")
  return jnp.where(inside[:, :, None], pixels, jnp.uint8(fill))


def posterize(image: Array, bits: Array | float) -> Array:
  """Keeps the `bits` highest bits of every value."""
  dropped = 8 - jnp.asarray(bits).astype(jnp.uint8)
  return (image >> dropped) << dropped


def solarize(image: Array, threshold: Array | float) -> Array:
  """Inverts the values at and above `threshold`."""
  return jnp.where(image < jnp.asarray(threshold), image, 255 - image)


def invert(image: Array) -> Array:
  """255 minus every value."""
  return 255 - image


def autocontrast(image: Array) -> Array:
  """Stretches every channel to [0, 255]; a constant channel stays as it is."""
  values = image.astype(jnp.int32)
  low = jnp.min(values, axis=(0, 1), keepdims=True)
  spread = jnp.max(values, axis=(0, 1), keepdims=True) - low
  stretched = (values - low) * 255 // jnp.maximum(spread, 1)
  return jnp.where(spread > 0, stretched, values).astype(jnp.uint8)


def equalize(image: Array) -> Array:
  """Flattens the histogram of every channel."""

  def channel(plane: Array) -> Array:
    counts = jnp.zeros(256, jnp.int32).at[plane].add(1)
    brightest = counts[jnp.max(plane)]
    step = (plane.size - brightest) // 255
    below = jnp.cumsum(counts) - counts
    levels = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    # Pillow leaves a channel alone that has fewer than 255 pixels below its brightest value.
    return jnp.where(step > 0, levels[plane], plane.astype(jnp.int32)).astype(jnp.uint8)

  return jax.vmap(channel, in_axes=2, out_axes=2)(image.astype(jnp.int32))


def blend(degenerate: Array, image: Array, factor: Array | float) -> Array:
  """`degenerate + factor (image - degenerate)`, clipped and truncated to uint8."""
  start = degenerate.astype(jnp.float32)
  mixed = start + jnp.asarray(factor, jnp.float32) * (image.astype(jnp.float32) - start)
  return jnp.clip(mixed, 0, 255).astype(jnp.uint8)


def luminance(image: Array) -> Array:
  """ITU-R 601-2 luma, `[h, w, 1]`; a grey image is its own."""
  if image.shape[-1] == 1:
    return image
  red, green, blue = jnp.moveaxis(image.astype(jnp.int32), -1, 0)
  return ((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16).astype(jnp.uint8)[:, :, None]


def brightness(image: Array, factor: Array | float) -> Array:
  """Blends with black."""
  return blend(jnp.zeros_like(image), image, factor)


def contrast(image: Array, factor: Array | float) -> Array:
  """Blends with the uniform grey of the mean luminance."""
  grey = luminance(image).astype(jnp.int32)
  mean = (2 * jnp.sum(grey, dtype=jnp.int32) + grey.size) // (2 * grey.size)
  return blend(jnp.full_like(image, mean.astype(jnp.uint8)), image, factor)


def color(image: Array, factor: Array | float) -> Array:
  """Blends with the image's luminance; a grey image stays as it is."""
  return blend(jnp.broadcast_to(luminance(image), image.shape), image, factor)


def sharpness(image: Array, factor: Array | float) -> Array:
  """Blends with the image smoothed by (1 1 1; 1 5 1; 1 1 1) / 13; the border is not smoothed."""
  values = image.astype(jnp.int32)
  height, width, _ = image.shape
  if min(height, width) < 3:
    return image
  total = 4 * values[1:-1, 1:-1]
  for dy in range(3):
    for dx in range(3):
      total = total + values[dy : dy + height - 2, dx : dx + width - 2]
  smooth = values.at[1:-1, 1:-1].set((2 * total + 13) // 26)
  return blend(smooth, image, factor)
