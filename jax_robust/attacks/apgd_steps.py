"""APGD as a `Search`: what it remembers of an image, and one step of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jax_robust import losses
from jax_robust.attacks.apgd_rules import (
  FIRST_STEP,
  check_progress,
  check_support,
  first_sparsity,
  make_schedule,
  make_stages,
  move_sparsely,
  move_with_momentum,
  random_start,
  scale_ball,
)
from jax_robust.attacks.classes import misclassified
from jax_robust.attacks.stepwise import Problem, Search, select
from jax_robust.types import LogitsFn


class ApgdState(NamedTuple):
  """What APGD remembers of each image; a stage is one run at one radius (see `LARGE_RADII`).

  Attributes:
    problem: image, label, goal and key.
    count: steps done; step k asks the net at the k-th iterate, the start being the 0th.
    found: whether an iterate of the last stage was misclassified.
    x_adv: the last such iterate; else the point of highest loss of the last stage, `x` before it.
    point: where the net is asked next.
    previous: where `point` was reached from.
    best_x: the iterate of highest loss of this stage.
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


def apgd_search(
  loss_fn: Callable[[Any, Array, Array], Array],
  *,
  num_steps: int = 100,
  eot: int = 1,
  rho: float = 0.75,
  start: Array | None = None,
  large_radii: bool = False,
) -> Search:
  """Auto-PGD as a search: one run from one start. `apgd` says what it does.

  Args:
    loss_fn: `(outputs, labels, goals) -> [b]`, ascended.
    num_steps: iterations N. A row is done after N + 1 steps, N + 3 with `large_radii`.
    eot, rho, large_radii: as in `apgd`.
    start: as in `apgd`; it belongs to the rows that `init` is called with. Default: at random.

  Returns:
    A `Search`, whose states are of type `ApgdState`.

  >>> apgd_search(lambda outputs, labels, goals: outputs[:, 0], num_steps=20).num_steps
  21
  """
  stages = make_stages(num_steps, large_radii)

  def init(ball, problem):
    first_ball = scale_ball(ball, stages[0][0])
    x_start = random_start(first_ball, problem) if start is None else start
    x_start = first_ball.project(x_start.astype(problem.x.dtype), problem.x)
    return _fresh(problem, x_start)

  def step(ball, logits_fn, state):
    schedule = make_schedule(stages, ball.norm)
    now, following = schedule.at(state.count), schedule.at(state.count + 1)
    loss, gradient, wrong = _ask(logits_fn, loss_fn, state, eot)
    if ball.norm == "l1":
      state = first_sparsity(state, now.starts, start is not None or large_radii)
    state = _remember(state, now, FIRST_STEP[ball.norm], loss, gradient, wrong)
    check = check_support if ball.norm == "l1" else check_progress
    state, restart = check(state, now.period, rho)
    base, gradient = select(restart, (state.best_x, state.best_gradient), (state.point, gradient))
    move = move_sparsely if ball.norm == "l1" else move_with_momentum
    moved = move(scale_ball(ball, now.radius) if large_radii else ball, state, base, gradient, now)
    if large_radii:
      moved = select(following.starts, state.best_x, moved)
      ball = scale_ball(ball, following.radius)
    return state._replace(
      count=state.count + 1, point=ball.project(moved, state.problem.x), previous=base
    )

  return Search(
    init, step, num_steps=sum(n + 1 for _, n in stages), num_forward=eot, num_backward=eot
  )


def _fresh(problem, x_start):
  """The state before the first step."""
  x = problem.x
  num_rows, dtype = x.shape[0], jnp.promote_types(x.dtype, jnp.float32)
  number, flag = jnp.zeros(num_rows, dtype), jnp.zeros(num_rows, bool)
  count = jnp.zeros(num_rows, jnp.int32)
  return ApgdState(
    problem=problem, count=count, found=flag, x_adv=x, point=x_start, previous=x_start,
    best_x=x_start, best_gradient=jnp.zeros_like(x), best_loss=number - jnp.inf, loss=number,
    increases=count, step_size=number, reduced=flag, checked_loss=number, sparsity=number,
    support=number,
  )  # fmt: skip


def _ask(logits_fn: LogitsFn, loss_fn, state, eot):
  """Loss and gradient at the point, means over `eot` draws, and whether the mean draw is wrong."""
  problem = state.problem
  keys = jax.vmap(lambda key, count: jax.random.split(jax.random.fold_in(key, count), eot))(
    problem.keys, state.count + 1
  ).reshape(-1)
  over_exits = losses.over_exits(lambda outputs, both: loss_fn(outputs, *both))

  def copies(values):
    return values if eot == 1 else jnp.repeat(values, eot, axis=0)

  def loss_at(point):
    outputs = logits_fn(copies(point), keys)
    each = over_exits(outputs, (copies(problem.labels), copies(problem.goals)))
    loss = jnp.mean(each.reshape(-1, eot), axis=1)
    return jnp.sum(loss), (loss.astype(state.loss.dtype), outputs)

  gradient, (loss, outputs) = jax.grad(loss_at, has_aux=True)(state.point)
  if eot > 1:  # one draw that is wrong by chance is no success
    outputs = jax.tree.map(
      lambda z: jnp.mean(jax.nn.softmax(z).reshape(-1, eot, z.shape[-1]), axis=1), outputs
    )
  return loss, gradient, misclassified(outputs, problem.labels)


def _remember(state, now, first_step, loss, gradient, wrong):
  """Puts down what the net said of the point."""
  best_loss = jnp.where(now.starts, -jnp.inf, state.best_loss)
  is_best = loss > best_loss
  best_x, best_gradient = select(
    is_best | now.starts,
    (state.point, gradient),
    (state.best_x, state.best_gradient),
  )
  wrong = wrong & now.is_last_stage
  rest = select(state.found | ~now.is_last_stage, state.x_adv, best_x)
  return state._replace(
    found=state.found | wrong,
    x_adv=select(wrong, state.point, rest),
    best_x=best_x,
    best_gradient=best_gradient,
    best_loss=jnp.where(is_best, loss, best_loss),
    # The start's loss is not kept: the reference compares the first iterate's with 0.
    loss=jnp.where(now.starts, 0.0, loss),
    increases=jnp.where(now.starts, 0, state.increases + (loss > state.loss)),
    step_size=jnp.where(now.starts, first_step, state.step_size),
    reduced=state.reduced | now.starts,
  )
