"""APGD as a `Search`: what it remembers of an image, its checkpoints, and one step of it."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jax_robust import losses
from jax_robust.attacks import stepwise
from jax_robust.attacks.balls import Ball
from jax_robust.attacks.classes import is_finite, succeeded
from jax_robust.attacks.projections import l2_norm, max_pixels, per_example
from jax_robust.attacks.stepwise import Problem, Search, select
from jax_robust.errors import check_count, check_flag, check_share
from jax_robust.nets.exits import predictions
from jax_robust.types import LogitsFn, fold, normals

LARGE_RADII = ((3.0, 0.3), (2.0, 0.3), (1.0, None))
"""Radius in units of eps, and share of the iterations, of each stage; the last has what is left."""

_MOMENTUM = 0.75  # the share of the new step; the rest goes to the last displacement
_FIRST_STEP = {"linf": 2.0, "l2": 2.0, "l1": 1.0}  # in units of the radius
_FIRST_SPARSITY, _SPARSITY_SHRINK, _L1_SHRINK, _L1_LEAST_STEP = 0.2, 1.5, 1.5, 0.1
_FEWER_PIXELS = 0.95


class ApgdState(NamedTuple):
  """What APGD remembers of each image; a stage is one run at one radius (see `LARGE_RADII`).

  Attributes:
    problem: image, label, goal and key.
    count: steps done; step k queries the k-th iterate, the start being the 0th.
    found: whether an iterate of the last stage was misclassified.
    x_adv: the last such iterate; else the point of highest loss of the last stage, `x` before it.
    point: the next query.
    previous: where `point` was reached from.
    best_x: the iterate of highest loss of this stage, whose logits are finite.
    best_gradient: the gradient there.
    best_loss: the loss there; -inf before the first step.
    loss: at the last iterate.
    increases: how often the loss rose since the last checkpoint.
    step_size: in units of the stage's radius.
    reduced: whether the last checkpoint reduced the step size.
    checked_loss: `best_loss` at the last checkpoint.
    sparsity: l1: the share of pixels that a step moves.
    support: l1: the number of pixels that differed from x at the last checkpoint.
  """

  problem: Problem
  count: Array
  found: Array
  x_adv: Array
  num_lost: Array
  point: Array
  previous: Array
  best_x: Array
  best_gradient: Array
  best_loss: Array
  loss: Array
  increases: Array
  step_size: Array
  reduced: Array
  checked_loss: Array
  sparsity: Array
  support: Array


class _Timetable(NamedTuple):
  """What happens at step k, as tables over k, or as their entries for each row `[b]`.

  Attributes:
    starts: whether a stage starts.
    period: the length of the period after which the step size is examined now; 0: not now.
    radius: of the stage, in units of eps.
    is_last_stage: whether it is the last stage.
  """

  starts: Any
  period: Any
  radius: Any
  is_last_stage: Any

  def at(self, count):
    """The entries of each row, `[b]`."""
    return _Timetable(*(jnp.asarray(table)[count] for table in self))


def apgd_search(
  loss_fn: Callable[[Any, Array, Array], Array],
  *,
  num_steps: int = 100,
  eot: int = 1,
  rho: float = 0.75,
  start: Any = None,
  large_radii: bool = False,
  to_goal: bool = False,
) -> Search:
  """Auto-PGD as a search: one run from one start. `apgd` says what it does.

  Args:
    loss_fn: `(outputs, labels, goals) -> [b]`, ascended; of several exits in the mean, unless it is
      marked with `losses.of_all_exits`.
    num_steps: iterations N. A row is done after N + 1 steps, N + 3 with `large_radii`.
    eot, rho, large_radii: as in `apgd`.
    to_goal: whether success is that the problem's goals are predicted, rather than a wrong class.
    start: as in `apgd`; it belongs to the rows that `init` is called with. Default: at random.

  Returns:
    A `Search`, whose states are of type `ApgdState`.

  Raises:
    ValueError: a negative number of steps; no draw; `rho` outside [0, 1].

  >>> apgd_search(lambda outputs, labels, goals: outputs[:, 0], num_steps=20).num_steps
  21
  """
  check_count(0, num_steps=num_steps)
  check_count(eot=eot)
  check_share(rho=rho)
  check_flag(large_radii=large_radii)
  num_steps, eot = int(num_steps), int(eot)
  stages = _stages(num_steps, large_radii)
  start = jax.lax.stop_gradient(start)

  def init(ball, problem):
    first_ball = _scale_ball(ball, stages[0][0])
    x_start = _random_start(first_ball, problem) if start is None else start
    return _first_state(problem, first_ball.project(x_start.astype(problem.x.dtype), problem.x))

  def step(ball, logits_fn, state):
    timetable = _make_timetable(stages, ball.norm)
    now, following = timetable.at(state.count), timetable.at(state.count + 1)
    queried = _query(logits_fn, loss_fn, state, eot, to_goal)
    gradient = queried.gradient
    is_l1 = ball.norm == "l1"
    if is_l1:
      state = _first_sparsity(state, now.starts, start is not None or large_radii)
    state = _remember(state, now, _FIRST_STEP[ball.norm], queried)
    state, restart = (_check_support if is_l1 else _check_progress)(state, now.period, rho)
    state, restart = _leave_lost_point(state, queried.finite, restart)
    base, gradient = select(restart, (state.best_x, state.best_gradient), (state.point, gradient))
    move = _move_sparsely if is_l1 else _move_with_momentum
    moved = move(_scale_ball(ball, now.radius) if large_radii else ball, state, base, gradient, now)
    if large_radii:
      moved = select(following.starts, state.best_x, moved)
      ball = _scale_ball(ball, following.radius)
    return state._replace(
      count=state.count + 1, point=ball.project(moved, state.problem.x), previous=base
    )

  return Search(
    init, step, num_steps=sum(n + 1 for _, n in stages), num_forward=eot, num_backward=eot
  )


def _stages(num_steps, large_radii):
  """`(radius in units of eps, iterations)` of each stage."""
  if not large_radii:
    return ((1.0, num_steps),)
  early = [(radius, math.ceil(share * num_steps)) for radius, share in LARGE_RADII[:-1]]
  left = max(num_steps - sum(n for _, n in early), 0)
  return (*early, (LARGE_RADII[-1][0], left))


def checkpoint_periods(num_steps: int, norm: str) -> list[int]:
  """The lengths of the periods after which the step size is examined.

  >>> checkpoint_periods(100, "linf")
  [22, 19, 16, 13, 10, 7, 6, 6]
  """
  if norm == "l1":
    period = max(int(0.04 * num_steps), 1)
    return [period] * (num_steps // period)
  period, shrink, least = (max(int(share * num_steps), 1) for share in (0.22, 0.03, 0.06))
  periods = []
  while sum(periods) + period <= num_steps:
    periods.append(period)
    period = max(period - shrink, least)
  return periods


def _make_timetable(stages, norm):
  """What happens at each step, with one entry more for what follows the last."""
  entries = []
  for number, (radius, num_steps) in enumerate(stages):
    lengths = checkpoint_periods(num_steps, norm)
    period_at = dict(zip(itertools.accumulate(lengths), lengths, strict=True))
    is_last = number == len(stages) - 1
    entries += [(k == 0, period_at.get(k, 0), radius, is_last) for k in range(num_steps + 1)]
  entries.append((False, 0, 1.0, True))
  return _Timetable(*map(np.asarray, zip(*entries, strict=True)))


def _scale_ball(ball, factor):
  """The ball with its radius multiplied."""
  if isinstance(factor, float) and factor == 1:
    return ball
  eps = jnp.asarray(ball.eps)
  return dataclasses.replace(ball, eps=eps * jnp.asarray(factor, eps.dtype))


def _random_start(ball, problem):
  """On the sphere for linf and l2, as far as the box allows; projected noise for l1."""
  x = problem.x
  dtype = jnp.promote_types(x.dtype, jnp.float32)
  keys = fold(problem.keys, 0)
  if ball.norm == "linf":
    draw = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], dtype, minval=-1.0))(keys)
    direction = draw / jnp.maximum(max_pixels(jnp.abs(draw)), 1e-12)
  else:
    draw = normals(keys, x.shape[1:], dtype)
    if ball.norm == "l1":
      return x + draw.astype(x.dtype)
    direction = draw / jnp.maximum(l2_norm(draw), 1e-12)
  return x + per_example(ball.eps, x) * direction.astype(x.dtype)


def _first_state(problem, x_start):
  """The state before the first step."""
  x = problem.x
  number = jnp.zeros(x.shape[0], jnp.promote_types(x.dtype, jnp.float32))
  shared = stepwise.fresh(problem)
  return ApgdState(
    **shared, point=x_start, previous=x_start, best_x=x_start, best_gradient=jnp.zeros_like(x),
    best_loss=number - jnp.inf, loss=number, increases=shared["count"], step_size=number,
    reduced=shared["found"], checked_loss=number, sparsity=number, support=number,
  )  # fmt: skip


class _Queried(NamedTuple):
  """Loss and gradient at the point, means over `eot` draws, -inf and 0 where logits are not finite;
  whether the mean draw is a success; whether all logits are finite.
  """

  loss: Array
  gradient: Array
  success: Array
  finite: Array


def _query(logits_fn: LogitsFn, loss_fn, state, eot, to_goal) -> _Queried:
  """Queries the model at the point."""
  problem = state.problem
  keys = jax.vmap(lambda key, count: jax.random.split(jax.random.fold_in(key, count), eot))(
    problem.keys, state.count + 1
  ).reshape(-1)

  def copies(values):
    return values if eot == 1 else jnp.repeat(values, eot, axis=0)

  def loss_at(point):
    outputs = logits_fn(copies(point), keys)
    goals = copies(problem.goals)
    each = losses.over_exits(
      losses.wrapped_as(loss_fn, lambda y, labels: loss_fn(y, labels, goals))
    )
    loss = jnp.mean(each(outputs, copies(problem.labels)).reshape(-1, eot), axis=1)
    return jnp.sum(loss), (loss.astype(state.loss.dtype), predictions(outputs), is_finite(outputs))

  gradient, (loss, logits, finite) = jax.grad(loss_at, has_aux=True)(state.point)
  finite = jnp.all(finite.reshape(-1, eot), axis=1)
  if eot > 1:  # one draw that is wrong by chance is no success
    logits = jnp.mean(jax.nn.softmax(logits).reshape(-1, eot, logits.shape[-1]), axis=1)
  return _Queried(
    loss=jnp.where(finite, loss, -jnp.inf),
    gradient=select(finite, gradient, jnp.zeros_like(gradient)),
    success=succeeded(logits, problem.labels, problem.goals, to_goal=to_goal) & finite,
    finite=finite,
  )


def _leave_lost_point(state, finite, restart):
  """Back from a point whose logits are not finite to the best one, with half the step."""
  step_size = jnp.where(finite, state.step_size, state.step_size / 2)
  return state._replace(step_size=step_size), restart | ~finite


def _remember(state, now, first_step, queried):
  """The state with the result of the query."""
  loss, gradient, success, finite = queried
  best_loss = jnp.where(now.starts, -jnp.inf, state.best_loss)
  is_best = loss > best_loss
  # A start that is lost gives way to x, which has no gradient yet.
  point = select(finite, state.point, state.problem.x)
  best_x, best_gradient = select(
    is_best | now.starts, (point, gradient), (state.best_x, state.best_gradient)
  )
  success = success & now.is_last_stage
  rest = select(state.found | ~now.is_last_stage, state.x_adv, best_x)
  return state._replace(
    found=state.found | success,
    num_lost=state.num_lost + ~finite,
    x_adv=select(success, state.point, rest),
    best_x=best_x,
    best_gradient=best_gradient,
    best_loss=jnp.where(is_best, loss, best_loss),
    # The start's loss is not kept: the reference compares the first iterate's with 0.
    loss=jnp.where(now.starts, 0.0, loss),
    increases=jnp.where(now.starts, 0, state.increases + (loss > state.loss)),
    step_size=jnp.where(now.starts, first_step, state.step_size),
    reduced=state.reduced | now.starts,
  )


def _check_progress(state, period, rho):
  """At a checkpoint: halves the step and returns to the best point where the loss oscillates."""
  due = period > 0
  oscillates = state.increases <= rho * period
  stagnates = ~state.reduced & (state.checked_loss >= state.best_loss)
  reduce = due & (oscillates | stagnates)
  state = state._replace(
    step_size=jnp.where(reduce, state.step_size / 2, state.step_size),
    reduced=jnp.where(due, reduce, state.reduced),
    checked_loss=jnp.where(due, state.best_loss, state.checked_loss),
    increases=jnp.where(due, 0, state.increases),
  )
  return state, reduce


def _first_sparsity(state, starts, is_given):
  """l1: a random start moves a fifth of the pixels, any other as many as its own support says."""
  x, number = state.problem.x, state.support
  num_pixels = math.prod(x.shape[1:])
  support, sparsity = num_pixels, _FIRST_SPARSITY
  if is_given:
    support = _support(state.point, x).astype(number.dtype)
    sparsity = support / num_pixels / _SPARSITY_SHRINK
  return state._replace(
    support=jnp.where(starts, support, number),
    sparsity=jnp.where(starts, sparsity, state.sparsity),
  )


def _check_support(state, period, rho):
  """l1, at a checkpoint: starts over from the best point where that has become sparser."""
  del rho
  due = period > 0
  x = state.problem.x
  support = _support(state.best_x, x).astype(state.support.dtype)
  sparser = due & (support < _FEWER_PIXELS * state.support)
  shrunk = jnp.maximum(state.step_size / _L1_SHRINK, _L1_LEAST_STEP)
  share = support / math.prod(x.shape[1:]) / _SPARSITY_SHRINK
  state = state._replace(
    step_size=jnp.where(sparser, _FIRST_STEP["l1"], jnp.where(due, shrunk, state.step_size)),
    sparsity=jnp.where(due, share, state.sparsity),
    support=jnp.where(due, support, state.support),
  )
  return state, sparser


def _support(point, x):
  """The number of pixels that differ, `[b]`."""
  return jnp.sum(point != x, axis=tuple(range(1, x.ndim)))


def _move_with_momentum(ball: Ball, state, base, gradient, now):
  """A step of ascent, projected, and a quarter of the last displacement."""
  size = per_example(state.step_size, base) * per_example(ball.eps, base)
  ahead = ball.project(base + size * ball.ascent(gradient), state.problem.x)
  share = per_example(jnp.where(now.starts, 1.0, _MOMENTUM), base)
  return base + share * (ahead - base) + (1 - share) * (base - state.previous)


def _move_sparsely(ball: Ball, state, base, gradient, now):
  """l1: a step along the largest entries of the gradient, without momentum."""
  del now
  size = per_example(state.step_size, base) * per_example(ball.eps, base)
  return base + size * dataclasses.replace(ball, sparsity=state.sparsity).ascent(gradient)
