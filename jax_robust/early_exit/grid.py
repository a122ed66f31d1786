"""Stored outputs of all exits: which exit answers under each of many thresholds, and what."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jax_robust.early_exit.rules import confidences, first_to_pass
from jax_robust.errors import check_labels


def as_outputs(outputs: Any) -> tuple:
  """Stored logits `[exits, n, k]`, or a sequence of `[n, k]`, as the tuple that a net returns.

  Raises:
    ValueError: fewer than two exits, or no images.
  """
  exits = tuple(jnp.asarray(each) for each in outputs)
  if len(exits) < 2:
    raise ValueError(f"outputs have {len(exits)} exits: expected two or more, none to choose among")
  if not exits[0].size:
    raise ValueError("outputs have no images: expected at least 1")
  return exits


def as_grid(grid: Any, num_exits: int) -> Float[np.ndarray, "m rest"]:
  """Thresholds as float32 `[m, exits - 1]`; one for all exits, `[m]`, is repeated.

  Raises:
    ValueError: no thresholds, NaN, or another number of them than of exits but the last.

  >>> as_grid([0.9, 0.5], 3).shape
  (2, 2)
  """
  found = np.asarray(grid, np.float32)
  if found.ndim == 1:
    found = np.repeat(found[:, None], num_exits - 1, axis=1)
  if found.ndim != 2 or not found.size or found.shape[1] != num_exits - 1:
    raise ValueError(
      f"grid has shape {np.shape(grid)}: expected thresholds [m] for all exits, or "
      f"[m, {num_exits - 1}], one for each exit but the last of {num_exits}"
    )
  if np.isnan(found).any():
    raise ValueError("grid holds NaN: expected confidences")
  return found


def taken_on_grid(outputs: Any, grid: Any) -> Int[np.ndarray, "m n"]:
  """The exit that answers for each image under each line of a grid, as `exit_taken` says.

  Guarantees:
    `each_line_is_exit_taken`: also where a confidence is NaN.
    `lower_thresholds_leave_earlier`: of two lines, the one that is lower everywhere has no later
      exit.

  Args:
    outputs: logits `[exits, n, k]`.
    grid: thresholds `[m]`, one for all exits, or `[m, exits - 1]`.

  >>> taken_on_grid([[[9.0, 0.0]], [[0.0, 0.0]]], [2.0, 0.9]).tolist()
  [[1], [0]]
  """
  exits = as_outputs(outputs)
  confidence = confidences(exits)
  lines = jnp.asarray(as_grid(grid, len(exits)), confidence.dtype)
  return np.asarray(_first_of_each(confidence, lines))


@jax.jit
def _first_of_each(confidence, lines):
  """`first_to_pass` of each line, one after the other, since there may be many images."""
  return jax.lax.map(lambda line: first_to_pass(confidence, line), lines)


def classes_of(exits: tuple) -> Int[np.ndarray, "exits n"]:
  """The class that each exit predicts for each image; -1, which is wrong, for logits of NaN."""
  stacked = np.stack([np.asarray(logits) for logits in exits])
  return np.where(np.isnan(stacked).any(axis=2), -1, np.argmax(stacked, axis=2))


def labels_of(exits: tuple, labels: Any) -> Int[np.ndarray, " n"]:
  """The labels as an array; raises an error unless they are some, and fit the exits' outputs."""
  labels = np.asarray(labels)
  num_images, num_classes = exits[0].shape
  if labels.shape != (num_images,):
    raise ValueError(f"labels have shape {labels.shape}: expected ({num_images},), as the outputs")
  if not np.issubdtype(labels.dtype, np.integer):
    raise TypeError(f"labels have dtype {labels.dtype}: expected integer labels, .astype(int)")
  check_labels(labels, num_classes)
  return labels


def per_image(values: np.ndarray, taken: Int[np.ndarray, "... n"]) -> np.ndarray:
  """What stands at the exit taken, `[..., n]`, of values of all exits.

  >>> per_image(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1, 0])).tolist()
  [3.0, 2.0]
  """
  return values[taken, np.arange(values.shape[1])]
