"""What an attack of any make returns: checked before it is counted."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_robust.errors import first_few, is_traced


def check_attacked(x_adv: Any, x: Any, name: str = "attack") -> None:
  """Raises unless what an attack of any make returns are images as those it was given.

  NaN passes: a point whose logits are not finite is no attack.

  Args:
    x_adv: what was returned.
    x: the images.
    name: of the attack, for the message.

  Raises:
    TypeError: no floating-point array.
    ValueError: of another shape; a value is outside [0, 1] (not checked when traced).
  """
  if not hasattr(x_adv, "dtype") or not jnp.issubdtype(x_adv.dtype, jnp.floating):
    kind = f"dtype {x_adv.dtype}" if hasattr(x_adv, "dtype") else f"a {type(x_adv).__name__}"
    raise TypeError(f"{name} returned {kind}: expected floating-point images x_adv, as x")
  if np.shape(x_adv) != np.shape(x):
    raise ValueError(
      f"{name} returned shape {np.shape(x_adv)}: expected that of x, {np.shape(x)}, a point for "
      "each image"
    )
  if np.ndim(x) < 2 or len(x) == 0:
    raise ValueError(
      f"{name} returned shape {np.shape(x_adv)}: expected images, first axis the batch's, at least "
      "1; of one image, x[None]"
    )
  if is_traced(x_adv):
    return
  values = np.asarray(x_adv)
  bad = np.flatnonzero(((values < 0) | (values > 1)).reshape(len(values), -1).any(1))
  if bad.size:
    raise ValueError(
      f"{name}: its points of images {first_few(bad)} leave [0, 1], which no threat model does: "
      "clip them, x_adv.clip(0, 1)"
    )
