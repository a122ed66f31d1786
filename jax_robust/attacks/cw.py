"""Carlini and Wagner's l2 attack: the nearest adversarial point, by Adam and a search over c."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jax_robust import types
from jax_robust.attacks import nearest, stepwise
from jax_robust.attacks.balls import Ball, check_norm
from jax_robust.attacks.classes import is_finite, lead, succeeded
from jax_robust.attacks.pgd_steps import adam
from jax_robust.attacks.projections import per_example
from jax_robust.attacks.stepwise import Problem, Search, fold_each
from jax_robust.errors import check_count, check_per_image, check_positive, check_weight

_INSIDE = 1 - 1e-6  # the images, scaled to [-1, 1], shrink by this so that arctanh is finite

_LARGEST_C = 1e10


class CwState(NamedTuple):
  """A row of CW: what every search has (`stepwise.fresh`), the iterate, and the search over c.

  Attributes:
    distance: of `x_adv` from x, infinite while there is none, `[b]`.
    w: the iterate in tanh space, where the box has no faces: the image is (tanh w + 1) / 2.
    opt_state: Adam's, of each example.
    c: the weight of the margin against the squared distance, `[b]`.
    lower: the largest c that found nothing, `[b]`.
    upper: the smallest c that did, infinite while none did, `[b]`.
    succeeded: whether the present c has led to an adversarial point, `[b]`.
  """

  problem: Problem
  count: Int[Array, " b"]
  found: Bool[Array, " b"]
  x_adv: Array
  num_lost: Int[Array, " b"]
  distance: Float[Array, " b"]
  w: Array
  opt_state: Any
  c: Float[Array, " b"]
  lower: Float[Array, " b"]
  upper: Float[Array, " b"]
  succeeded: Bool[Array, " b"]


def cw_l2(
  logits_fn: types.LogitsFn,
  x: types.Images,
  targets: Any,
  rng: types.Rng,
  *,
  ball: Ball,
  goals: Any = None,
  num_steps: int = 1000,
  num_searches: int = 9,
  initial_c: float = 1e-3,
  learning_rate: float = 0.01,
  confidence: Array | float = 0.0,
) -> Float[Array, "b *dims"]:
  """The nearest adversarial point: Adam on `||z - x||^2 + c relu(confidence - margin(z))`.

  z = (tanh w + 1) / 2, so that every w is an image. The search over c multiplies it by ten until
  the attack succeeds, then halves the interval between the largest c that failed and the smallest
  that did not; Adam starts afresh at x for each. Of all the points on the way the nearest that was
  misclassified by `confidence` is kept, x itself included.

  It minimises a distance, so the search does not depend on eps, which only says what counts. With
  `num_searches=1` and some c it is the weak "CW" of many tables, not to be put beside numbers for
  an eps.

  Guarantees: those of `jax_robust.attacks`, and
    `result_is_misclassified_or_x`: where nothing was found within eps, x is returned, bitwise.
    `linear_optimum_is_approached`: within 1 % of the least distance to a linear boundary that is
      many steps of Adam away; within about learning_rate / 5 of one that is not.
    `success_never_falls_with_eps`.

  Args: those of `jax_robust.attacks`, and
    logits_fn: of one exit.
    ball: an l2 ball; a large eps gives the least distance, whatever it is.
    num_steps: passes, forward and backward, for each c; static.
    num_searches: values of c that are tried; static.
    initial_c: the first of them.
    learning_rate: of Adam, in units of w.
    confidence: kappa, in units of the logits: the margin by which an example must be misclassified.

  Reference: Carlini and Wagner, 2017, "Towards Evaluating the Robustness of Neural Networks",
  https://arxiv.org/abs/1608.04644. Unlike their program it never gives up on a c before its last
  step.

  >>> from jax_robust.attacks import l2_ball
  >>> x, labels = jnp.array([[0.6, 0.4]]), jnp.array([0])
  >>> x_adv = cw_l2(lambda x: x, x, labels, jax.random.key(0), ball=l2_ball(1.0), num_steps=100)
  >>> x_adv.round(2).tolist()
  [[0.5, 0.5]]
  """
  check_norm("cw_l2", ball, "l2")
  search = cw_search(
    num_steps=num_steps, num_searches=num_searches, initial_c=initial_c,
    learning_rate=learning_rate, confidence=confidence, to_goal=goals is not None,
  )  # fmt: skip
  return nearest.nearest_in_ball("cw_l2", search, logits_fn, x, targets, rng, ball, goals)


def cw_search(
  *,
  num_steps: int = 1000,
  num_searches: int = 9,
  initial_c: float = 1e-3,
  learning_rate: float = 0.01,
  confidence: Array | float = 0.0,
  to_goal: bool = False,
) -> Search:
  """`cw_l2` as a search of `num_searches` times `num_steps` passes.

  With `to_goal` only the problem's goals count as adversarial.

  Its `found` says that `x_adv` is inside the ball; a search that is not stopped there goes on to
  nearer points.

  Raises:
    TypeError, ValueError: fewer than one step or search; a confidence that is no finite number of
      at least 0; `initial_c` or `learning_rate` not above 0.
  """
  check_count(num_steps=num_steps, num_searches=num_searches)
  check_positive(initial_c=initial_c, learning_rate=learning_rate)
  check_weight(confidence=confidence)
  optimizer = adam({0: learning_rate})
  return Search(
    init=functools.partial(_init, optimizer=optimizer, initial_c=initial_c),
    step=functools.partial(
      _step,
      optimizer=optimizer,
      num_steps=num_steps,
      confidence=confidence,
      to_goal=to_goal,
    ),
    num_steps=num_steps * num_searches,
  )


def _init(ball, problem, *, optimizer, initial_c):
  """The state before the first step."""
  del ball
  w = _to_tanh_space(problem.x)
  full = functools.partial(jnp.full_like, problem.x, shape=problem.x.shape[:1])
  return CwState(
    **stepwise.fresh(problem),
    distance=full(jnp.inf),
    w=w,
    opt_state=jax.vmap(optimizer.init)(w),
    c=full(initial_c),
    lower=full(0.0),
    upper=full(jnp.inf),
    succeeded=jnp.zeros(problem.x.shape[:1], bool),
  )


def _step(ball, logits_fn, state, *, optimizer, num_steps, confidence, to_goal):
  """Queries the iterate and moves it; after the last step of a c, goes to the next c."""
  x, labels, goals, _ = state.problem
  check_per_image(len(x), confidence=confidence)
  # The very first point is x, which tanh gives back only up to rounding.
  point = stepwise.select(state.count == 0, x, 0.5 * (jnp.tanh(state.w) + 1))
  keys = fold_each(state.problem.keys, state.count)

  def shortfall(point):
    logits = logits_fn(point, keys)
    done = succeeded(logits, labels, goals, to_goal=to_goal)
    missing = jax.nn.relu(confidence - lead(logits, labels, goals, to_goal=to_goal))
    return jnp.sum(missing), (done & (missing <= 0), is_finite(logits))

  gradient, (adversarial, finite) = jax.grad(shortfall, has_aux=True)(point)
  # Of a point that is lost the distance alone speaks, which leads back to x.
  gradient = stepwise.select(finite, gradient, jnp.zeros_like(gradient))
  state = nearest.keep_nearest(ball, state, point, adversarial)

  # The chain rule by hand, since the point may be x. 1 - tanh^2 would be 0 beyond |w| = 9.
  gradient = 2 * (point - x) + per_example(state.c, x) * gradient
  gradient = gradient * (0.5 / jnp.cosh(state.w) ** 2)
  gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
  updates, opt_state = jax.vmap(optimizer.update)(gradient, state.opt_state, state.w)
  state = state._replace(
    count=state.count + 1,
    num_lost=state.num_lost + ~finite,
    w=state.w + updates,
    opt_state=opt_state,
    succeeded=state.succeeded | adversarial,
  )
  return stepwise.select(state.count % num_steps == 0, _next_c(state, optimizer), state)


def _next_c(state, optimizer):
  """The state at x again, with the c that follows from the outcome of the present one."""
  lower = jnp.where(state.succeeded, state.lower, jnp.maximum(state.lower, state.c))
  upper = jnp.where(state.succeeded, jnp.minimum(state.upper, state.c), state.upper)
  tenfold = jnp.minimum(10 * state.c, _LARGEST_C)
  w = _to_tanh_space(state.problem.x)
  return state._replace(
    w=w,
    opt_state=jax.vmap(optimizer.init)(w),
    c=jnp.where(jnp.isfinite(upper), 0.5 * (lower + upper), tenfold),
    lower=lower,
    upper=upper,
    succeeded=jnp.zeros_like(state.succeeded),
  )


def _to_tanh_space(x):
  """w with (tanh w + 1) / 2 = x, but for 5e-7 at the faces of the box."""
  return jnp.arctanh((2 * x - 1) * _INSIDE)
