"""Whether a function still is what it was when it was compiled: its program and its constants.

A function may be the same object and another model: its closure's weights were trained on, or a
name that it looks up was bound anew. Programs are kept for a function only as long as it is traced
to the same operations on the same numbers.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

_ADDRESS = re.compile(r"0x[0-9a-f]+")

# Wrapped anew at every trace. They are part of the function that has a rule of its own, not data.
_RULES = ("jvp_jaxpr_fun", "jvp_jaxpr_thunk", "fwd_jaxpr_thunk", "bwd", "jvp", "fwd")


class Fingerprint(NamedTuple):
  """What a function was traced to.

  Attributes:
    program: the operations.
    values: the arrays, numbers and callbacks in them.
  """

  program: str
  values: tuple[Any, ...]


def fingerprint(fn: Callable, *args: Any) -> Fingerprint:
  """Traces a function of arrays, or of their shapes.

  >>> import jax.numpy as jnp
  >>> weights = [jnp.ones(3)]
  >>> double = lambda x: x * weights[0]
  >>> before = fingerprint(double, jnp.ones(3))
  >>> is_same(before, fingerprint(double, jnp.ones(3)))
  True
  >>> weights[0] = 2 * weights[0]
  >>> is_same(before, fingerprint(double, jnp.ones(3)))
  False
  """
  # A new function each time: JAX remembers what it traced an old one to.
  closed = jax.make_jaxpr(lambda *args: fn(*args))(*args)
  return Fingerprint(_ADDRESS.sub("", str(closed.jaxpr)), tuple(_values(closed)))


def is_same(one: Fingerprint, other: Fingerprint) -> bool:
  """Whether two traces do the same; in doubt False."""
  return (
    one.program == other.program
    and len(one.values) == len(other.values)
    and all(map(_is_equal, one.values, other.values))
  )


def _values(part):
  """Everything in a traced program that its text does not show, in order."""
  if hasattr(part, "jaxpr") and hasattr(part, "consts"):
    yield from part.consts
    yield from _values(part.jaxpr)
  elif hasattr(part, "eqns"):
    for equation in part.eqns:
      yield from (v.val for v in equation.invars if hasattr(v, "val"))  # of literals
      for name, param in sorted(equation.params.items()):
        if name not in _RULES:
          yield from _values(param)
  elif isinstance(part, (tuple, list)):
    for each in part:
      yield from _values(each)
  elif callable(part) or isinstance(part, (jax.Array, np.ndarray)):
    yield part


def _is_equal(one: Any, other: Any) -> bool:
  """Whether two values are the same object or equal bit for bit; in doubt False."""
  if one is other:
    return True
  if not (hasattr(one, "shape") and hasattr(other, "shape")):  # numbers of Python, callbacks
    return type(one) is type(other) and bool(one == other)
  if one.dtype != other.dtype or one.shape != other.shape:
    return False
  if jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key):
    one, other = jax.random.key_data(one), jax.random.key_data(other)
  return np.asarray(one).tobytes() == np.asarray(other).tobytes()
