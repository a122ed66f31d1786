"""An attack: a random corner of the ball."""

import jax
import jax.numpy as jnp

from jax_robust import attacks


def random_corner(logits_fn, x, targets, rng, *, ball, scale: float = 1.0):
  """`x` moved by the radius in every pixel, up or down at random."""
  keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(len(x))) if rng.ndim == 0 else rng
  return ball.project(x + scale * ball.eps * jnp.sign(ball.sample(keys, x)), x)


attacks.ATTACKS["random_corner"] = random_corner
