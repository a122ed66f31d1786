"""The deployed rule: the first exit that is confident enough answers, otherwise the last one."""

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jax_robust.errors import as_numbers, check_count, check_function, is_traced, shown
from jax_robust.nets.constants import without_jit
from jax_robust.nets.exits import exits_of
from jax_robust.types import LogitsFn, Outputs

Thresholds: TypeAlias = Sequence[float] | np.ndarray
"""As `check_thresholds` reads them: one for each exit but the last."""

NEVER = 1e8
"""A threshold that no confidence reaches: the exit never answers."""


def confidences(outputs: Outputs) -> Float[Array, "exits b"]:
  """The largest probability of each exit's softmax, of each image; in float32 at least.

  >>> confidences((jnp.zeros((1, 2)), jnp.zeros((1, 2)))).tolist()
  [[0.5], [0.5]]
  """
  each = [logits.astype(_at_least_32(logits.dtype)) for logits in exits_of(outputs)]
  return jnp.stack([jnp.max(jax.nn.softmax(logits), axis=-1) for logits in each])


def _at_least_32(dtype: Any) -> Any:
  """The dtype that confidences are computed in: near 1, bfloat16 has steps of .004."""
  return jnp.promote_types(dtype, jnp.float32)


def check_thresholds(thresholds: Thresholds, num_exits: int) -> np.ndarray:
  """The threshold of each exit but the last, as float32 `[exits - 1]`.

  Args:
    thresholds: confidences in [0, 1], or above 1 for an exit that never answers; a last one of its
      own for the last exit is dropped where it lets every image pass, so at 0 or less.
    num_exits: of the net.

  Raises:
    TypeError: no numbers.
    ValueError: another number of thresholds than of exits but the last; one that is NaN, or above 2
      and at most 100, which is per cent.

  >>> check_thresholds([0.5, 0.75, -1e8], 3).tolist()
  [0.5, 0.75]
  """
  check_count(num_exits=num_exits)
  found = as_numbers(thresholds, "thresholds").astype(np.float32).reshape(-1)
  if len(found) == num_exits and found[-1] <= 0:
    found = found[:-1]
  if len(found) != num_exits - 1:
    raise ValueError(
      f"thresholds={shown(np.asarray(thresholds).tolist())} has {np.size(thresholds)} entries, and "
      f"the net has {num_exits} exits: expected {num_exits - 1}, one for each exit but the last, "
      "as chosen for this model"
    )
  check_confidences_or_never(found, "thresholds")
  return found


_PERCENT = (2.0, 100.0)
"""No confidence is so large, and what means "never" is larger or smaller: it must be per cent."""


def check_confidences_or_never(thresholds: np.ndarray, name: str) -> None:
  """Raises ValueError for thresholds that are NaN, or per cent, of which none would be reached.

  >>> check_confidences_or_never(np.array([0.9, NEVER, 95]), "thresholds")
  Traceback (most recent call last):
  ...
  ValueError: thresholds holds 95: expected confidences in [0, 1]: did you mean 0.95?
  """
  if np.isnan(thresholds).any():
    raise ValueError(f"{name} holds NaN: expected confidences")
  low, high = _PERCENT
  if (bad := thresholds[(thresholds > low) & (thresholds <= high)]).size:
    raise ValueError(
      f"{name} holds {bad[0]:g}: expected confidences in [0, 1]: did you mean {bad[0] / 100:g}?"
    )


def exit_taken(outputs: Outputs, thresholds: Thresholds) -> Int[Array, " b"]:
  """The number of the exit that answers for each image: the first with confidence >= threshold.

  Guarantees:
    `last_exit_takes_the_rest`: also where a confidence is NaN.

  Args:
    outputs: of all exits.
    thresholds: as those of `check_thresholds`.

  Raises:
    ValueError: thresholds of another model.

  >>> sure, unsure = jnp.array([[9.0, 0.0], [0.0, 0.0]]), jnp.zeros((2, 2))
  >>> exit_taken((sure, unsure), [0.9]).tolist()
  [0, 1]
  """
  return first_confident(confidences(outputs), thresholds)


def first_confident(
  confidence: Float[Array | np.ndarray, "exits b"], thresholds: Thresholds
) -> Int[Array, " b"]:
  """`exit_taken` of confidences, not outputs: the first exit whose confidence is >= its threshold.

  Args:
    confidence: as `confidences` returns them.
    thresholds: as those of `check_thresholds`.

  Raises:
    TypeError, ValueError: as `check_confidence`; thresholds of another model.

  >>> first_confident(np.array([[0.9, 0.6], [0.5, 0.5]], np.float32), [0.75]).tolist()
  [0, 1]
  """
  confidence = jnp.asarray(check_confidence(confidence))
  return first_to_pass(
    confidence, jnp.asarray(check_thresholds(thresholds, len(confidence)), confidence.dtype)
  )


def first_to_pass(
  confidence: Float[Array, "exits b"], bounds: Float[Array, " early"]
) -> Int[Array, " b"]:
  """`first_confident` of thresholds that are checked, and may be traced."""
  passes = confidence[:-1] >= bounds[:, None]
  rest = jnp.ones_like(confidence[-1:], bool)
  return jnp.argmax(jnp.concatenate([passes, rest]), axis=0).astype(jnp.int32)


def check_confidence(confidence: Any, name: str = "confidence") -> Any:
  """Confidences `[exits, n]` as an array; NaN, of an image that has none, passes.

  Raises:
    TypeError: no numbers.
    ValueError: of another shape, or outside [0, 1], such as logits (not checked when traced).

  >>> check_confidence([[2.0, 0.5]])
  Traceback (most recent call last):
  ...
  ValueError: confidence holds 2.0: expected confidences in [0, 1], early_exit.confidences(outputs)
  """
  found = confidence if hasattr(confidence, "dtype") else as_numbers(confidence, name)
  if np.ndim(found) != 2:
    raise ValueError(
      f"{name} has shape {np.shape(found)}: expected [exits, n], early_exit.confidences(outputs)"
    )
  if not is_traced(found):
    values = np.asarray(found)
    if (bad := values[(values < 0) | (values > 1)]).size:
      raise ValueError(
        f"{name} holds {bad[0]}: expected confidences in [0, 1], early_exit.confidences(outputs)"
      )
  return found


def answer(
  outputs: Outputs, thresholds: Thresholds
) -> tuple[Float[Array, "b k"], Int[Array, " b"]]:
  """The logits of the exit that answers for each image, and that exit's number."""
  taken = exit_taken(outputs, thresholds)
  stacked = jnp.stack(exits_of(outputs))
  return stacked[taken, jnp.arange(len(taken))], taken


def early_exit(logits_fn: LogitsFn, thresholds: Thresholds) -> LogitsFn:
  """The classifier as it is deployed: the logits of the exit that each image takes.

  Its gradient is that of the exit taken; the choice itself has none. All blocks are computed:
  `inference` leaves out those that no image needs.

  Args:
    logits_fn: `x -> outputs` of all exits, or randomised `(x, rng) -> outputs`.
    thresholds: as those of `check_thresholds`.

  Returns:
    The function with logits `[b, k]`.

  Raises:
    ValueError: (when called) thresholds of another model.

  >>> two_exits = lambda x: (9 * x, -9 * x)
  >>> early_exit(two_exits, [0.9])(jnp.array([[1.0, 0.0], [0.125, 0.25]])).tolist()
  [[9.0, 0.0], [-1.125, -2.25]]
  """
  check_function(" x -> outputs of all exits", logits_fn=logits_fn)
  query = without_jit(logits_fn)

  @functools.wraps(query)
  def logits_of_exit_taken(*args):
    return answer(query(*args), thresholds)[0]

  return logits_of_exit_taken
