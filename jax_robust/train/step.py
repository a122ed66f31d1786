"""One update: prepare the batch, differentiate the objective, step the optimiser, average.

`prepare_batch` and `apply_gradients` are the halves of `make_update`; an update that makes several
optimiser steps a batch, or keeps something between batches, is made of the same two.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from jax_robust.errors import brought_by
from jax_robust.nets.loops import scan
from jax_robust.train import optim
from jax_robust.train.state import TrainState
from jax_robust.types import ApplyFn, Batch, Metrics, Objective, Progress, Update, fold_ids

with brought_by("train"):
  import chex

Prepare = Callable[[Mapping[str, Any], jax.Array], Batch]


class Prepared(NamedTuple):
  """What an update works with: the first half of `make_update`.

  Attributes:
    batch: augmented images and targets.
    rng: one key per row, `[b]`, folded from (run key, step, row of the global batch).
    progress: of the run.
  """

  batch: Batch
  rng: Key[Array, " b"]
  progress: Progress


def prepare_batch(
  state: TrainState, raw: Mapping[str, Any], *, prepare: Prepare, steps_per_epoch: float
) -> Prepared:
  """Augments a batch and draws its keys.

  Randomness is folded from (run key, step, row of the global batch), so the same rows get the same
  augmentation and the same attack start however the batch is cut.

  Args:
    state: of the run; its step and rng are used.
    raw: the batch as a pipeline delivers it.
    prepare: `(raw batch, key) -> Batch`: augmentation and targets.
    steps_per_epoch: for `progress.epoch`.

  Returns:
    Batch, keys and progress.

  Raises:
    AssertionError: (when traced) `prepare` returned arrays of different numbers of rows.
  """
  step_key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
  prepare_key, objective_key = jax.random.split(step_key)
  batch = dict(prepare(raw, prepare_key))
  chex.assert_tree_shape_prefix(batch, batch["row"].shape)
  rng = fold_ids(objective_key, batch["row"])
  return Prepared(batch, rng, Progress(state.step, state.step / steps_per_epoch))


def apply_gradients(
  state: TrainState,
  grads: Any,
  model_state: Any,
  metrics: Mapping[str, Any],
  *,
  optimizer: optax.GradientTransformation,
  ema: Mapping[str, Any] | None = None,
  axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
  """Makes one optimiser step: the second half of `make_update`.

  `state.step` stays as it is, since it counts batches: an update adds 1 when it is done with one.

  Args:
    state: before the step.
    grads: gradients of the mean loss over the rows of this device.
    model_state: the new one.
    metrics: scalars, among them `loss`.
    optimizer: optax transformation.
    ema: keyword arguments of `optim.ema_update`; None keeps no average.
    axis_name: mapped axis over which gradients, model state and metrics are averaged.

  Returns:
    The state after the step, and the metrics with `grad_norm` and `finite`: whether loss, gradient
    and new parameters all are.

  Raises:
    AssertionError: (when traced) `model_state` has other shapes than that of the state.
  """
  chex.assert_trees_all_equal_shapes_and_dtypes(model_state, state.model_state)
  if axis_name is not None:
    grads, model_state, metrics = _pmean((grads, model_state, metrics), axis_name)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  grad_norm = optax.tree.norm(grads)
  finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(grad_norm)
  finite &= jnp.isfinite(optax.tree.norm(params))
  average = optim.ema_update(state.ema, params, state.step, **(ema or {"decay": 0.0}))
  state = state._replace(params=params, model_state=model_state, opt_state=opt_state, ema=average)
  return state, {**metrics, "grad_norm": grad_norm, "finite": finite}


def make_update(
  objective: Objective,
  apply_fn: ApplyFn,
  optimizer: optax.GradientTransformation,
  *,
  prepare: Prepare,
  steps_per_epoch: float,
  ema: Mapping[str, Any] | None = None,
  num_microbatches: int = 1,
  num_devices: int = 1,
  axis_name: str | None = None,
) -> Update:
  """Builds the update of an objective, for one device or as the body of a mapped step.

  Args:
    objective, apply_fn, num_microbatches, num_devices: as in `objective_update`.
    optimizer, ema, axis_name: as in `apply_gradients`.
    prepare, steps_per_epoch: as in `prepare_batch`.

  Returns:
    `update(state, batch) -> (state, metrics)`: see `types.Update`.
  """
  return objective_update(
    objective,
    apply_fn,
    prepare_batch=partial(prepare_batch, prepare=prepare, steps_per_epoch=steps_per_epoch),
    apply_gradients=partial(apply_gradients, optimizer=optimizer, ema=ema, axis_name=axis_name),
    num_microbatches=num_microbatches,
    num_devices=num_devices,
  )


def objective_update(
  objective: Objective,
  apply_fn: ApplyFn,
  *,
  prepare_batch: Callable[[TrainState, Mapping[str, Any]], Prepared],
  apply_gradients: Callable[[TrainState, Any, Any, Metrics], tuple[TrainState, Metrics]],
  num_microbatches: int = 1,
  num_devices: int = 1,
) -> Update:
  """`make_update` with its two halves bound: one gradient of the objective, one optimiser step.

  Guarantees:
    `microbatches_change_nothing`: with BatchNorm groups that fit into a micro-batch, gradients and
      running statistics equal those of the undivided batch.

  Args:
    objective: `(apply_fn, params, model_state, batch, rng, progress) -> (loss, (state, metrics))`,
      a mean over the rows that it is given.
    apply_fn: the net; under an axis name one that gathers BatchNorm's moments over that axis.
    prepare_batch, apply_gradients: the functions of this module, their options bound.
    num_microbatches: the batch is cut into so many micro-batches whose gradients are averaged.
    num_devices: devices over which `jit` shards the batch: each micro-batch then takes an equal
      share of every device's rows. 1 inside a mapped step.

  Returns:
    `update(state, batch) -> (state, metrics)`: see `types.Update`.
  """

  def update(state: TrainState, raw: Mapping[str, Any]):
    prepared = prepare_batch(state, raw)

    def loss_fn(params, piece):
      batch, rng = piece
      return objective(apply_fn, params, state.model_state, batch, rng, prepared.progress)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    pieces = _cut((dict(prepared.batch), prepared.rng), num_microbatches, num_devices)
    (loss, (model_state, metrics)), grads = _mean_over_pieces(
      lambda piece: grad_fn(state.params, piece), pieces, num_microbatches
    )
    state, metrics = apply_gradients(state, grads, model_state, {**metrics, "loss": loss})
    return state._replace(step=state.step + 1), metrics

  return update


def _cut(batch, num_pieces: int, num_devices: int):
  """[b, ...] to [pieces, b / pieces, ...], each piece an equal, contiguous share of each device."""

  def cut(leaf):
    rows = leaf.shape[0]
    if rows % (num_pieces * num_devices):
      raise ValueError(
        f"a batch of {rows} rows can't be cut into {num_pieces} micro-batches on {num_devices} "
        "devices: choose a batch size that their product divides"
      )
    if num_pieces == 1:
      return leaf[None]
    leaf = leaf.reshape(num_devices, num_pieces, -1, *leaf.shape[1:])
    return jnp.swapaxes(leaf, 0, 1).reshape(num_pieces, rows // num_pieces, *leaf.shape[3:])

  return jax.tree.map(cut, batch)


def _mean_over_pieces(grad_fn, pieces, num_pieces: int):
  """Averages what `grad_fn` returns over the micro-batches, one after the other."""
  first = jax.tree.map(lambda leaf: leaf[0], pieces)
  if num_pieces == 1:
    return grad_fn(first)

  def body(total, piece):
    return jax.tree.map(jnp.add, total, grad_fn(piece)), None

  rest = jax.tree.map(lambda leaf: leaf[1:], pieces)
  # A convolution inside a loop is an order of magnitude slower on the CPU backend.
  unroll = num_pieces - 1 if jax.default_backend() == "cpu" else 1
  total, _ = scan(body, grad_fn(first), rest, unroll=unroll)
  return jax.tree.map(lambda leaf: _divide(leaf, num_pieces), total)


def _divide(leaf, count: int):
  """The mean of `count` summed values, in the leaf's own dtype (counters are integers)."""
  if jnp.issubdtype(leaf.dtype, jnp.integer):
    return leaf // count
  return leaf / count


def _pmean(tree, axis_name: str):
  """Averages floats over the mapped axis; integer counters are equal on every device already."""
  return jax.tree.map(
    lambda leaf: (
      leaf if jnp.issubdtype(leaf.dtype, jnp.integer) else jax.lax.pmean(leaf, axis_name)
    ),
    tree,
  )
