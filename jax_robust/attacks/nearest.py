"""What minimum-norm attacks share: they keep the nearest adversarial point inside the ball."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_robust.attacks import stepwise
from jax_robust.attacks.balls import Ball
from jax_robust.nets.randomised import keyed
from jax_robust.types import LogitsFn


def keep_nearest(ball: Ball, state: Any, point: Array, adversarial: Bool[Array, " b"]) -> Any:
  """A state in which `x_adv` is the nearest adversarial point inside the ball, this one included.

  Args:
    ball: points within its eps count.
    state: a state of `stepwise` with `distance` `[b]`, that of `x_adv`, infinite without one.
    point: the point that was queried, inside the box, `[b, ...]`.
    adversarial: whether it is a success, `[b]`.

  Returns:
    The state, its `x_adv`, `distance` and `found` brought up to date.
  """
  distance = ball.distance(point, state.problem.x)
  nearer = adversarial & (distance <= ball.eps) & (distance < state.distance)
  return state._replace(
    x_adv=stepwise.select(nearer, point, state.x_adv),
    distance=jnp.where(nearer, distance, state.distance),
    found=state.found | nearer,
  )


def nearest_in_ball(
  name: str,
  search: stepwise.Search,
  logits_fn: LogitsFn,
  x: Array,
  targets: Any,
  rng: Array,
  ball: Ball,
  goals: Any = None,
) -> Float[Array, "b *dims"]:
  """Runs a minimum-norm search to its end: the nearest adversarial points in the ball, else x."""
  logits_fn = keyed(logits_fn)
  problem = stepwise.make_problem(x, targets, rng, goals, logits_fn)
  state = stepwise.run(search, logits_fn, problem, ball=ball, name=name)
  return jax.lax.stop_gradient(state.x_adv)
