"""What the attacks say when they are called wrongly."""

import difflib
from collections.abc import Iterable

import jax.numpy as jnp
from jaxtyping import Array


def near_miss(name: str, known: Iterable[str]) -> str:
  """What was expected instead of a name: the known one that looks like it, or all of them.

  >>> near_miss("lnf", ["linf", "l2"])
  "'linf'"
  >>> near_miss("l7", ["sign", "adam"])
  "one of 'adam', 'sign'"
  """
  known = sorted(known)
  close = difflib.get_close_matches(str(name), known, n=1)
  return repr(close[0]) if close else "one of " + ", ".join(map(repr, known))


def check_images(x: Array) -> None:
  """Raises where x cannot be images in [0, 1]; uint8 would be projected onto {0, 1} silently."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(f"x has dtype {x.dtype}: expected floating-point images in [0, 1]")
