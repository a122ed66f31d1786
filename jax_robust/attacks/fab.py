"""FAB and FAB-T: the nearest adversarial point, by steps onto the linearised decision boundary."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_robust import losses
from jax_robust.attacks import stepwise
from jax_robust.attacks.balls import Ball
from jax_robust.attacks.checks import check_images
from jax_robust.attacks.classes import check_single_exit, likeliest_wrong
from jax_robust.attacks.fab_search import fab_search as fab_search
from jax_robust.attacks.stepwise import Problem
from jax_robust.nets.randomised import keyed
from jax_robust.types import LogitsFn, as_keys, fold


def fab(
  logits_fn: LogitsFn,
  x: Float[Array, "b *dims"],
  targets: Any,
  rng: Array,
  *,
  ball: Ball,
  num_steps: int = 100,
  num_restarts: int = 1,
) -> Float[Array, "b *dims"]:
  """Fast adaptive boundary attack: the nearest adversarial point, if it lies in the ball.

  Each iteration linearises the boundaries to all other classes, steps onto the nearest of them,
  a little further and somewhat drawn towards x, and where that is adversarial, back towards x.
  The radius has no part in it but to say in the end what counts: for the nearest adversarial point
  at any distance, give a ball that holds all images, such as `linf_ball(1.0)`.

  A step costs a backward pass per class, all at once in memory; `fab_targeted` needs one.

  Deviations from the reference, none of which changes an iterate of a run from x: the points that
  linearisations are made at count too where they are adversarial, and the nearest point of all runs
  is returned, not that of the first run which fools.

  Guarantees:
    `result_is_adversarial_and_in_the_ball_or_is_x`.
    `linear_minimum_is_reached`: on a linear classifier, to one percent, if the box is inactive;
      in it the nearest boundary is chosen as if there were no box.
    `zero_radius_is_the_identity`: eps = 0 returns x, bitwise.
    `result_is_independent_of_the_batch`: row i depends on image, target and key i only.
    `no_gradient_flows_out`: the result is a constant for whatever differentiates around it.
    `restarts_never_go_further`: more of them return a point at most as far away.

  Args:
    logits_fn: `x -> logits [b, k]`, or `(x, rng)`.
    x: images in [0, 1], `[b, ...]`.
    targets: true labels `[b]`, or probabilities `[b, k]`, whose arg max is taken. A misclassified
      image is its own nearest adversarial point.
    rng: one key, folded with the row number, or one key per example `[b]`.
    ball: the threat model.
    num_steps: iterations per run; static.
    num_restarts: the first run starts at x, others from a random point at half the radius, or at
      half the distance of the best point so far. Static.

  Returns:
    x_adv `[b, ...]`, dtype of x: the nearest adversarial point of all runs, or x where none of
    them is in the ball.

  Raises:
    TypeError: x is not floating-point.
    ValueError: no restart, a negative number of steps, a classifier of several exits.

  Reference: Croce and Hein, 2020, "Minimally distorted Adversarial Examples with a Fast Adaptive
  Boundary Attack", https://arxiv.org/abs/1907.02044; constants of `fra31/auto-attack`.

  >>> import jax, jax.numpy as jnp
  >>> from jax_robust.attacks import linf_ball
  >>> x, labels, ball = jnp.array([[0.75, 0.25]]), jnp.array([0]), linf_ball(1.0)
  >>> x_adv = fab(lambda x: x, x, labels, jax.random.key(0), ball=ball, num_steps=5)
  >>> ball.distance(x_adv, x).round(2).tolist()
  [0.25]
  """
  check_images(x)
  _check(num_steps, num_restarts)
  x, labels = jax.lax.stop_gradient((x, losses.as_labels(targets)))
  return _nearest(
    functools.partial(fab_search, num_steps=num_steps, targeted=False),
    keyed(logits_fn), Problem(x, labels, labels, as_keys(rng, x.shape[0])), labels[None],
    num_restarts=num_restarts, ball=ball,
  )  # fmt: skip


def fab_targeted(
  logits_fn: LogitsFn,
  x: Float[Array, "b *dims"],
  targets: Any,
  rng: Array,
  *,
  ball: Ball,
  num_targets: int = 9,
  num_steps: int = 100,
  num_restarts: int = 1,
) -> Float[Array, "b *dims"]:
  """FAB-T: a run of FAB for each of the likeliest wrong classes, with one boundary each.

  Any misclassification counts, whatever the class that a run makes for.

  Guarantees: those of `fab`; of a linear classifier, the minimum inside the box too.

  Args:
    logits_fn: `x -> logits [b, k]`, or `(x, rng)`.
    x: images in [0, 1], `[b, ...]`.
    targets: true labels `[b]`, or probabilities `[b, k]`, whose arg max is taken. A misclassified
      image is its own nearest adversarial point.
    rng: one key, folded with the row number, or one key per example `[b]`.
    ball: the threat model.
    num_targets: wrong classes, in the order of the logits of x; at most all there are. Static.
    num_steps: iterations per run; static.
    num_restarts: runs per class, as in `fab`; static.

  Returns:
    x_adv `[b, ...]`, dtype of x: the nearest adversarial point of all runs, or x where none of
    them is in the ball.

  Raises:
    TypeError: x is not floating-point.
    ValueError: no target, no restart, a negative number of steps, a classifier of several exits.

  Reference: Croce and Hein, 2020, "Reliable Evaluation of Adversarial Robustness with an Ensemble
  of Diverse Parameter-free Attacks", https://arxiv.org/abs/2003.01690.

  >>> import jax, jax.numpy as jnp
  >>> from jax_robust.attacks import l2_ball
  >>> x, labels, ball = jnp.array([[0.75, 0.25, 0.5]]), jnp.array([0]), l2_ball(1.0)
  >>> x_adv = fab_targeted(lambda x: x, x, labels, jax.random.key(0), ball=ball, num_steps=5)
  >>> float(ball.distance(x_adv, x)[0] * 2**0.5).__round__(2)
  0.25
  """
  check_images(x)
  _check(num_steps, num_restarts)
  x, labels = jax.lax.stop_gradient((x, losses.as_labels(targets)))
  logits_fn, keys = keyed(logits_fn), as_keys(rng, x.shape[0])
  clean = jax.lax.stop_gradient(logits_fn(x, keys))
  check_single_exit(clean)
  return _nearest(
    functools.partial(fab_search, num_steps=num_steps, targeted=True),
    logits_fn, Problem(x, labels, labels, keys), likeliest_wrong(clean, labels, num_targets),
    num_restarts=num_restarts, ball=ball,
  )  # fmt: skip


def _check(num_steps, num_restarts):
  """Raises on numbers that mean no run."""
  if num_steps < 0 or num_restarts < 1:
    raise ValueError(
      f"num_steps={num_steps}, num_restarts={num_restarts}: expected at least 0 steps and 1 restart"
    )


def _nearest(make_search, logits_fn, problem, goals, *, num_restarts, ball):
  """The nearest adversarial point over all goals `[t, b]` and restarts, or x."""
  carry = problem.x, jnp.full_like(problem.x, jnp.inf, shape=problem.x.shape[:1])
  num_goals = goals.shape[0]
  numbers, goals = jnp.arange(num_restarts * num_goals), jnp.tile(goals, (num_restarts, 1))
  is_one_program = stepwise.is_one_program((ball, problem, goals))
  drive = stepwise.make_driver(make_search(), logits_fn, (ball, problem, goals))

  def attempt(search, carry, numbered):
    x_adv, distance = carry
    number, goal = numbered
    # Only what is nearer counts now, and random starts are near enough to find it.
    within = dataclasses.replace(ball, eps=jnp.minimum(ball.eps, distance))
    keys = fold(problem.keys, number)
    tried = drive(within, search.init(within, problem._replace(goals=goal, keys=keys)))
    nearer = tried.found & (tried.distance < distance)
    x_adv = stepwise.select(nearer, tried.x_adv, x_adv)
    return (x_adv, jnp.where(nearer, tried.distance, distance)), None

  for is_random, rows in ((False, slice(num_goals)), (True, slice(num_goals, None))):
    step = functools.partial(attempt, make_search(random_start=is_random))
    tries = numbers[rows], goals[rows]
    if not len(tries[0]):
      continue
    if is_one_program:
      carry, _ = jax.lax.scan(step, carry, tries)
    else:
      for numbered in zip(*tries, strict=True):
        carry, _ = step(carry, numbered)
  return jax.lax.stop_gradient(carry[0])
