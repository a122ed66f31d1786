"""A toy update with all that the contract allows: a carry with rows, two optimiser steps a batch.

It trains at a perturbation that it keeps from batch to batch, row by row, and moves after each
optimiser step, as Free adversarial training does.
"""

import jax
import jax.numpy as jnp

from jax_robust import losses, objectives
from jax_robust.types import UpdateRecipe


def make_toy(apply_fn, *, prepare_batch, apply_gradients, sigma: float = 0.1):
  """The update: see `types.UpdateRecipe`."""

  def update(state, raw):
    prepared = prepare_batch(state, raw)
    x, target = prepared.batch["image"], prepared.batch["target"]
    delta = state.carry["rows"]["delta"].astype(x.dtype)
    for _ in range(2):

      def loss_fn(params, delta, model_state=state.model_state):
        outputs, model_state = apply_fn(params, model_state, x + delta, train=True)
        loss = jnp.mean(losses.over_exits(losses.cross_entropy)(outputs, target))
        return loss, model_state

      grad_fn = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
      (loss, model_state), (grads, ascent) = grad_fn(state.params, delta)
      # Of the sum, not the mean: else it would depend on how many rows a device has.
      ascent = len(x) * ascent
      delta = jnp.clip(delta + sigma * jnp.tanh(10 * ascent), -sigma, sigma)
      state, metrics = apply_gradients(state, grads, model_state, {"loss": loss})
    carry = {
      "rows": {"delta": delta.astype(state.carry["rows"]["delta"].dtype)},
      "count": state.carry["count"] + 2,
    }
    return state._replace(step=state.step + 1, carry=carry), metrics

  return update


def init_carry(image_shape, batch_size, *, sigma: float = 0.1):
  """A perturbation for each row, and a counter that all devices share."""
  del sigma
  return {"rows": {"delta": jnp.zeros((batch_size, *image_shape))}, "count": jnp.zeros((), int)}


TOY = UpdateRecipe(make_toy, init_carry, lambda **options: 2)
objectives.UPDATES.setdefault("toy", TOY)


def get_config(arg=""):
  """The tiny config, trained by the toy."""
  import pathlib
  import runpy

  tiny = runpy.run_path(str(pathlib.Path(__file__).parent / "tiny_config.py"))
  config = tiny["get_config"](arg)
  config.objective = {"name": "toy", "sigma": 0.05}
  config.model["norm"], config.model["activation"] = False, "swish"
  return config
