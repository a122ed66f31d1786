"""Square Attack as a `Search`: its windows and bumps, what it remembers, and one query."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jax_robust.attacks import stepwise
from jax_robust.attacks.balls import Ball
from jax_robust.attacks.classes import is_finite, lead, succeeded
from jax_robust.attacks.projections import per_example, sum_pixels
from jax_robust.attacks.stepwise import Problem, Search, select
from jax_robust.errors import check_count, check_flag, check_positive, check_share
from jax_robust.types import LogitsFn

_CANCELLED = 1e-3  # of two windows of unit norm

_OFFSET = 1e-12  # added to norms that divide, as in the reference program

_WINDOW_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After each of these proposals (out of 10,000) the area of the window is halved."""

_RESCALED_LENGTH = 10_000

_TILES_PER_SIDE = 5  # of the start in l2 and l1

_SMALLEST_BUMP = 3


class SquareState(NamedTuple):
  """What the search remembers of each image: what every search does (`stepwise.fresh`), and

  Attributes:
    x_adv: the first misclassified point; before it, the point of highest margin.
    best_margin: the margin there; -inf before the first query.
  """

  problem: Problem
  count: Array
  found: Array
  x_adv: Array
  num_lost: Array
  best_margin: Array


def square_search(
  *,
  num_queries: int = 5000,
  p_init: float = 0.8,
  resc_schedule: bool = False,
  to_goal: bool = False,
) -> Search:
  """Square Attack as a search: one run from one start. `square` says what it does.

  Args:
    num_queries, p_init, resc_schedule: as in `square`.
    to_goal: whether the problem's goals are to be predicted, rather than any wrong class.

  Returns:
    A `Search` of `num_queries + 1` steps, the first at the start, whose states are of type
    `SquareState`.

  Raises:
    ValueError: negative `num_queries`; `p_init` outside (0, 1].

  >>> square_search(num_queries=100).num_steps
  101
  """
  check_count(0, num_queries=num_queries)
  check_positive(p_init=p_init)
  check_share(p_init=p_init)
  check_flag(resc_schedule=resc_schedule)
  schedule = functools.partial(
    window_sizes, num_queries, p_init=p_init, resc_schedule=resc_schedule
  )
  step = functools.partial(_step, schedule, to_goal)
  return Search(_init, step, num_queries + 1, num_backward=0)


def as_pixels(shape: tuple[int, ...]) -> tuple[int, int, int]:
  """The shape `(h, w, c)` in which windows are drawn: `(d,)` is a strip of d pixels.

  A strip's windows are one feature each: they do not depend on the order of the features.

  Raises:
    ValueError: neither an image, with channels or without, nor a vector.

  >>> as_pixels((32, 32, 3)), as_pixels((28, 28)), as_pixels((30,))
  ((32, 32, 3), (28, 28, 1), (1, 30, 1))
  """
  if not 1 <= len(shape) <= 3:
    raise ValueError(
      f"x has shape {('b', *shape)}: square needs images [b, h, w, c] or [b, h, w], as its windows "
      "are squares, or features [b, d]"
    )
  height, width, channels = (1, *shape, 1) if len(shape) == 1 else (*shape, 1)[:3]
  return height, width, channels


def _in_pixels(state: SquareState) -> SquareState:
  """The state with image and point of shape `[b, h, w, c]`."""
  x, x_adv = (
    each.reshape(each.shape[:1] + as_pixels(each.shape[1:]))
    for each in (state.problem.x, state.x_adv)
  )
  return state._replace(problem=state.problem._replace(x=x), x_adv=x_adv)


def _init(ball: Ball, problem: Problem) -> SquareState:
  """The state before the first query, which is at `x_adv`."""
  x = problem.x
  keys, _ = _keys(problem.keys, jnp.zeros(x.shape[0], jnp.int32))
  draw = functools.partial(
    _start_linf if ball.norm == "linf" else draw_tiles, as_pixels(x.shape[1:]), ball.norm
  )
  start = jax.vmap(lambda key: jnp.broadcast_to(draw(key), as_pixels(x.shape[1:])))(keys)
  start = start.reshape(x.shape).astype(x.dtype)
  if ball.norm == "l2":
    start = start / (_OFFSET + jnp.sqrt(sum_pixels(start**2)))
  if ball.norm != "l1":
    start = start * per_example(ball.eps, x)
  margin = jnp.full(x.shape[0], -jnp.inf, jnp.promote_types(x.dtype, jnp.float32))
  state = SquareState(**stepwise.fresh(problem), best_margin=margin)
  return state._replace(x_adv=_without_exact(ball).project(x + start, x))


def _step(
  schedule, to_goal: bool, ball: Ball, logits_fn: LogitsFn, state: SquareState
) -> SquareState:
  """One query: of the start first, then of a proposal."""
  x, labels, goals, keys = state.problem
  proposal_keys, model_keys = _keys(keys, state.count)
  sizes = schedule(*as_pixels(x.shape[1:])[:2], norm=ball.norm)
  propose = _propose_linf if ball.norm == "linf" else _propose_bumps
  number = jnp.maximum(state.count - 1, 0)
  proposal = propose(_without_exact(ball), _in_pixels(state), proposal_keys, sizes, number)
  point = select(state.count == 0, state.x_adv, proposal.reshape(x.shape))
  outputs = logits_fn(point, model_keys)
  margin = lead(outputs, labels, goals, to_goal=to_goal).astype(state.best_margin.dtype)
  done, finite = succeeded(outputs, labels, goals, to_goal=to_goal), is_finite(outputs)
  better = (margin > state.best_margin) & ~state.found & finite
  x_adv = select(better | (done & ~state.found), point, state.x_adv)
  return state._replace(
    count=state.count + 1,
    found=state.found | done,
    x_adv=select((state.count == 0) & ~finite, x, x_adv),  # x in place of a start that is lost
    num_lost=state.num_lost + ~finite,
    best_margin=jnp.where(better, margin, state.best_margin),
  )


def _keys(keys: Array, count: Array) -> tuple[Array, Array]:
  """Two keys per example for a step: for the proposal, and for the model."""
  both = jax.vmap(lambda key, count: jax.random.split(jax.random.fold_in(key, count)))(keys, count)
  return both[:, 0], both[:, 1]


def _without_exact(ball: Ball) -> Ball:
  """The ball whose projection is scale and clip, as is usual, which costs one pass, not forty."""
  return dataclasses.replace(ball, exact=False)


def _start_linf(shape, norm, key):
  """A sign for every column and channel."""
  del norm
  return jax.random.rademacher(key, (1, *shape[1:]), jnp.float32)


def _draw(keys, num):
  """Uniform in [0, 1) per example; float32, so that float64 images get the same windows."""
  return jax.vmap(lambda key: jax.random.uniform(key, (num,), jnp.float32))(keys)


def _propose_linf(ball, state, keys, sizes, number):
  """Moves a window to the faces of the ball that are drawn, one for each channel."""
  x = state.problem.x
  draws = _draw(keys, 2 + x.shape[3])
  _, _, inside = place_window(draws[:, :2], jnp.asarray(sizes)[number], x.shape[1:])
  sign = _signs(draws[:, 2:], x.dtype)[:, None, None]
  moved = state.x_adv + 2 * per_example(ball.eps, x) * sign
  return ball.project(jnp.where(inside, moved, state.x_adv), x)


def _propose_bumps(ball, state, keys, sizes, number):
  """Mixes a pair of bumps into one window, with the mass of another and of the unused eps."""
  x, eps, channels = state.problem.x, per_example(ball.eps, state.problem.x), state.x_adv.shape[3]
  norm = functools.partial(_norm, ball.norm)
  draws = _draw(keys, 5 + channels)
  size = jnp.asarray(sizes)[number]
  row, column, target = place_window(draws[:, :2], size, x.shape[1:])
  _, _, source = place_window(draws[:, 2:4], size, x.shape[1:])
  turned = draws[:, 4] < 0.5
  pair = jnp.where(target, place_bumps(sizes, ball.norm, number, turned, row, column), 0)
  # Channels first and written down once: sums over pixels are five times faster on the CPU.
  delta, pair = jax.lax.optimization_barrier(
    (_channels_first(state.x_adv - x), _channels_first(pair.astype(x.dtype)))
  )
  target, source = _channels_first(target), _channels_first(source)
  sign = _signs(draws[:, 5:], x.dtype)[:, :, None, None]

  old = jnp.where(target, delta, 0)
  mixed = pair * sign + old / (_OFFSET + norm(old))
  length = norm(mixed)
  # In a window of one pixel the two may cancel, but for rounding.
  mixed = jnp.where(length > _CANCELLED, mixed / (_OFFSET + length), pair * sign)
  taken, used = norm(jnp.where(target | source, delta, 0)), norm(delta, (1, 2, 3))
  if ball.norm == "l2":
    mass = jnp.sqrt(jnp.maximum(eps**2 - used**2, 0) / channels + taken**2)
  else:
    mass = jnp.maximum(eps - used, 0) + taken * channels
  delta = jnp.where(target, mixed * mass, jnp.where(source, 0, delta))
  if ball.norm == "l2":
    delta = delta * (eps / (_OFFSET + norm(delta, (1, 2, 3))))
  return ball.project(x + jnp.moveaxis(delta, 1, 3), x)


def _channels_first(values):
  """`[b, h, w, c]` as `[b, c, h, w]`."""
  return jnp.moveaxis(values, 3, 1)


def _norm(name, values, axes=(2, 3)):
  """The l1 or l2 norm over some axes, keeping the rank."""
  if name == "l1":
    return jnp.sum(jnp.abs(values), axis=axes, keepdims=True)
  return jnp.sqrt(jnp.sum(values**2, axis=axes, keepdims=True))


def _signs(draws, dtype):
  """-1 or 1 from uniform draws."""
  return jnp.where(draws < 0.5, -1, 1).astype(dtype)


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
