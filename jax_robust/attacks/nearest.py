"""What the minimum-norm attacks share: the nearest adversarial point in the ball is kept."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_robust import losses
from jax_robust.attacks import stepwise
from jax_robust.attacks.balls import Ball
from jax_robust.attacks.checks import check_images
from jax_robust.attacks.stepwise import Problem, Search
from jax_robust.nets.randomised import keyed
from jax_robust.types import LogitsFn, as_keys


def keep_nearest(ball: Ball, state: Any, point: Array, adversarial: Bool[Array, " b"]) -> Any:
  """A state in which `x_adv` is the nearest adversarial point inside the ball, this one included.

  Args:
    ball: what counts: points within its eps.
    state: a state of `stepwise` with `distance` `[b]`, that of `x_adv`, infinite without one.
    point: where the net was asked, inside the box, `[b, ...]`.
    adversarial: whether it is misclassified there, `[b]`.

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
  search: Search, logits_fn: LogitsFn, x: Array, targets: Any, rng: Array, ball: Ball
) -> Float[Array, "b *dims"]:
  """Runs a minimum-norm search to its end: the nearest adversarial points in the ball, else x."""
  check_images(x)
  x, targets = jax.lax.stop_gradient((jnp.asarray(x), targets))
  labels = losses.as_labels(targets)
  problem = Problem(x, labels, goals=labels, keys=as_keys(rng, x.shape[0]))
  state = stepwise.run(search, keyed(logits_fn), problem, ball=ball)
  return jax.lax.stop_gradient(state.x_adv)


def check_l2(name: str, ball: Ball) -> None:
  """Raises where the ball of an attack that measures l2 distance is another."""
  if ball.norm != "l2":
    raise ValueError(
      f"ball.norm={ball.norm!r}: {name} minimises the l2 distance; expected an l2_ball"
    )
