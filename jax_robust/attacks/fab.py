"""FAB and FAB-T: the nearest adversarial point, by steps onto the linearised decision boundary."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_robust.attacks import stepwise
from jax_robust.attacks.balls import Ball
from jax_robust.attacks.classes import likeliest_wrong
from jax_robust.attacks.entry import check_inputs
from jax_robust.attacks.fab_search import fab_search
from jax_robust.attacks.non_finite import warn_of_lost
from jax_robust.attacks.pgd_steps import read_restarts
from jax_robust.nets import derivatives
from jax_robust.nets.exits import single_exit
from jax_robust.types import Images, LogitsFn, Rng, fold


def fab(
  logits_fn: LogitsFn,
  x: Images,
  targets: Any,
  rng: Rng,
  *,
  ball: Ball,
  goals: Any = None,
  num_steps: int = 100,
  num_restarts: int = 1,
) -> Float[Array, "b *dims"]:
  """Fast adaptive boundary attack: the nearest adversarial point, if it lies in the ball.

  Each iteration linearises the boundaries to all other classes, steps onto the nearest of them,
  a little further and somewhat drawn towards x, and where that is adversarial, back towards x.
  It minimises a distance, so the radius plays no part but to say in the end what counts: for the
  nearest adversarial point at any distance, give a ball that holds all images, such as
  `linf_ball(1.0)`.

  A step costs a backward pass per class, all at once in memory; `fab_targeted` needs one.

  Deviations from the reference, none of which changes an iterate of a run from x: the points that
  linearisations are made at count too where they are adversarial, and the nearest point of all runs
  is returned, not that of the first successful run.

  Guarantees: those of `jax_robust.attacks`, and
    `result_is_adversarial_and_in_the_ball_or_is_x`.
    `linear_minimum_is_reached`: on a linear model, to one percent, if the box is inactive; in it
      the nearest boundary is chosen as if there were no box.
    `restarts_never_go_further`: more of them return a point at most as far away.

  Args: those of `jax_robust.attacks`, and
    logits_fn: of one exit.
    num_restarts: the first run starts at x, others from a random point at half the radius, or at
      half the distance of the best point so far. Static.

  Returns:
    x_adv `[b, ...]`: the nearest adversarial point of all runs, or x where none of them is in the
    ball. A misclassified image is its own nearest adversarial point.

  Reference: Croce and Hein, 2020, "Minimally distorted Adversarial Examples with a Fast Adaptive
  Boundary Attack", https://arxiv.org/abs/1907.02044; constants of `fra31/auto-attack`.

  >>> from jax_robust.attacks import linf_ball
  >>> x, labels, ball = jnp.array([[0.75, 0.25]]), jnp.array([0]), linf_ball(1.0)
  >>> x_adv = fab(lambda x: x, x, labels, jax.random.key(0), ball=ball, num_steps=5)
  >>> ball.distance(x_adv, x).round(2).tolist()
  [0.25]
  """
  inputs = check_inputs("fab", logits_fn, x, targets, rng, ball, minimum_norm=True, goals=goals)
  problem = stepwise.make_problem(inputs)
  make_search = functools.partial(
    fab_search, num_steps=num_steps, targeted=False, to_goal=goals is not None
  )
  return _nearest(
    "fab", make_search, inputs.query, problem, problem.goals[None], num_restarts, ball
  )


def fab_targeted(
  logits_fn: LogitsFn,
  x: Images,
  targets: Any,
  rng: Rng,
  *,
  ball: Ball,
  num_targets: int = 9,
  num_steps: int = 100,
  num_restarts: int = 1,
) -> Float[Array, "b *dims"]:
  """FAB-T: a run of FAB for each of the likeliest wrong classes, with one boundary each.

  Guarantees: those of `fab`; of a linear model, the minimum inside the box too.

  Args: those of `fab`, and
    num_restarts: runs per class, as in `fab`; static.

  Reference: Croce and Hein, 2020, "Reliable Evaluation of Adversarial Robustness with an Ensemble
  of Diverse Parameter-free Attacks", https://arxiv.org/abs/2003.01690.

  >>> from jax_robust.attacks import l2_ball
  >>> x, labels, ball = jnp.array([[0.75, 0.25, 0.5]]), jnp.array([0]), l2_ball(1.0)
  >>> x_adv = fab_targeted(lambda x: x, x, labels, jax.random.key(0), ball=ball, num_steps=5)
  >>> float(ball.distance(x_adv, x)[0] * 2**0.5).__round__(2)
  0.25
  """
  inputs = check_inputs("fab_targeted", logits_fn, x, targets, rng, ball, minimum_norm=True)
  problem = stepwise.make_problem(inputs)
  clean = jax.lax.stop_gradient(inputs.query(problem.x, problem.keys))
  goals = likeliest_wrong(single_exit(clean, "fab_targeted"), problem.labels, num_targets)
  make_search = functools.partial(fab_search, num_steps=num_steps, targeted=True)
  return _nearest("fab_targeted", make_search, inputs.query, problem, goals, num_restarts, ball)


def _nearest(name, make_search, logits_fn, problem, goals, num_restarts, ball):
  """The nearest adversarial point over all goals `[t, b]` and restarts, or x."""
  num_restarts = read_restarts(num_restarts, None)
  num_goals = goals.shape[0]
  tries = jnp.arange(num_restarts * num_goals), jnp.tile(goals, (num_restarts, 1))
  arguments = ball, problem, goals
  drive = stepwise.make_driver(make_search(), logits_fn, arguments)

  def attempt(search, carry, numbered):
    x_adv, distance, num_lost = carry
    number, goal = numbered
    # Only what is nearer counts now, and random starts are near enough to find it.
    within = dataclasses.replace(ball, eps=jnp.minimum(ball.eps, distance))
    keys = fold(problem.keys, number)
    tried = drive(within, search.init(within, problem._replace(goals=goal, keys=keys)))
    nearer = tried.found & (tried.distance < distance)
    x_adv = stepwise.select(nearer, tried.x_adv, x_adv)
    distance = jnp.where(nearer, tried.distance, distance)
    return x_adv, distance, num_lost + tried.num_lost

  num_lost = jnp.zeros(problem.x.shape[0], jnp.int32)
  carry = problem.x, jnp.full_like(problem.x, jnp.inf, shape=problem.x.shape[:1]), num_lost
  first, others = (jax.tree.map(lambda each, rows=rows: each[rows], tries)
                   for rows in (slice(num_goals), slice(num_goals, None)))  # fmt: skip
  with derivatives.needed(name, logits_fn, problem.x, problem.keys):
    carry = stepwise.one_by_one(functools.partial(attempt, make_search()), carry, first, arguments)
    if num_restarts > 1:
      random = functools.partial(attempt, make_search(random_start=True))
      carry = stepwise.one_by_one(random, carry, others, arguments)
  warn_of_lost(name, carry[2], logits_fn, problem.x, problem.keys)
  return jax.lax.stop_gradient(carry[0])
