"""What minimum-norm attacks share: they keep the nearest adversarial point inside the ball."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_robust.attacks import stepwise
from jax_robust.attacks.balls import Ball
from jax_robust.attacks.entry import check_inputs
from jax_robust.attacks.non_finite import warn_of_lost
from jax_robust.nets.exits import single_exit
from jax_robust.types import Images, LogitsFn, Rng


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
  x: Images,
  targets: Any,
  rng: Rng,
  ball: Ball,
  goals: Any = None,
) -> Float[Array, "b *dims"]:
  """Runs a minimum-norm search to its end: the nearest adversarial points in the ball, else x."""
  inputs = check_inputs(name, logits_fn, x, targets, rng, ball, minimum_norm=True, goals=goals)
  logits_of = lambda x, keys: single_exit(inputs.query(x, keys), name)  # noqa: E731
  state = stepwise.run(search, logits_of, stepwise.make_problem(inputs), ball=ball, name=name)
  warn_of_lost(name, state.num_lost, logits_of, inputs.x, inputs.keys)
  return jax.lax.stop_gradient(state.x_adv)
