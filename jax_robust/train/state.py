"""What a run is: data only, no functions, so that a checkpoint holds all of it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, UInt32

from jax_robust.errors import brought_by
from jax_robust.types import ApplyFn

with brought_by("train"):
  import flax.linen as nn


class TrainState(NamedTuple):
  """Everything the next update depends on, besides the batch.

  `step` counts the batches that were trained on. `ema` is the moving average of `params`, which
  evaluation uses. `carry` belongs to the update (empty for most; see `types.Update`). `rng` is the
  run's key, as key data: it never changes, since every step folds its number into it.
  """

  step: Int[Array, ""]
  params: Any
  model_state: Any
  opt_state: Any
  ema: Any
  carry: Any
  rng: UInt32[Array, "2"]


def create_state(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  example_inputs: Sequence[Any],
  *,
  seed: int | Array,
  carry: Mapping[str, Any] | None = None,
) -> TrainState:
  """Initialises a run under jit, from one seed.

  Args:
    model: a Linen module that is called as `model(*inputs, train=...)`.
    optimizer: what will update its parameters.
    example_inputs: arrays, or their shapes and dtypes, such as a batch of one image. The parameters
      depend on their shapes only.
    seed: of initialisation and of everything random afterwards; a traced one under `jax.vmap`.
    carry: what the update keeps between batches, at the start (see `types.Update`).

  Returns:
    The state at step 0, with the average equal to the parameters.
  """
  run_key, init_key = jax.random.split(jax.random.key(seed))
  shapes = [(each.shape, each.dtype) for each in example_inputs]

  @jax.jit
  def init(key):
    inputs = [jnp.zeros(shape, dtype) for shape, dtype in shapes]
    variables = dict(model.init(key, *inputs, train=False))
    params = variables.pop("params")
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      model_state=variables,
      opt_state=optimizer.init(params),
      ema=jax.tree.map(jnp.copy, params),
      carry={},
      rng=jax.random.key_data(run_key),
    )

  return init(init_key)._replace(carry=dict(carry or {}))


def example_inputs(model: nn.Module, image_shape: Sequence[int]) -> list[Any]:
  """Shapes of what a net is called with: one image, or what its `example_inputs` says.

  Args:
    model: a Linen module.
    image_shape: `[h, w, c]`.
  """
  if hasattr(model, "example_inputs"):
    return model.example_inputs(image_shape)
  return [jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)]


def make_apply_fn(model: nn.Module, *, axis_name: str | None = None) -> ApplyFn:
  """Turns a Linen module into `apply_fn(params, model_state, *inputs, train, rng=None)`.

  Args:
    model: a Linen module that is called as `model(*inputs, train=...)`.
    axis_name: the mapped axis over which whole-batch BatchNorm gathers its moments under `pmap` and
      `shard_map`. Under `jit` leave it None: a sharded batch is one batch there.

  Returns:
    The function; with `train=False` it returns `model_state` unchanged.
  """
  if axis_name is not None:
    model = model.clone(bn_axis_name=axis_name)

  def apply_fn(params, model_state, *inputs, train, rng=None):
    variables = {"params": params, **model_state}
    rngs: dict[str, Any] = {} if rng is None else {"rngs": {"dropout": rng}}
    if not train:
      return model.apply(variables, *inputs, train=False, **rngs), model_state
    return model.apply(variables, *inputs, train=True, mutable=list(model_state), **rngs)

  return apply_fn
