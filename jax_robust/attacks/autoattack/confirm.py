"""Predictions for many images in full precision, and the check of what an attack reports."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jax_robust.attacks.balls import Ball
from jax_robust.errors import first_few
from jax_robust.nets.constants import Lifted
from jax_robust.nets.devices import Devices, row_count
from jax_robust.nets.exits import single_exit
from jax_robust.types import fold

TOLERANCE = 1e-6
"""By how much of eps a returned point may be outside the ball: float32's rounding of a norm."""


def make_predict(
  net: Lifted, *, batch_size: int, num_draws: int = 1, devices: Devices = Devices()
) -> Callable[[Any, Array], np.ndarray]:
  """Builds `predict(x, keys) -> logits [n, k]` on the host, in float32, in batches of one size.

  Of a randomised model it returns the logarithm of its mean probabilities over draws.

  Raises:
    ValueError: (when called) the model has several exits; logits are NaN or infinite, so that no
      arg max of theirs can be trusted.
  """

  def query(constants, rows):
    x, keys = rows

    def logits_of(keys):
      return single_exit(net.apply(constants, x, keys), "autoattack").astype(jnp.float32)

    with jax.default_matmul_precision("highest"):
      if num_draws == 1:
        return logits_of(keys)
      probs = [jax.nn.softmax(logits_of(fold(keys, draw))) for draw in range(num_draws)]
    return jnp.log(sum(probs) / num_draws)

  compiled, constants = devices.compile_fn(query), devices.share(net.constants)

  def predict(x, keys):
    size = row_count(len(x), batch_size, devices.count)
    batches = []
    for first in range(0, len(x), size):
      rows = np.arange(first, first + size) % len(x)
      logits = compiled(constants, devices.place((x[rows], keys[rows])))
      batches.append(np.asarray(logits)[: len(x) - first])
    logits = np.concatenate(batches)
    bad = np.flatnonzero(~np.isfinite(logits).all(1))
    if bad.size:
      raise ValueError(f"the model's logits are NaN or infinite for images {first_few(bad)}")
    return logits

  return predict


def confirm(
  predict: Callable[[Any, Array], np.ndarray],
  x_adv: np.ndarray,
  x: np.ndarray,
  labels: np.ndarray,
  keys: Array,
  ball: Ball,
) -> tuple[np.ndarray, np.ndarray]:
  """Whether each point is adversarial, in ball and box, by a pass of its own; and the predictions.

  Returns:
    Flags `[n]` and classes `[n]`.
  """
  if not len(x):
    return np.zeros(0, bool), np.zeros(0, np.int64)
  pred = np.argmax(predict(x_adv, fold(keys, 0)), -1)
  distance = np.asarray(ball.distance(jnp.asarray(x_adv), jnp.asarray(x)))
  in_ball = distance <= np.float32(ball.eps) * (1 + TOLERANCE)
  in_box = ((x_adv >= 0) & (x_adv <= 1)).reshape(len(x), -1).all(1)
  return in_ball & in_box & (pred != labels), pred
