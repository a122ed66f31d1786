"""What every attack does first: one law for the model, images, targets, keys and radius."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jax_robust.attacks.balls import check_ball
from jax_robust.errors import check_goals, check_images, check_targets
from jax_robust.losses import as_labels, as_targets
from jax_robust.nets.exits import exits_of
from jax_robust.nets.randomised import keyed
from jax_robust.types import LogitsFn, as_keys


class Inputs(NamedTuple):
  """What an attack is called with, checked and in one form.

  Attributes:
    query: the model, `(x, keys) -> outputs`; at each trace it checks its logits and the classes of
      the labels.
    x: images, `[b, ...]`, without a gradient.
    targets: labels `[b]`, int32, or probabilities `[b, k]`; a tuple of them, one entry per exit.
    keys: typed, `[b]`.
    goals: the class that each image shall be taken for, integers `[b]`; or None.
  """

  query: LogitsFn
  x: Array
  targets: Any
  keys: Array
  goals: Array | None = None


def check_inputs(
  name: str,
  logits_fn: LogitsFn,
  x: Any,
  targets: Any,
  rng: Any,
  ball: Any,
  *,
  per_pixel: bool = False,
  minimum_norm: bool = False,
  start: Any = None,
  goals: Any = None,
) -> Inputs:
  """Checks what an attack is called with, and brings it into one form.

  Args:
    name: of the attack, for messages.
    logits_fn, x, targets, rng, ball, start, goals: as those of `jax_robust.attacks`.
    per_pixel: whether the attack takes a radius for each pixel.
    minimum_norm: whether it looks for the nearest point: then it takes any radius, and no image of
      less than 32 bits, in which distances are not exact enough to be compared.

  Raises:
    TypeError, ValueError: as `jax_robust.attacks` lists them.
  """
  check_images(x)
  check_ball(name, ball, x, per_pixel=per_pixel, minimum_norm=minimum_norm)
  if minimum_norm:
    check_not_half(name, x)
  check_start(start, x)
  several = isinstance(targets, tuple) and all(np.ndim(one) for one in targets)
  given = targets if several else (targets,)  # as they are: a cast may hide a bad label
  each = tuple(as_targets(one, len(x)) for one in given)
  query = keyed(logits_fn)
  if goals is not None:
    check_goals(goals, as_labels(each[-1]))

  def checked_query(x, keys):
    outputs = query(x, keys)
    num_classes = exits_of(outputs)[0].shape[1]
    for one in given:
      check_targets(one, num_classes=num_classes)
    if goals is not None:
      check_goals(goals, num_classes=num_classes)
    return outputs

  x, each = jax.lax.stop_gradient((jnp.asarray(x), each))
  goals = None if goals is None else jax.lax.stop_gradient(jnp.asarray(goals))
  return Inputs(checked_query, x, each if several else each[0], as_keys(rng, len(x)), goals)


def check_start(start: Any, x: Any) -> None:
  """Raises unless a start is a name, None, or floating-point images of the shape of x."""
  if start is None or isinstance(start, str):
    return
  if np.shape(start) != np.shape(x):
    raise ValueError(f"start has shape {np.shape(start)}: expected that of x, {np.shape(x)}")
  if not hasattr(start, "dtype") or not jnp.issubdtype(start.dtype, jnp.floating):
    kind = f"has dtype {start.dtype}" if hasattr(start, "dtype") else f"is a {type(start).__name__}"
    raise TypeError(f"start {kind}: expected floating-point images, as x")


def check_not_half(name: str, x: Any) -> None:
  """Raises TypeError where images are of float16 or bfloat16, which the attack can't work in."""
  if jnp.finfo(x.dtype).bits < 32:
    raise TypeError(
      f"x has dtype {x.dtype}: {name} compares distances, in float32 or float64; cast the images, "
      "x.astype(jnp.float32), and let the model cast its input"
    )
