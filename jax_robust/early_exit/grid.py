"""Stored outputs of all exits: which exit answers under each of many thresholds, and what."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jax_robust.early_exit.rules import check_confidences_or_never, confidences, first_to_pass
from jax_robust.errors import as_numbers, check_targets, first_few
from jax_robust.losses import as_labels
from jax_robust.nets.exits import exits_of


def as_outputs(outputs: Any) -> tuple:
  """Stored logits `[exits, n, k]`, or a sequence of `[n, k]`, as the tuple that a net returns.

  Raises:
    TypeError, ValueError: fewer than two exits, or no images; what are no logits of one shape.
  """
  is_array = hasattr(outputs, "dtype") and np.ndim(outputs) == 3
  if not is_array and not isinstance(outputs, (tuple, list)):
    said = f"have shape {np.shape(outputs)}" if hasattr(outputs, "dtype") else "are no such"
    raise ValueError(f"outputs {said}: expected logits [exits, n, k], or a list of [n, k]")
  exits = tuple(jnp.asarray(as_numbers(z, "outputs") if _is_list(z) else z) for z in outputs)
  if len(exits) < 2:
    raise ValueError(f"outputs have {len(exits)} exits: expected two or more, none to choose among")
  if not exits[0].size:
    raise ValueError("outputs have no images: expected at least 1")
  return exits_of(exits)


def finite_outputs(outputs: Any) -> tuple:
  """As `as_outputs`, for numbers that NaN or infinite logits would falsify: they pass every early
  exit by, and are wrong at the last as before it.

  Raises:
    TypeError, ValueError: as `as_outputs`; logits that are not finite, with their images.
  """
  exits = as_outputs(outputs)
  finite = np.all([np.isfinite(each).all(axis=1) for each in exits], axis=0)
  if (bad := np.flatnonzero(~finite)).size:
    raise ValueError(
      f"outputs of images {first_few(bad)} are NaN or infinite: expected logits; a point without "
      "them is no attack, so take the image in its place"
    )
  return exits


def _is_list(value: Any) -> bool:
  """Whether a value is no array."""
  return not hasattr(value, "dtype")


def as_grid(grid: Any, num_exits: int) -> Float[np.ndarray, "m rest"]:
  """Thresholds as float32 `[m, exits - 1]`; one for all exits, `[m]`, is repeated.

  Raises:
    TypeError: no numbers.
    ValueError: no thresholds, NaN, or another number of them than of exits but the last.

  >>> as_grid([0.9, 0.5], 3).shape
  (2, 2)
  """
  found = as_numbers(grid, "grid").astype(np.float32)
  if found.ndim == 1:
    found = np.repeat(found[:, None], num_exits - 1, axis=1)
  if found.ndim != 2 or not found.size or found.shape[1] != num_exits - 1:
    raise ValueError(
      f"grid has shape {np.shape(grid)}: expected thresholds [m] for all exits, or "
      f"[m, {num_exits - 1}], one for each exit but the last of {num_exits}"
    )
  check_confidences_or_never(found, "grid")
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
  """The labels as integers `[n]`; raises where they are none, or don't fit the exits' outputs."""
  num_images, num_classes = exits[0].shape
  if np.ndim(labels) == 1 and np.asarray(labels).dtype == np.bool_:  # which images are right?
    raise TypeError("labels have dtype bool: expected integer labels, the classes of the images")
  check_targets(labels, num_images, num_classes, name="labels")
  return np.asarray(as_labels(labels))


def per_image(values: np.ndarray, taken: Int[np.ndarray, "... n"]) -> np.ndarray:
  """What stands at the exit taken, `[..., n]`, of values of all exits.

  >>> per_image(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1, 0])).tolist()
  [3.0, 2.0]
  """
  return values[taken, np.arange(values.shape[1])]
