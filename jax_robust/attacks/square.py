"""Square Attack: random search with square windows, for nets whose gradients cannot be trusted."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jax_robust import losses
from jax_robust.attacks.balls import Ball
from jax_robust.attacks.checks import check_images
from jax_robust.attacks.classes import misclassified
from jax_robust.attacks.projections import per_example, sum_pixels
from jax_robust.attacks.square_windows import draw_tiles, place_bumps, place_window, window_sizes
from jax_robust.attacks.stepwise import Problem, Search, run_all, select
from jax_robust.nets.randomised import keyed
from jax_robust.types import LogitsFn, as_keys

_OFFSET = 1e-12  # added to norms that divide, as in the reference program


class SquareState(NamedTuple):
  """What the search remembers of each image.

  Attributes:
    problem: image, label and key.
    count: queries done.
    found: whether `x_adv` is misclassified.
    x_adv: the first misclassified point; before it, the point of highest margin.
    best_margin: the margin there; -inf before the first query.
  """

  problem: Problem
  count: Array
  found: Array
  x_adv: Array
  best_margin: Array


def square(
  logits_fn: LogitsFn,
  x: Float[Array, "b *dims"],
  labels: Int[Array, " b"] | Float[Array, "b k"],
  rng: Array,
  *,
  ball: Ball,
  num_queries: int = 5000,
  num_restarts: int = 1,
  p_init: float = 0.8,
  resc_schedule: bool = False,
) -> Float[Array, "b *dims"]:
  """Square Attack, in any ball: random search over windows, without a gradient.

  A proposal changes the best point in a square window whose place and signs are drawn, and is kept
  where `losses.margin` rises or the class changes. The share of the image that a window covers is
  `p_init` at first and is halved after proposals 10, 50, 200, 500, 1000, 2000, 4000, ....

  - linf: the window is moved to one face of the ball, chosen per channel; starts from vertical
    stripes of ±eps.
  - l2: a pair of opposite bumps is mixed into one window, and takes the mass of a second window and
    whatever of eps is unused; the perturbation is then scaled to eps and clipped. Starts from 5 x 5
    such pairs. l1: likewise, projected rather than scaled and clipped.

  Deviations from the reference: windows and signs are drawn per example, not once for the batch,
  so that no row depends on others; offsets include the last one, as in the paper (the reference
  never draws it, and so leaves the last row and column of an image as they started); a tie of the
  logits whose arg max is still the label is no success; in l2 and l1, tiles of images that the
  reference cannot tile (not square, or some below 25 pixels) are centred.

  Guarantees:
    `result_is_in_ball_and_box`: distance(x_adv, x) <= eps (1 + 1e-6), 0 <= x_adv <= 1.
    `zero_radius_is_the_identity`: eps = 0 returns x, bitwise.
    `linear_optimum_is_approached`: linf, on a linear classifier.
    `best_margin_never_falls`: from query to query.
    `result_is_independent_of_the_batch`: row i depends on image, label and key i only.
    `no_gradient_flows_out`: the result is a constant for whatever differentiates around it.

  Args:
    logits_fn: `x -> outputs`, or randomised `(x, rng) -> outputs`; a tuple of outputs (exits) is
      attacked in the mean of its margins, and fooled where all exits are.
    x: images in [0, 1], `[b, h, w, c]`.
    labels: true classes `[b]`, or probabilities `[b, k]`, whose arg max is the class.
    rng: one key, folded with the row number, or one key per example `[b]`.
    ball: the threat model; in l2 its `exact` is not used.
    num_queries: proposals, after the query at the start; static.
    num_restarts: independent starts; static.
    p_init: share of the image's area that the first windows cover; static.
    resc_schedule: stretch the halvings, meant for 10,000 proposals, to `num_queries`; static.

  Returns:
    x_adv `[b, h, w, c]`, dtype of x: the first misclassified point; where there is none, that of
    highest margin (of the last restart).

  Raises:
    TypeError: x is not floating-point.
    ValueError: x is not `[b, h, w, c]`; negative counts; `p_init` outside (0, 1].

  Reference: Andriushchenko et al., 2020, "Square Attack: a query-efficient black-box adversarial
  attack via random search", https://arxiv.org/abs/1912.00049.

  >>> import jax, jax.numpy as jnp
  >>> from jax_robust.attacks import linf_ball
  >>> logits_fn = lambda x: jnp.stack([x.sum((1, 2, 3)), 11.0 - x.sum((1, 2, 3))], axis=1)
  >>> x, labels = jnp.full((1, 4, 4, 1), 0.5), jnp.array([0])
  >>> x_adv = square(logits_fn, x, labels, jax.random.key(0), ball=linf_ball(0.25), num_queries=50)
  >>> bool(jnp.argmax(logits_fn(x_adv)) == 1)
  True
  """
  check_images(x)
  if num_restarts < 1:
    raise ValueError(f"num_restarts={num_restarts}: expected at least 1")
  search = square_search(num_queries=num_queries, p_init=p_init, resc_schedule=resc_schedule)
  x, labels = jax.lax.stop_gradient((x, losses.as_labels(labels)))
  problem = Problem(x, labels, labels, as_keys(rng, x.shape[0]))
  tries = jnp.broadcast_to(labels, (num_restarts, *labels.shape))
  return run_all(search, keyed(logits_fn), problem, tries, ball=ball)[0]


def square_search(
  *, num_queries: int = 5000, p_init: float = 0.8, resc_schedule: bool = False
) -> Search:
  """Square Attack as a search: one run from one start. `square` says what it does.

  Args:
    num_queries, p_init, resc_schedule: as in `square`.

  Returns:
    A `Search` of `num_queries + 1` steps, the first at the start, whose states are of type
    `SquareState`.

  Raises:
    ValueError: negative `num_queries`; `p_init` outside (0, 1].

  >>> square_search(num_queries=100).num_steps
  101
  """
  if num_queries < 0 or not 0 < p_init <= 1:
    raise ValueError(
      f"num_queries={num_queries}, p_init={p_init}: expected at least 0 queries, 0 < p_init <= 1"
    )
  schedule = functools.partial(
    window_sizes, num_queries, p_init=p_init, resc_schedule=resc_schedule
  )
  return Search(_init, functools.partial(_step, schedule), num_queries + 1, num_backward=0)


def _init(ball: Ball, problem: Problem) -> SquareState:
  """The state before the first query, which is at `x_adv`."""
  x = problem.x
  if x.ndim != 4:
    raise ValueError(f"x has shape {x.shape}: expected images [b, h, w, c], as windows are square")
  keys, _ = _keys(problem.keys, jnp.zeros(x.shape[0], jnp.int32))
  draw = _start_linf if ball.norm == "linf" else draw_tiles
  start = jax.vmap(functools.partial(draw, x.shape[1:], ball.norm))(keys).astype(x.dtype)
  if ball.norm == "l2":
    start = start / (_OFFSET + jnp.sqrt(sum_pixels(start**2)))
  if ball.norm != "l1":
    start = start * per_example(ball.eps, x)
  flag = jnp.zeros(x.shape[0], bool)
  margin = jnp.full(x.shape[0], -jnp.inf, jnp.promote_types(x.dtype, jnp.float32))
  x_start = _without_exact(ball).project(x + start, x)
  return SquareState(problem, jnp.zeros(x.shape[0], jnp.int32), flag, x_start, margin)


def _step(schedule, ball: Ball, logits_fn: LogitsFn, state: SquareState) -> SquareState:
  """One query: at the start first, then at a proposal."""
  x, labels, _, keys = state.problem
  proposal_keys, net_keys = _keys(keys, state.count)
  sizes = schedule(*x.shape[1:3], norm=ball.norm)
  propose = _propose_linf if ball.norm == "linf" else _propose_bumps
  number = jnp.maximum(state.count - 1, 0)
  proposal = propose(_without_exact(ball), state, proposal_keys, sizes, number)
  point = select(state.count == 0, state.x_adv, proposal)
  outputs = logits_fn(point, net_keys)
  margin = losses.over_exits(losses.margin)(outputs, labels).astype(state.best_margin.dtype)
  wrong = misclassified(outputs, labels)
  better = (margin > state.best_margin) & ~state.found  # never where it is NaN
  return state._replace(
    count=state.count + 1,
    found=state.found | wrong,
    x_adv=select(better | (wrong & ~state.found), point, state.x_adv),
    best_margin=jnp.where(better, margin, state.best_margin),
  )


def _keys(keys: Array, count: Array) -> tuple[Array, Array]:
  """Two keys per example for a step: for the proposal, and for the net."""
  both = jax.vmap(lambda key, count: jax.random.split(jax.random.fold_in(key, count)))(keys, count)
  return both[:, 0], both[:, 1]


def _without_exact(ball: Ball) -> Ball:
  """The ball whose projection is the field's, scale and clip, which costs one pass, not forty."""
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
  """Mixes a pair of bumps into one window, with the mass of another one and of what is unused."""
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
  mixed = mixed / (_OFFSET + norm(mixed))
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
