"""A training method: cross entropy with a penalty on large logits."""

import jax.numpy as jnp

from jax_robust import losses, objectives


def squeezed(apply_fn, params, model_state, batch, rng, progress, *, weight: float = 0.1):
  """The mean cross entropy plus `weight` times the mean square of the logits."""
  logits, model_state = apply_fn(params, model_state, batch["image"], train=True)
  loss = jnp.mean(losses.cross_entropy(logits, batch["target"])) + weight * jnp.mean(logits**2)
  return loss, (model_state, {"loss": loss})


objectives.OBJECTIVES["squeezed"] = squeezed
