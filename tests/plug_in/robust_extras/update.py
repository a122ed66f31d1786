"""An update: two optimiser steps on each batch."""

import functools

import jax

from jax_robust import objectives
from jax_robust.types import UpdateRecipe


def make_twice(apply_fn, *, prepare_batch, apply_gradients, weight: float = 0.1):
  loss_fn = functools.partial(objectives.OBJECTIVES["squeezed"], apply_fn, weight=weight)

  def update(state, raw):
    batch = prepare_batch(state, raw).batch
    for _ in range(2):
      grads, (model_state, metrics) = jax.grad(loss_fn, has_aux=True)(
        state.params, state.model_state, batch, None, None)  # fmt: skip
      state, metrics = apply_gradients(state, grads, model_state, metrics)
    return state._replace(step=state.step + 1), metrics

  return update


objectives.UPDATES["twice"] = UpdateRecipe(make_twice, updates_per_batch=lambda **options: 2)
