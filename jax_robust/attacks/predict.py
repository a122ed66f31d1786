"""What a net predicts for many images: in batches of one size, in full precision."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jax_robust.attacks import guards
from jax_robust.attacks.balls import Ball
from jax_robust.attacks.classes import check_single_exit
from jax_robust.nets.constants import Lifted
from jax_robust.nets.devices import Devices, row_count
from jax_robust.types import fold

TOLERANCE = 1e-6
"""By how much of eps a returned point may be outside the ball: float32's rounding of a norm."""


def make_predict(
  net: Lifted, *, batch_size: int, num_draws: int = 1, devices: Devices = Devices()
) -> Callable[[Any, Array], np.ndarray]:
  """Builds `predict(x, keys) -> logits [n, k]` on the host, in float32, in batches of one size.

  Where a net is randomised it returns the logarithm of its mean probabilities over draws.
  """

  def ask(constants, rows):
    x, keys = rows
    logits_fn = functools.partial(net.apply, constants)
    with jax.default_matmul_precision("highest"):
      if num_draws == 1:
        return _logits(logits_fn, x, keys)
      probs = [jax.nn.softmax(_logits(logits_fn, x, fold(keys, draw))) for draw in range(num_draws)]
    return jnp.log(sum(probs) / num_draws)

  compiled, constants = devices.compile_fn(ask), devices.share(net.constants)

  def predict(x, keys):
    size = row_count(len(x), batch_size, devices.count)
    pieces = []
    for first in range(0, len(x), size):
      rows = np.arange(first, first + size) % len(x)
      logits = compiled(constants, devices.place((x[rows], keys[rows])))
      pieces.append(np.asarray(logits)[: len(x) - first])
    logits = np.concatenate(pieces)
    guards.check_finite(logits)
    return logits

  return predict


def _logits(logits_fn, x, keys):
  """What a net says, in float32."""
  outputs = logits_fn(x, keys)
  check_single_exit(outputs)
  return outputs.astype(jnp.float32)


def confirm(
  predict: Callable[[Any, Array], np.ndarray],
  x_adv: np.ndarray,
  x: np.ndarray,
  labels: np.ndarray,
  keys: Array,
  ball: Ball,
) -> tuple[np.ndarray, np.ndarray]:
  """Which points are attacks, and what is predicted for all: the evaluator's own look at them."""
  if not len(x):
    return np.zeros(0, bool), np.zeros(0, np.int64)
  logits = predict(x_adv, fold(keys, 0))
  guess = np.argmax(logits, -1)
  distance = np.asarray(ball.distance(jnp.asarray(x_adv), jnp.asarray(x)))
  in_ball = distance <= np.float32(ball.eps) * (1 + TOLERANCE)
  in_box = ((x_adv >= 0) & (x_adv <= 1)).reshape(len(x), -1).all(1)
  return in_ball & in_box & np.isfinite(logits).all(1) & (guess != labels), guess


@jax.jit
def fold_ids(rng: Array, ids: Any) -> Array:
  """The keys of images: one key folded with each id."""
  return jax.vmap(jax.random.fold_in, (None, 0))(rng, ids)
