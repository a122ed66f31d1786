"""What a run is: data only, no functions, so that a checkpoint holds all of it."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, UInt32

from jax_robust.types import ApplyFn


class TrainState(NamedTuple):
  """Everything the next update depends on, besides the batch.

  `step` counts finished updates. `ema` is the moving average of `params`, which evaluation uses.
  `carry` belongs to the objective (empty for most). `rng` is the run's key, as key data: it never
  changes, since every step folds its number into it.
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
  image_shape: tuple[int, int, int],
  *,
  seed: int,
) -> TrainState:
  """Initialises a run under jit, from one seed.

  Args:
    model: a net of `jax_robust.models`.
    optimizer: what will update its parameters.
    image_shape: `(height, width, channels)`.
    seed: of initialisation and of everything random afterwards.

  Returns:
    The state at step 0, with the average equal to the parameters.
  """
  run_key, init_key = jax.random.split(jax.random.key(seed))

  @jax.jit
  def init(key):
    variables = dict(model.init(key, jnp.zeros((1, *image_shape)), train=False))
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

  return init(init_key)


def make_apply_fn(model: nn.Module, *, axis_name: str | None = None) -> ApplyFn:
  """Turns a Linen module into `apply_fn(params, model_state, x, *, train)`.

  Args:
    model: a net of `jax_robust.models`.
    axis_name: the mapped axis over which whole-batch BatchNorm gathers its moments under `pmap` and
      `shard_map`. Under `jit` leave it None: a sharded batch is one batch there.

  Returns:
    The function; with `train=False` it hands `model_state` back as it came.
  """
  if axis_name is not None:
    model = model.clone(bn_axis_name=axis_name)

  def apply_fn(params, model_state, x, *, train):
    variables = {"params": params, **model_state}
    if not train:
      return model.apply(variables, x, train=False), model_state
    return model.apply(variables, x, train=True, mutable=list(model_state))

  return apply_fn
