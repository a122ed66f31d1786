"""The arrays that a `logits_fn` closes over, passed as arguments to what is compiled.

XLA would copy the weights that a `logits_fn` closes over into every program that calls it. An
evaluation compiles dozens of programs, and a large model has gigabytes.

Two other ways do not serve. `jax.closure_convert` hoists tracers only, not concrete arrays. JAX's
own switch, JAX_USE_SIMPLIFIED_JAXPR_CONSTANTS, works only in the environment before JAX is imported
(`jax.config.update` changes the traces but still copies the constants), holds for every program of
the process, and is announced as temporary. Where it is on, `lift` finds no constants and JAX passes
them itself.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from jax_robust.types import LogitsFn


class Lifted(NamedTuple):
  """A model with its constants as an argument.

  Attributes:
    apply: `(constants, x, keys) -> outputs`.
    constants: the arrays that the model was closed over.
  """

  apply: Callable[[Any, Array, Array], Any]
  constants: tuple[Any, ...]


def lift(logits_fn: LogitsFn, x: Any, keys: Any) -> Lifted:
  """Separates a model from the arrays it is closed over.

  Guarantees:
    `lifted_is_the_classifier`: `apply(constants, x, keys)` is `logits_fn(x, keys)`.

  Args:
    logits_fn: `(x, keys) -> outputs`.
    x: images, or their shapes and dtype; other batch sizes will do as well.
    keys: one per image, or their shape and dtype.

  Returns:
    The two parts.

  >>> import jax.numpy as jnp
  >>> weights = jnp.eye(3)
  >>> lifted = lift(lambda x, keys: x @ weights, jnp.ones((1, 3)), jnp.zeros(1))
  >>> [constant.shape for constant in lifted.constants]
  [(3, 3)]
  """
  found = jax.make_jaxpr(logits_fn)(_shapes(x), _shapes(keys)).consts
  constants = tuple(c for c in found if isinstance(c, (jax.Array, np.ndarray)) and c.size > 1)
  # By identity: an array made anew at every trace may depend on the batch, and stays inside.
  places = {id(constant): i for i, constant in enumerate(constants)}

  def apply(values, x, keys):
    closed, outputs = jax.make_jaxpr(logits_fn, return_shape=True)(_shapes(x), _shapes(keys))
    consts = [values[places[id(c)]] if id(c) in places else c for c in closed.consts]
    leaves = jax.core.eval_jaxpr(closed.jaxpr, consts, x, keys)
    return jax.tree.unflatten(jax.tree.structure(outputs), leaves)

  return Lifted(apply, constants)


def without_jit(logits_fn: LogitsFn) -> LogitsFn:
  """The function that `jax.jit` was given: `lift` does not find the constants of a jitted one.

  >>> def double(x):
  ...   return 2 * x
  >>> without_jit(jax.jit(double)) is double, without_jit(double) is double
  (True, True)
  """
  if isinstance(logits_fn, jax.stages.Wrapped):
    return getattr(logits_fn, "__wrapped__", logits_fn)
  return logits_fn


def _shapes(array: Any) -> jax.ShapeDtypeStruct:
  """What a trace needs to know of an array."""
  return jax.ShapeDtypeStruct(array.shape, array.dtype)
