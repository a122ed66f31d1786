"""What training for randomized smoothing shares: noisy copies of a batch, and the warm-up."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jax_robust.types import Progress, fold, normals

_LEAST_PROBABILITY = 1e-20  # below it, the logarithm's gradient vanishes, as in the reference


def draw_noises(
  keys: Key[Array, " b"], x: Float[Array, "b *dims"], num_noises: int
) -> Float[Array, "b m *dims"]:
  """Standard normal noises, `num_noises` for each example; the i-th does not depend on how many."""
  noises = [normals(fold(keys, i), x.shape[1:], x.dtype) for i in range(num_noises)]
  return jnp.stack(noises, axis=1)


def noisy_copies(
  x: Float[Array, "b *dims"], noises: Float[Array, "b m *dims"]
) -> Float[Array, "bm *dims"]:
  """Every example with each of its noises added, those of one example next to one another."""
  return jnp.reshape(x[:, None] + noises, (-1, *x.shape[1:]))


def split_copies(outputs: Float[Array, "bm k"], num_noises: int) -> Float[Array, "b m k"]:
  """The logits of copies, by example and noise."""
  return outputs.reshape(-1, num_noises, outputs.shape[-1])


def repeat(values: Array, num_noises: int) -> Array:
  """Per-example values for each copy."""
  return jnp.repeat(values, num_noises, axis=0)


def mean_probs(outputs: Float[Array, "b m k"]) -> Float[Array, "b k"]:
  """The soft prediction of the smoothed classifier: probabilities, averaged over the noises."""
  return jnp.mean(jax.nn.softmax(outputs), axis=1)


def log_mean_probs(outputs: Float[Array, "b m k"]) -> Float[Array, "b k"]:
  """The logarithm of the soft prediction; without a gradient where that is below 1e-20."""
  return jnp.log(jnp.maximum(mean_probs(outputs), _LEAST_PROBABILITY))


def warmup_factor(progress: Progress, warmup: float) -> Array:
  """`min(1, (e + 1) / warmup)` with e the epoch, counted from 0: constant within an epoch.

  >>> round(float(warmup_factor(Progress(step=0, epoch=3.7), 10)), 3)
  0.4
  """
  return jnp.minimum(1.0, (jnp.floor(progress.epoch) + 1.0) / jnp.maximum(warmup, 1.0))
