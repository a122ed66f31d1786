"""Every contract of the library, on one page.

Arrays come first and positional; hyper-parameters are keyword-only. Nothing here reduces over the
batch except an objective, whose result the loop differentiates.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
from jaxtyping import Array, Float, Int

Outputs: TypeAlias = "Float[Array, 'b k'] | tuple[Float[Array, 'b k'], ...]"
"""What a classifier returns: logits, or a tuple of logits with an entry per exit (`nets.exits`)."""

Targets: TypeAlias = "Int[Array, ' b'] | Float[Array, 'b k']"
"""Integer labels or probability vectors; the loss decides what it accepts."""

LogitsFn: TypeAlias = Callable[..., Any]
"""`logits_fn(x) -> Outputs`: closed over weights, eval mode, inputs in [0, 1].

A randomised model takes `(x, rng)`.
"""

LossFn: TypeAlias = Callable[[Any, Any], Array]
"""`loss_fn(outputs, targets) -> [b]`: per example, never reduced; attacks ascend it."""

Attack: TypeAlias = Callable[[LogitsFn, Array, Any, Array], Array]
"""`attack(logits_fn, x, targets, rng) -> x_adv`: any attack, its options bound by a partial.

`rng` is one key, or one key per example (shape `[b]`).
"""

ApplyFn: TypeAlias = Callable[..., tuple[Any, Any]]
"""`apply_fn(params, model_state, *inputs, train, rng=None) -> (outputs, model_state)`.

A classifier has one input, images; other nets have others. `rng` is one key, for dropout.
"""

Batch: TypeAlias = Mapping[str, Array]
"""What a step consumes: `image` float32 `[b, h, w, c]` in [0, 1], `target` float32 `[b, k]`,
`label` int32 `[b]`, `row` int32 `[b]` (the row's number in the global batch)."""

Metrics: TypeAlias = Mapping[str, Array]


class Progress(NamedTuple):
  """How far training has come, traced: `step` counts batches, `epoch` is fractional."""

  step: Int[Array, ""] | int
  epoch: Float[Array, ""] | float


Objective: TypeAlias = Callable[
  [ApplyFn, Any, Any, Batch, Array, Progress], tuple[Array, tuple[Any, Metrics]]
]
"""`(apply_fn, params, model_state, batch, rng, progress) -> (loss, (model_state, metrics))`."""

Update: TypeAlias = Callable[[Any, Batch], tuple[Any, Metrics]]
"""`update(state, batch) -> (state, metrics)`: what the loop calls once per batch.

- `state.step` counts batches, since it is also the position in the data: an update adds 1 to it,
  however many optimiser steps it makes.
- `metrics` holds scalars, among them `finite`: whether loss, gradients and parameters all are.
- `state.carry` is what an update keeps from one batch to the next, a dict that is checkpointed like
  the rest. What stands under its key `rows` has one row per row of the batch and is sharded
  like the batch; everything else is the same on every device. What an update does to a row must
  not depend on how many rows there are: take gradients in rows of a sum, not of a mean.
"""


class UpdateRecipe(NamedTuple):
  """A training method that is more than one gradient of one loss: an entry of `objectives.UPDATES`.

  The keyword-only parameters of `make_update` are the options that a config may set, besides those
  that the loop provides; all three functions are given all options.

  Attributes:
    make_update: `(apply_fn, *, prepare_batch, apply_gradients, **options) -> Update`, of the two
      halves of `train.step`: `prepare_batch(state, raw) -> Prepared` and
      `apply_gradients(state, grads, model_state, metrics) -> (state, metrics)`. One that also takes
      `num_microbatches` and `num_devices` can cut a batch; others are refused with micro-batches.
    init_carry: `(image_shape, batch_size, **options) -> carry`, at the start.
    updates_per_batch: `(**options) -> int`, optimiser steps per batch; schedules must know it.
  """

  make_update: Callable[..., Update]
  init_carry: Callable[..., dict[str, Any]] = lambda image_shape, batch_size, **options: {}
  updates_per_batch: Callable[..., int] = lambda **options: 1


def as_keys(rng: jax.Array, num_examples: int) -> jax.Array:
  """One typed key per example: `rng` itself if it is `[b]`, else `rng` folded with the row."""
  if rng.ndim == 1:
    return rng
  return jax.vmap(jax.random.fold_in, (None, 0))(rng, jax.numpy.arange(num_examples))


def fold(keys: jax.Array, number: Any) -> jax.Array:
  """Every example's key `[b]`, folded with one number."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, number)
