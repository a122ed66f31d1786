"""The windows of Square Attack: how large they are, where they lie, and the bumps inside them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

_WINDOW_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After each of these proposals (out of 10,000) the area of the window is halved."""

_RESCALED_LENGTH = 10_000

_TILES_PER_SIDE = 5  # of the start in l2 and l1

_SMALLEST_BUMP = 3


def window_sizes(
  num_queries: int,
  height: int,
  width: int,
  *,
  norm: str,
  p_init: float = 0.8,
  resc_schedule: bool = False,
) -> Int[np.ndarray, " n"]:
  """The side of the window of every proposal, in pixels; in l2 and l1 odd, and at least 3.

  >>> window_sizes(5000, 32, 32, norm="linf")[[0, 10, 11, 51, 201, 501, 1001, 2001, 4001]].tolist()
  [29, 29, 20, 14, 10, 7, 5, 4, 3]
  """
  number = np.arange(max(num_queries, 1))
  if resc_schedule:
    number = (number / max(num_queries, 1) * _RESCALED_LENGTH).astype(int)
  num_halvings = np.searchsorted(_WINDOW_HALVINGS, number)
  sizes = np.rint(np.sqrt(p_init / 2.0**num_halvings * height * width)).astype(int)
  if norm == "linf":
    sizes = np.maximum(sizes, 1)
  else:
    sizes = np.maximum(sizes, _SMALLEST_BUMP)
    sizes += sizes % 2 == 0
  return np.minimum(sizes, min(height, width))


def bump_pair(size: int, norm: str) -> Float[np.ndarray, "s s"]:
  """Two opposite bumps, one above the other, of unit norm.

  A bump of a x b is a sum of squares around (a // 2, b // 2), of half width k = 0, 1, ... and
  height 1 / (k + 1)^2; in l1, 1 / (k + 1)^4.

  >>> bump_pair(3, "l2").round(3).tolist()
  [[0.136, 0.68, 0.136], [-0.129, -0.129, -0.129], [-0.129, -0.645, -0.129]]
  """
  power = 4 if norm == "l1" else 2

  def unit(values):
    return values / (np.abs(values).sum() if norm == "l1" else np.sqrt((values**2).sum()))

  def bump(height, width):
    rows, columns = np.ogrid[:height, :width]
    ring = np.maximum(abs(rows - height // 2), abs(columns - width // 2))
    num_squares = max(height, width) // 2 + 1
    return unit(sum((ring <= k) / (k + 1.0) ** power for k in range(num_squares)))

  upper, lower = size // 2, size - size // 2
  halves = [bump(upper, size)] if upper else []
  return unit(np.concatenate([*halves, -bump(lower, size)]))


def draw_tiles(shape, norm, key):
  """Pairs of bumps of any orientation in tiles, with a sign for every tile and channel."""
  height, width, channels = shape
  side = max(min(height, width) // _TILES_PER_SIDE, 1)
  down, across = height // side, width // side
  sign_key, turn_key = jax.random.split(key)
  signs = jax.random.rademacher(sign_key, (down, 1, across, 1, channels), jnp.float32)
  turned = jax.random.bernoulli(turn_key, shape=(down, 1, across, 1, 1))
  pair = jnp.asarray(bump_pair(side, norm), jnp.float32)[None, :, None, :, None]
  tiles = signs * jnp.where(turned, jnp.swapaxes(pair, 1, 3), pair)
  tiles = tiles.reshape(down * side, across * side, channels)
  top, left = (height - down * side) // 2, (width - across * side) // 2
  return jnp.zeros(shape).at[top : top + down * side, left : left + across * side].set(tiles)


def place_window(draws, size, shape):
  """A window from two uniform draws `[b, 2]`: rows and columns relative to it, and its mask."""
  height, width, _ = shape
  room = jnp.stack([height - size, width - size], axis=1)
  corner = jnp.minimum((draws * (room + 1)).astype(jnp.int32), room)
  row = jnp.arange(height)[None, :, None, None] - corner[:, :1, None, None]
  column = jnp.arange(width)[None, None, :, None] - corner[:, 1:, None, None]
  size = size[:, None, None, None]
  return row, column, (row >= 0) & (row < size) & (column >= 0) & (column < size)


def place_bumps(sizes, norm, number, turned, row, column):
  """A pair of bumps for each example, at rows and columns relative to it, `[b, h, w, 1]`."""
  distinct, index = np.unique(sizes, return_inverse=True)
  table = np.zeros((len(distinct), 2, distinct[-1], distinct[-1]), np.float32)
  for i, size in enumerate(distinct):
    pair = bump_pair(int(size), norm)
    table[i, :, :size, :size] = pair, pair.T
  index, turned = jnp.asarray(index)[number], turned.astype(jnp.int32)
  index, turned = index[:, None, None, None], turned[:, None, None, None]
  row, column = jnp.clip(row, 0, distinct[-1] - 1), jnp.clip(column, 0, distinct[-1] - 1)
  return jnp.asarray(table)[index, turned, row, column]
