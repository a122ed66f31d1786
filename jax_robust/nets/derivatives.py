"""Models without a derivative: whatever can only be queried, such as one behind a callback."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jax_robust.types import LogitsFn


def has_derivative(logits_fn: LogitsFn, x: Any, keys: Any) -> bool:
  """Whether a model can be differentiated in x; shapes alone are looked at, nothing is computed.

  Args:
    logits_fn: `(x, keys) -> outputs`.
    x: images, or their shapes and dtype.
    keys: one per image, or their shape and dtype.

  Returns:
    False where JAX refuses to differentiate what it can evaluate.

  Raises:
    Whatever the model raises when it is evaluated.

  >>> asked = lambda x, keys: jax.pure_callback(lambda x: x, x, x)
  >>> x = jnp.zeros((1, 2))
  >>> has_derivative(lambda x, keys: 2 * x, x, None), has_derivative(asked, x, None)
  (True, False)
  """
  jax.eval_shape(logits_fn, x, keys)

  def total(x, keys):
    return sum(jnp.sum(z) for z in jax.tree.leaves(logits_fn(x, keys)))

  try:
    jax.eval_shape(jax.grad(total), x, keys)
  except (ValueError, TypeError, NotImplementedError):
    return False
  return True


@contextlib.contextmanager
def needed(name: str, logits_fn: LogitsFn, x: Any, keys: Any) -> Iterator[None]:
  """Says of a failure inside, where it is so, that the model has no derivative, and the remedy.

  Args:
    name: of what differentiates.
    logits_fn, x, keys: as in `has_derivative`.

  Raises:
    ValueError: the model can be evaluated and not differentiated.
  """
  try:
    yield
  except (ValueError, TypeError, NotImplementedError) as error:
    if has_derivative(logits_fn, x, keys):
      raise
    raise ValueError(without_derivative(name)) from error


def without_derivative(name: str) -> str:
  """The sentence about a model that can only be queried, and `name`, which needs a gradient.

  >>> without_derivative("pgd")[:40]
  'the model has no derivative that JAX can'
  """
  return (
    f"the model has no derivative that JAX can take (a callback?), and {name} needs one: take "
    "attacks.square, or autoattack with version=('square',), which only query it"
  )
