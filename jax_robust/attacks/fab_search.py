"""FAB as a `Search`: each step linearises the decision boundary and moves onto it."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jax_robust.attacks import stepwise
from jax_robust.attacks.balls import Ball
from jax_robust.attacks.classes import is_finite, lead, succeeded
from jax_robust.attacks.hyperplanes import MOVES
from jax_robust.attacks.nearest import keep_nearest
from jax_robust.attacks.non_finite import half_way_back
from jax_robust.attacks.projections import l2_norm, max_pixels, per_example, sum_pixels
from jax_robust.attacks.stepwise import Problem, Search, fold_each, select
from jax_robust.errors import check_count
from jax_robust.nets.exits import single_exit
from jax_robust.types import LogitsFn, fold

_BIAS_MAX = 0.1  # alpha_max of the paper: the largest pull towards x
_OVERSHOOT = 1.05  # eta
_BACKWARD = 0.9  # beta

_DUAL_NORMS = {
  "linf": lambda normal: sum_pixels(jnp.abs(normal)),
  "l2": l2_norm,
  "l1": lambda normal: max_pixels(jnp.abs(normal)),
}


class FabState(NamedTuple):
  """A row of FAB: what every search has (see `stepwise.fresh`), and the iterate.

  Attributes:
    distance: how far `x_adv` is from x, infinite while there is no adversarial point in the ball.
    point: where the next linearisation is made, `[b, ...]`.
  """

  problem: Problem
  count: Int[Array, " b"]
  found: Bool[Array, " b"]
  x_adv: Array
  num_lost: Int[Array, " b"]
  distance: Float[Array, " b"]
  point: Array


def fab_search(
  *,
  num_steps: int = 100,
  targeted: bool,
  random_start: bool = False,
  to_goal: bool = False,
) -> Search:
  """FAB as a search: one run from one start. `fab` says what it does.

  A step linearises at a point, moves, and queries the point that it reached: two forward passes and
  a backward one. The forward pass of the next linearisation could serve as the second, if the point
  were not adversarial; but 95 % of the iterates are (of an adversarially trained network), so a row
  would need two forward and backward passes per iteration instead.

  Args:
    num_steps: iterations.
    targeted: linearise the boundary to the class in `problem.goals`, at the cost of one backward
      pass; else those to all classes, with as many backward passes, and step to the nearest.
    to_goal: only the goal counts as adversarial, and what is linearised is the boundary between it
      and the class that leads the others; at the cost of one backward pass.
    random_start: begin at distance eps / 2 from x in a random direction rather than at x.

  Returns:
    The search; its `x_adv` is the nearest adversarial point so far, if that lies in the ball.

  Raises:
    ValueError: a negative number of steps.
  """
  check_count(0, num_steps=num_steps)
  return Search(
    init=functools.partial(_init, random_start=random_start),
    step=functools.partial(_step, targeted=targeted, to_goal=to_goal),
    num_steps=num_steps,
    num_forward=2,
    num_backward=1 if targeted or to_goal else None,
  )


def _init(ball: Ball, problem: Problem, *, random_start: bool) -> FabState:
  """The state before the first step."""
  x = problem.x
  return FabState(
    **stepwise.fresh(problem),
    distance=jnp.full_like(x, jnp.inf, shape=x.shape[:1]),
    point=_random_start(ball, problem) if random_start else x,
  )


def _random_start(ball: Ball, problem: Problem) -> Array:
  """x + eps / 2 u / ||u||, u uniform in a cube for l-infinity and else normal, clipped."""
  x = problem.x
  uniform = functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0)
  draw = uniform if ball.norm == "linf" else jax.random.normal
  keys = fold(problem.keys, 0)
  direction = jax.vmap(lambda key: draw(key, x.shape[1:], x.dtype))(keys)
  unit = direction / per_example(ball.distance(direction, jnp.zeros_like(x)), x)
  return jnp.clip(x + 0.5 * per_example(ball.eps, x) * unit, 0.0, 1.0)


def _step(
  ball: Ball, logits_fn: LogitsFn, state: FabState, *, targeted: bool, to_goal: bool
) -> FabState:
  """One iteration: a linearisation, the step onto the boundary, and back from beyond it."""
  problem, point = state.problem, state.point
  keys = fold_each(problem.keys, 2 * state.count + 1)  # 0 is the start's
  logits, normal, excess = _linearise(
    logits_fn, point, keys, problem, norm=ball.norm, targeted=targeted, to_goal=to_goal
  )
  adversarial = functools.partial(
    succeeded, labels=problem.labels, goals=problem.goals, to_goal=to_goal
  )
  # The reference does not count this point. It costs nothing, and changes no iterate.
  state = keep_nearest(ball, state, point, adversarial(logits))
  num_lost = state.num_lost + ~is_finite(logits)

  reached = _boundary_step(ball, problem.x, point, normal, excess)
  logits = logits_fn(reached, fold_each(problem.keys, 2 * state.count + 2))
  state = keep_nearest(ball, state, reached, adversarial(logits))
  finite = is_finite(logits)
  back = problem.x + _BACKWARD * (reached - problem.x)
  following = half_way_back(~finite, reached, select(adversarial(logits), back, reached), problem.x)
  return state._replace(point=following, count=state.count + 1, num_lost=num_lost + ~finite)


def _linearise(logits_fn, point, keys, problem, *, norm, targeted, to_goal):
  """The logits at a point `[b, k]`; the gradient of (logit of the goal - logit of the label) there,
  and its value, `[b]`; with `to_goal`, of (logit of the goal - the largest other). Untargeted, the
  goal is the class whose linearised boundary is nearest.
  """
  labels = problem.labels

  def logits_at(point):
    return single_exit(logits_fn(point, keys), "fab").astype(point.dtype)

  if to_goal:

    def lead_at(point):
      logits = logits_at(point)
      return jnp.sum(excess := lead(logits, labels, problem.goals, to_goal=True)), (logits, excess)

    normal, (logits, excess) = jax.grad(lead_at, has_aux=True)(point)
    return jax.lax.stop_gradient((logits, _finite(normal), _finite(excess)))
  logits, pull_back = jax.vjp(logits_at, point)
  is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
  if targeted:
    is_goal = jax.nn.one_hot(problem.goals, logits.shape[-1], dtype=logits.dtype)
    (normal,) = pull_back(is_goal - is_label)
    excess = _pick(logits, problem.goals) - _pick(logits, labels)
    return jax.lax.stop_gradient((logits, _finite(normal), _finite(excess)))

  def gradient_of(one_class):
    return pull_back(one_class - is_label)[0]

  classes = jnp.eye(logits.shape[-1], dtype=logits.dtype)[:, None]
  normals = _finite(jax.vmap(gradient_of)(classes))  # [k, b, ...]
  excesses = (logits - _pick(logits, labels)[:, None]).T
  lengths = jax.vmap(lambda normal: _DUAL_NORMS[norm](normal).reshape(-1))(normals)
  away = jnp.abs(excesses) / (lengths + 1e-12)
  away = jnp.where((is_label.T > 0) | jnp.isnan(away), jnp.inf, away)
  goals, rows = jnp.argmin(away, axis=0), jnp.arange(labels.shape[0])
  excess = _finite(excesses[goals, rows])
  return jax.lax.stop_gradient((logits, normals[goals, rows], excess))


def _pick(logits, classes):
  """The logit of one class of each row, `[b]`."""
  return jnp.take_along_axis(logits, classes[:, None], axis=-1)[:, 0]


def _finite(values):
  """NaN and infinite entries of a gradient do not move their pixel; such a logit moves nothing."""
  return jnp.where(jnp.isfinite(values), values, 0.0)


def _boundary_step(ball: Ball, x: Array, point: Array, normal: Array, excess: Array) -> Array:
  """The overshot moves of point and x onto the hyperplane, mixed by their lengths."""
  move = MOVES[ball.norm]
  # <w, x> - b, by way of the point: no difference of two large numbers.
  excess_at_x = excess + sum_pixels(normal * (x - point)).reshape(-1)
  from_point = move(point, normal, excess)
  from_x = move(x, normal, excess_at_x)
  zero = jnp.zeros_like(x)
  length = jnp.maximum(ball.distance(from_point, zero), 1e-8)
  length_of_x = jnp.maximum(ball.distance(from_x, zero), 1e-8)
  share = per_example(jnp.minimum(length / (length + length_of_x), _BIAS_MAX), x)
  mixed = (1 - share) * (point + _OVERSHOOT * from_point)
  return jnp.clip(mixed + share * (x + _OVERSHOOT * from_x), 0.0, 1.0)
