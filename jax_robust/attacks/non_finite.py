"""Points whose logits are NaN or infinite: they are no attack, are counted, and are warned of."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jax_robust.attacks.classes import is_finite
from jax_robust.errors import LostImagesError, first_few, is_traced, warn
from jax_robust.types import LogitsFn


def half_way_back(lost: Array, point: Array, moved: Array, x: Array) -> Array:
  """The next iterate `[b, ...]`: `moved`, or half way back to x where the point was lost, `[b]`."""
  return jnp.where(_over_pixels(lost, x), x + 0.5 * (point - x), moved)


def put_back(lost: Array, clean: Array, attacked: Array) -> Array:
  """`attacked`, `[b, ...]`, with the rows of `clean` where the point was lost, `[b]`."""
  return jnp.where(_over_pixels(lost, clean), clean, attacked)


def lost_points(num_lost: Int[np.ndarray, " n"], ids: Any) -> str:
  """What is said of images some of whose points had NaN or infinite logits.

  >>> lost_points(np.array([0, 3]), [7, 8])
  'logits were NaN or infinite at 3 points that were tried, of images 8: no such point is an attack'
  """
  bad = np.flatnonzero(num_lost)
  return (
    f"logits were NaN or infinite at {num_lost.sum()} points that were tried, of images "
    f"{first_few(np.asarray(ids)[bad])}: no such point is an attack"
  )


def warn_of_lost(name: str, num_lost: Array, logits_fn: LogitsFn, x: Array, keys: Array) -> None:
  """Warns of points whose logits were not finite, by the place of their images, unless traced.

  It costs a pass of the model, at the images.

  Args:
    name: of the attack.
    num_lost: how many points of each image, `[b]`.
    logits_fn: `(x, keys) -> outputs`.
    x, keys: images and keys, `[b, ...]`.

  Raises:
    LostImagesError: the logits of an image itself are not finite.
  """
  if _any_traced(num_lost, x, keys):
    return
  finite = is_finite(logits_fn(x, keys))
  if is_traced(finite):  # by weights that something differentiates
    return
  raise_for_lost_images(np.asarray(finite), np.arange(len(x)))
  if np.any(num_lost):
    warn(f"{name}: {lost_points(np.asarray(num_lost), np.arange(len(x)))}")


def raise_for_lost_images(finite: Any, ids: Any) -> None:
  """Raises LostImagesError unless the logits of every image are finite, `[n]`."""
  if not finite.all():
    raise LostImagesError.of(np.asarray(ids)[np.flatnonzero(~finite)])


def give_back_lost(
  name: str, x_adv: Array, num_lost: Array, logits_fn: LogitsFn, x: Array, keys: Array
) -> Array:
  """Looks at last iterates, which no step has queried: x in place of one that is not finite.

  It costs a pass of the model, and is not done where anything is traced: a training step pays
  nothing, and what evaluates its result sees for itself.

  Args: as those of `warn_of_lost`, and
    x_adv: the last iterates, `[b, ...]`.

  Returns:
    x_adv, `[b, ...]`.
  """
  if _any_traced(x_adv, num_lost, x, keys):
    return x_adv
  lost = ~is_finite(logits_fn(x_adv, keys))
  if is_traced(lost):
    return x_adv
  if np.any(lost):
    x_adv = put_back(lost, x, x_adv)
  warn_of_lost(name, num_lost + lost, logits_fn, x, keys)
  return x_adv


def _any_traced(*arrays: Array) -> bool:
  """Whether any of these is abstract, or whatever is computed here would be."""
  return any(map(is_traced, (*arrays, jnp.zeros(()))))


def _over_pixels(rows: Array, x: Array) -> Array:
  """Flags `[b]` in the rank of x."""
  return jnp.reshape(rows, rows.shape + (1,) * (x.ndim - 1))
