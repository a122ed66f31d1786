"""Predictions for many images in full precision, and the check of what an attack reports."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust.attacks.autoattack.batches import HostKeys, in_batches
from jax_robust.attacks.balls import Ball
from jax_robust.nets.constants import Lifted
from jax_robust.nets.devices import Devices, row_count
from jax_robust.nets.exits import single_exit
from jax_robust.types import fold

TOLERANCE = 1e-6
"""By how much of eps a returned point may be outside the ball: float32's rounding of a norm."""


def make_predict(
  net: Lifted, *, batch_size: int, num_draws: int = 1, devices: Devices = Devices()
) -> Callable[[Any, HostKeys], np.ndarray]:
  """Builds `predict(x, keys) -> logits [n, k]` on the host, in float32, in batches of one size.

  Of a randomised model it returns the logarithm of its mean probabilities over draws.

  Raises:
    ValueError: (when called) the model has several exits.
  """

  def query(constants, rows):
    x, keys = rows
    keys = fold(keys, 0)

    def logits_of(keys):
      return single_exit(net.apply(constants, x, keys), "autoattack").astype(jnp.float32)

    with jax.default_matmul_precision("highest"):
      if num_draws == 1:
        return logits_of(keys)
      probs = [jax.nn.softmax(logits_of(fold(keys, draw))) for draw in range(num_draws)]
    return jnp.log(sum(probs) / num_draws)

  compiled, constants = devices.compile_fn(query), devices.share(net.constants)
  size = row_count(batch_size, batch_size, devices.count)

  def predict(x, keys):
    run = lambda x, keys: compiled(constants, devices.place((x, keys.typed())))  # noqa: E731
    return in_batches(run, (x, keys), size)

  return predict


def confirm(
  predict: Callable[[Any, HostKeys], np.ndarray],
  x_adv: np.ndarray,
  x: np.ndarray,
  labels: np.ndarray,
  keys: HostKeys,
  ball: Ball,
  size: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Whether each point is adversarial, in ball and box, by a pass of its own; and the predictions.

  A point whose logits are NaN or infinite is not.

  Returns:
    Flags `[n]` and classes `[n]`.
  """
  if not len(x):
    return np.zeros(0, bool), np.zeros(0, np.int64)
  logits = predict(x_adv, keys)
  pred = np.argmax(logits, -1)
  in_ball = distances(ball, x_adv, x, size) <= np.float32(ball.eps) * (1 + TOLERANCE)
  in_box = ((x_adv >= 0) & (x_adv <= 1)).reshape(len(x), -1).all(1)
  return in_ball & in_box & (pred != labels) & np.isfinite(logits).all(1), pred


def distances(ball: Ball, x_adv: np.ndarray, x: np.ndarray, size: int) -> np.ndarray:
  """How far points are from their images, `[n]`; in batches of `size`."""
  between = lambda x_adv, x: ball.distance(jnp.asarray(x_adv), jnp.asarray(x))  # noqa: E731
  return in_batches(between, (x_adv, x), size)
