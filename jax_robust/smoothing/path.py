"""The smoothed classifier's confidence on the straight line from an image to another point."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Shaped

from jax_robust.errors import as_numbers, check_images, check_targets
from jax_robust.smoothing.certification import each_prediction
from jax_robust.smoothing.noise import PREDICTION
from jax_robust.smoothing.sampler import Ids, Images, Sampler, as_sampler
from jax_robust.types import LogitsFn, Rng


def confidence_path(
  model: LogitsFn | Sampler,
  x: Images,
  ends: Shaped[np.ndarray | Array, "m *other"],
  labels: Any,
  rng: Rng,
  *,
  sigma: float | int,
  n: int = 1000,
  positions: Sequence[float] | Float[np.ndarray, " p"] = tuple(i / 20 for i in range(21)),
  ids: Ids = None,
  **sampling: Any,
) -> Float[np.ndarray, "n p"]:
  """The share of votes for the true class at `x + t (end - x)`, for each position t.

  All points on the line of an image get the same noise, so that a curve shows the classifier and
  not the draws.

  Guarantees:
    `first_position_is_the_image`: t = 0 gives the votes of PREDICT at x.

  Args:
    model, x, rng, sigma, n, ids, **sampling: as those of `predict_images`.
    ends: the other ends of the lines, such as adversarial points, in [0, 1].
    labels: true classes, as `errors.check_targets` describes them.
    positions: t, in [0, 1].

  Returns:
    Shares of the n votes.

  Raises:
    ValueError: as `predict_images`; shapes differ; positions outside [0, 1].

  >>> import jax, jax.numpy as jnp
  >>> logits_fn = lambda x: jnp.stack([0.5 - x[:, 0], x[:, 0] - 0.5], axis=1)
  >>> x, ends = np.array([[1.0]], np.float32), np.array([[0.0]], np.float32)
  >>> shares = confidence_path(
  ...   logits_fn, x, ends, np.array([1]), jax.random.key(0), sigma=0.5, positions=(0.0, 0.5, 1.0)
  ... )
  >>> shares.round(1).tolist()
  [[0.8, 0.5, 0.2]]
  """
  check_images(x)
  check_images(ends)
  x, ends = np.asarray(x), np.asarray(ends)
  at = as_numbers(positions, "positions")
  if x.shape != ends.shape or np.shape(labels)[:1] != x.shape[:1]:
    raise ValueError(
      f"x has shape {x.shape}, ends {ends.shape}, labels {np.shape(labels)}: expected one end and "
      "one label per image"
    )
  if at.ndim != 1 or not np.all((at >= 0) & (at <= 1)):
    raise ValueError(f"positions={positions}: expected numbers in [0, 1]")
  sampler = as_sampler(model, x, sampling)
  check_targets(labels, len(x), sampler.num_classes, name="labels")
  labels = np.asarray(labels).reshape(len(x), -1)
  labels = labels[:, 0] if labels.shape[1] == 1 else labels.argmax(axis=1)
  shares = np.zeros((len(x), len(at)))
  for column, t in enumerate(at.astype(x.dtype)):
    points = (1 - t) * x + t * ends
    for place, votes, _ in each_prediction(sampler, points, rng, sigma=sigma, n=n, ids=ids):
      shares[place, column] = votes[PREDICTION, labels[place]] / n
  return shares
