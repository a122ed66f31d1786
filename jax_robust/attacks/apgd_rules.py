"""The rules of APGD: when a row is examined, what follows from that, where it starts and moves."""

import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust.attacks.balls import Ball
from jax_robust.attacks.projections import l2_norm, max_pixels, per_example
from jax_robust.types import fold

LARGE_RADII = ((3.0, 0.3), (2.0, 0.3), (1.0, None))
"""Radius in units of eps, and share of the iterations, of each stage; the last has what is left."""

_MOMENTUM = 0.75  # the share of the new step; the rest goes to the last displacement
FIRST_STEP = {"linf": 2.0, "l2": 2.0, "l1": 1.0}  # in units of the radius
_FIRST_SPARSITY, _SPARSITY_SHRINK, _L1_SHRINK, _L1_LEAST_STEP = 0.2, 1.5, 1.5, 0.1
_FEWER_PIXELS = 0.95


class Schedule(NamedTuple):
  """What step k means: does a stage start, and how long was the period that ends (0: none)?"""

  starts: Any
  period: Any
  radius: Any
  is_last_stage: Any

  def at(self, count):
    """The entries of each row, `[b]`."""
    return Schedule(*(jnp.asarray(table)[count] for table in self))


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


def make_stages(num_steps, large_radii):
  """`(radius in units of eps, iterations)` of each stage."""
  if not large_radii:
    return ((1.0, num_steps),)
  early = [(radius, math.ceil(share * num_steps)) for radius, share in LARGE_RADII[:-1]]
  left = max(num_steps - sum(n for _, n in early), 0)
  return (*early, (LARGE_RADII[-1][0], left))


def make_schedule(stages, norm):
  """Tables of what happens at each step, with one entry more for what follows the last."""
  entries = []
  for number, (radius, num_steps) in enumerate(stages):
    lengths = checkpoint_periods(num_steps, norm)
    period_at = dict(zip(itertools.accumulate(lengths), lengths, strict=True))
    is_last = number == len(stages) - 1
    entries += [(k == 0, period_at.get(k, 0), radius, is_last) for k in range(num_steps + 1)]
  entries.append((False, 0, 1.0, True))
  return Schedule(*map(np.asarray, zip(*entries, strict=True)))


def scale_ball(ball, factor):
  """The ball with its radius multiplied."""
  if isinstance(factor, float) and factor == 1:
    return ball
  eps = jnp.asarray(ball.eps)
  return dataclasses.replace(ball, eps=eps * jnp.asarray(factor, eps.dtype))


def random_start(ball, problem):
  """On the sphere for linf and l2, as far as the box allows; projected noise for l1."""
  x = problem.x
  dtype = jnp.promote_types(x.dtype, jnp.float32)
  keys = fold(problem.keys, 0)
  if ball.norm == "linf":
    draw = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], dtype, minval=-1.0))(keys)
    direction = draw / jnp.maximum(max_pixels(jnp.abs(draw)), 1e-12)
  else:
    draw = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], dtype))(keys)
    if ball.norm == "l1":
      return x + draw.astype(x.dtype)
    direction = draw / jnp.maximum(l2_norm(draw), 1e-12)
  return x + per_example(ball.eps, x) * direction.astype(x.dtype)


def first_sparsity(state, starts, is_given):
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


def check_progress(state, period, rho):
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


def check_support(state, period, rho):
  """l1, at a checkpoint: starts over from the best point where that has become sparser."""
  del rho
  due = period > 0
  x = state.problem.x
  support = _support(state.best_x, x).astype(state.support.dtype)
  sparser = due & (support < _FEWER_PIXELS * state.support)
  shrunk = jnp.maximum(state.step_size / _L1_SHRINK, _L1_LEAST_STEP)
  step_size = jnp.where(sparser, FIRST_STEP["l1"], jnp.where(due, shrunk, state.step_size))
  share = support / math.prod(x.shape[1:]) / _SPARSITY_SHRINK
  state = state._replace(
    step_size=step_size,
    sparsity=jnp.where(due, share, state.sparsity),
    support=jnp.where(due, support, state.support),
  )
  return state, sparser


def _support(point, x):
  """The number of pixels that differ, `[b]`."""
  return jnp.sum(point != x, axis=tuple(range(1, x.ndim)))


def move_with_momentum(ball: Ball, state, base, gradient, now):
  """A step of ascent, projected, and a quarter of the last displacement."""
  size = per_example(state.step_size, base) * per_example(ball.eps, base)
  ahead = ball.project(base + size * ball.ascent(gradient), state.problem.x)
  share = per_example(jnp.where(now.starts, 1.0, _MOMENTUM), base)
  return base + share * (ahead - base) + (1 - share) * (base - state.previous)


def move_sparsely(ball: Ball, state, base, gradient, now):
  """l1: a step along the largest entries of the gradient, without momentum."""
  del now
  size = per_example(state.step_size, base) * per_example(ball.eps, base)
  return base + size * dataclasses.replace(ball, sparsity=state.sparsity).ascent(gradient)
