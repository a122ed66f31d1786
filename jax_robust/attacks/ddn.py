"""DDN: the nearest adversarial point in l2, by steps whose norm and direction are decoupled."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jax_robust import losses, types
from jax_robust.attacks import nearest, stepwise
from jax_robust.attacks.balls import Ball, check_norm
from jax_robust.attacks.classes import is_finite, misclassified, succeeded
from jax_robust.attacks.pgd_steps import StepSize
from jax_robust.attacks.projections import l2_norm, max_pixels, per_example
from jax_robust.attacks.stepwise import Problem, Search, fold_each
from jax_robust.errors import (
  check_count,
  check_function,
  check_per_image,
  check_probability,
  check_step_size,
  check_weight,
  is_traced,
)

_FIRST_STEP, _LAST_STEP = 1.0, 0.01


class DdnState(NamedTuple):
  """A row of DDN: what every search has (`stepwise.fresh`), the iterate, and its distance from x.

  Attributes:
    distance: of `x_adv` from x, infinite while there is none, `[b]`.
    iterate: the next query, inside the box, `[b, ...]`.
    norm: its distance from x before rounding and box, `[b]`.
  """

  problem: Problem
  count: Int[Array, " b"]
  found: Bool[Array, " b"]
  x_adv: Array
  num_lost: Int[Array, " b"]
  distance: Float[Array, " b"]
  iterate: Array
  norm: Float[Array, " b"]


def ddn(
  logits_fn: types.LogitsFn,
  x: types.Images,
  targets: Any,
  rng: types.Rng,
  *,
  ball: Ball,
  goals: Any = None,
  loss_fn: types.LossFn = losses.cross_entropy,
  num_steps: int = 100,
  step_size: StepSize | None = None,
  initial_norm: Array | float = 1.0,
  gamma: Array | float = 0.05,
  levels: int | None = None,
) -> Float[Array, "b *dims"]:
  """The nearest adversarial point: `x <- x_0 + norm d / ||d||`, d = x - x_0 + step_size ascent(g).

  g is the gradient of the loss at x, x_0 the image; the box clips each iterate. The norm shrinks by
  the factor 1 - gamma where the iterate is misclassified, and grows by 1 + gamma where it is not,
  up to that of the farthest corner of the box. Of all the points on the way the nearest that was
  misclassified is kept, the image itself included. Where the gradient vanishes, a normal direction
  takes its place.

  It minimises a distance, so the search does not depend on eps, which only says what counts.

  Guarantees: those of `jax_robust.attacks`, and
    `result_is_misclassified_or_x`: where nothing was found within eps, x is returned, bitwise.
    `linear_optimum_is_approached`: within 1 % of the least distance to a linear boundary.
    `levels_are_kept`: with `levels`, the pixels that moved are multiples of 1 / (levels - 1).
    `success_never_falls_with_eps`.

  Args: those of `jax_robust.attacks`, and
    logits_fn: of one exit.
    ball: an l2 ball; a large eps gives the least distance, whatever it is.
    num_steps: passes, forward and backward; static.
    step_size: in units of the image, a number or a function of the step number; default a cosine
      from 1 to 0.01.
    initial_norm: the distance of the first step, in units of the image.
    gamma: the share by which the norm changes, between 0 and 1.
    levels: round every iterate to this many levels: 256 for images stored in bytes; static.

  Reference: Rony et al., 2019, "Decoupling Direction and Norm for Efficient Gradient-Based L2
  Adversarial Attacks and Defenses", https://arxiv.org/abs/1811.09600.

  >>> from jax_robust.attacks import l2_ball
  >>> x, labels = jnp.array([[0.6, 0.4]]), jnp.array([0])
  >>> x_adv = ddn(lambda x: x, x, labels, jax.random.key(0), ball=l2_ball(1.0))
  >>> x_adv.round(2).tolist()
  [[0.5, 0.5]]
  """
  check_norm("ddn", ball, "l2")
  search = ddn_search(
    loss_fn=loss_fn, num_steps=num_steps, step_size=step_size, initial_norm=initial_norm,
    gamma=gamma, levels=levels, to_goal=goals is not None,
  )  # fmt: skip
  return nearest.nearest_in_ball("ddn", search, logits_fn, x, targets, rng, ball, goals)


def ddn_search(
  *,
  loss_fn: types.LossFn = losses.cross_entropy,
  adversarial_fn: Callable[[Any, Array], Array] = misclassified,
  num_steps: int = 100,
  step_size: StepSize | None = None,
  initial_norm: Array | float = 1.0,
  gamma: Array | float = 0.05,
  levels: int | None = None,
  to_goal: bool = False,
) -> Search:
  """`ddn` as a search of `num_steps` passes.

  Its `found` says that `x_adv` is inside the ball; a search that is not stopped there goes on to
  nearer points. The labels of its problem are the targets of `loss_fn`. `adversarial_fn(outputs,
  labels) -> [b]` says which points count, for outputs that are not logits. With `to_goal` those
  count whose class is the problem's goal, and the loss of the goals is descended.

  Raises:
    TypeError, ValueError: no steps; fewer than 2 levels; gamma is not between 0 and 1; another
      number, or the loss, is none.
  """
  check_count(num_steps=num_steps)
  check_step_size(step_size=step_size)
  check_function(", such as losses.margin", loss_fn=loss_fn)
  if levels is not None:
    check_count(2, levels=levels)
  check_weight(gamma=gamma, initial_norm=initial_norm)
  for each in np.ravel(gamma).tolist() if not is_traced(gamma) else ():
    check_probability(gamma=each)
  if step_size is None:
    step_size = functools.partial(cosine, num_steps=num_steps)
  return Search(
    init=functools.partial(_init, initial_norm=initial_norm),
    step=functools.partial(
      _step,
      loss_fn=loss_fn,
      adversarial_fn=adversarial_fn,
      to_goal=to_goal,
      step_size=step_size,
      gamma=gamma,
      levels=levels,
    ),
    num_steps=num_steps,
  )


def cosine(count, num_steps):
  """From the first step size to the last along half a cosine."""
  share = 0.5 * (1 + jnp.cos(jnp.pi * count / num_steps))
  return _LAST_STEP + (_FIRST_STEP - _LAST_STEP) * share


def _init(ball, problem, *, initial_norm):
  """The state before the first step."""
  del ball
  x, b = problem.x, problem.x.shape[:1]
  check_per_image(len(x), initial_norm=initial_norm)
  return DdnState(
    **stepwise.fresh(problem),
    distance=jnp.full_like(x, jnp.inf, shape=b),
    iterate=x,
    norm=jnp.broadcast_to(jnp.asarray(initial_norm, x.dtype), b),
  )


def _step(ball, logits_fn, state, *, loss_fn, adversarial_fn, to_goal, step_size, gamma, levels):
  """Queries the iterate, then moves it by direction and norm."""
  (x, labels, goals, _), point = state.problem, state.iterate
  check_per_image(len(x), gamma=gamma)
  keys = fold_each(state.problem.keys, state.count)
  model_keys, direction_keys = jax.vmap(jax.random.split, out_axes=1)(keys)

  def loss_at(point):
    outputs = logits_fn(point, model_keys)
    if to_goal:
      adversarial = succeeded(outputs, labels, goals, to_goal=True)
      loss = losses.towards(loss_fn)(outputs, goals)
      return jnp.sum(loss), (adversarial, is_finite(outputs))
    return jnp.sum(loss_fn(outputs, labels)), (adversarial_fn(outputs, labels), is_finite(outputs))

  gradient, (adversarial, finite) = jax.grad(loss_at, has_aux=True)(point)
  adversarial = adversarial & finite
  state = nearest.keep_nearest(ball, state, point, adversarial)

  size = step_size(state.count) if callable(step_size) else step_size
  move = per_example(size, x) * _direction(ball, gradient, direction_keys)
  # A point that is lost is left straight back to x.
  delta = point - x + stepwise.select(finite, move, jnp.zeros_like(move))
  farthest = l2_norm(jnp.maximum(x, 1 - x)).reshape(-1)
  norm = state.norm * jnp.where(adversarial | ~finite, 1 - gamma, 1 + gamma).astype(x.dtype)
  norm = jnp.minimum(norm, farthest)
  length = l2_norm(delta)
  point = x + delta * (per_example(norm, x) / jnp.where(length > 0, length, 1.0))
  if levels is not None:
    point = jnp.round(point * (levels - 1)) / (levels - 1)
  return state._replace(
    count=state.count + 1,
    num_lost=state.num_lost + ~finite,
    iterate=jnp.clip(point, 0.0, 1.0),
    norm=norm,
  )


def _direction(ball, gradient, keys):
  """The unit gradient, or a random unit vector where it vanishes and says nothing."""
  gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
  normal = jax.vmap(lambda key: jax.random.normal(key, gradient.shape[1:], gradient.dtype))(keys)
  return ball.ascent(jnp.where(max_pixels(jnp.abs(gradient)) > 0, gradient, normal))
