"""Free adversarial training: each batch is replayed, and one backward pass moves net and images."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jax_robust import losses
from jax_robust.errors import check_count, check_eps, check_one
from jax_robust.nets.loops import default_unroll, scan
from jax_robust.objectives import common
from jax_robust.types import ApplyFn, Update, UpdateRecipe


def make_free(
  apply_fn: ApplyFn,
  *,
  prepare_batch,
  apply_gradients,
  eps: float = 8 / 255,
  num_replays: int = 8,
  step_size: float | None = None,
) -> Update:
  """`num_replays` times per batch: one gradient at `clip(x + delta, 0, 1)`, for net and delta.

  With `l(w, delta) = mean_i CE(t_i, f_w(clip(x_i + delta_i, 0, 1)))`, a replay takes both gradients
  at the same point, makes an optimiser step with that in w, and sets

      delta <- clip(delta + step_size sign(grad_delta l), -eps, eps).

  delta starts at zero and is kept from batch to batch, one for each row of the batch, in
  `state.carry["rows"]`. Of a net with several exits the cross entropy is the mean over the exits.

  A replay costs as much as a step of ordinary training, and counts as one: training that is
  published with N epochs makes N / num_replays passes over the data, and that is what a config's
  `total_epochs` counts. The learning rate stays the same during the replays of a batch.

  Guarantees:
    `one_pass_per_replay`: a batch costs `num_replays` forward and backward passes, none besides.
    `linear_net_in_numpy`: on a linear net, the weights and perturbations of a loop in NumPy.
    `same_on_four_devices`: the result does not depend on the number of devices.

  Args:
    apply_fn: the net, `(params, model_state, x, train=) -> (outputs, model_state)`; BatchNorm uses
      the batch, and every replay updates the running statistics.
    prepare_batch, apply_gradients: the halves of `train.step`.
    eps: l-infinity radius, in units of images in [0, 1].
    num_replays: m, how often each batch is used.
    step_size: of delta, in units of the image; default eps.

  Returns:
    `update(state, batch) -> (state, metrics)`: see `types.Update`. The metrics are those of the
    last replay; `finite` is that of all.

  Raises:
    TypeError, ValueError: eps or step_size is no number of at least 0; no replay; (when called) a
      batch of another size than the carry.

  Reference: Shafahi et al., 2019, "Adversarial Training for Free!",
  https://arxiv.org/abs/1904.12843.
  """
  count_updates(eps=eps, num_replays=num_replays, step_size=step_size)
  step = eps if step_size is None else step_size

  def update(state, raw):
    batch = prepare_batch(state, raw).batch
    x, targets = common.read_batch(batch)
    kept = state.carry["rows"]["delta"]
    if kept.shape != x.shape:
      raise ValueError(
        f"the carry holds perturbations of shape {kept.shape} and the batch images of shape "
        f"{x.shape}: expected one for each row; make it by zero_perturbations(image_shape, "
        "batch_size), and keep batches of one size"
      )

    def loss_fn(params, delta, model_state):
      # The gradient in delta passes through the clipping, so it is 0 where the image leaves [0, 1].
      x_adv = jnp.clip(x + delta, 0.0, 1.0)
      outputs, model_state = apply_fn(params, model_state, x_adv, train=True)
      loss = jnp.mean(losses.over_exits(losses.cross_entropy)(outputs, targets))
      return loss, (model_state, common.accuracy(outputs, targets))

    grad_fn = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)

    def replay(carried, _):
      state, delta = carried
      (loss, (model_state, accuracy)), (grads, ascent) = grad_fn(
        state.params, delta, state.model_state
      )
      metrics = {"loss": loss, "adversarial_accuracy": accuracy}
      state, metrics = apply_gradients(state, grads, model_state, metrics)
      return (state, jnp.clip(delta + step * jnp.sign(ascent), -eps, eps)), metrics

    (state, delta), history = scan(
      replay, (state, kept.astype(x.dtype)), length=num_replays, unroll=default_unroll(num_replays)
    )
    metrics = {name: values[-1] for name, values in history.items()}
    metrics["finite"] = jnp.all(history["finite"])
    carry = {"rows": {"delta": delta.astype(kept.dtype)}}
    return state._replace(step=state.step + 1, carry=carry), metrics

  return update


def zero_perturbations(
  image_shape: Sequence[int], batch_size: int, **options: Any
) -> dict[str, Any]:
  """`UpdateRecipe.init_carry` of free training: no perturbation, for each row of the batch."""
  del options
  check_count(batch_size=batch_size)
  return {"rows": {"delta": jnp.zeros((batch_size, *image_shape))}}


def count_updates(
  *, eps: float = 8 / 255, num_replays: int = 8, step_size: float | None = None
) -> int:
  """`UpdateRecipe.updates_per_batch` of free training: one for each replay; checks the options.

  Raises:
    TypeError, ValueError: as `make_free`.
  """
  check_eps(eps, "linf", one=True)
  check_count(num_replays=num_replays)
  if step_size is not None:
    check_one(step_size=step_size)
  return int(num_replays)


FREE = UpdateRecipe(make_free, zero_perturbations, count_updates)
"""Free adversarial training, as `objectives.UPDATES` has it."""

__all__ = ["FREE", "make_free"]
