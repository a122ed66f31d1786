"""Empirical risk: the cross entropy of clean images."""

import jax.numpy as jnp

from jax_robust import losses
from jax_robust.objectives import common
from jax_robust.types import ApplyFn, Batch, LossFn, Progress


def standard(
  apply_fn: ApplyFn,
  params,
  model_state,
  batch: Batch,
  rng,
  progress: Progress,
  *,
  loss_fn: LossFn = losses.cross_entropy,
):
  """`mean_i loss(t_i, f(x_i))`: ordinary training, the baseline of every robust method.

  Args:
    apply_fn: the net, `(params, model_state, x, train=) -> (outputs, model_state)`.
    params: what the loss is differentiated by.
    model_state: running statistics; updated by the one training pass.
    batch: `image` `[b, h, w, c]` in [0, 1] and `target` `[b, k]`.
    rng: unused.
    progress: unused.
    loss_fn: per-example loss.

  Returns:
    The mean loss, and `(model_state, metrics)`.
  """
  del rng, progress
  x, targets = common.read_batch(batch)
  outputs, model_state = apply_fn(params, model_state, x, train=True)
  loss = jnp.mean(losses.over_exits(loss_fn)(outputs, targets))
  metrics = {"loss": loss, "accuracy": common.accuracy(outputs, targets)}
  return loss, (model_state, metrics)
