"""Wrappers `logits_fn -> logits_fn` that choose what of a classifier is attacked."""

from jax_robust.types import LogitsFn


def exit_at(logits_fn: LogitsFn, k: int) -> LogitsFn:
  """The k-th exit of a multi-exit classifier, by itself; negative k counts from the last.

  Args:
    logits_fn: `x -> tuple of logits`, early exits first.
    k: number of the exit, from 0.

  Returns:
    `x -> logits [b, k]`.

  Raises:
    ValueError: (when called) the classifier has a single exit, or no such exit.

  >>> import jax.numpy as jnp
  >>> exit_at(lambda x: (x, 2 * x), 1)(jnp.ones((1, 2))).tolist()
  [[2.0, 2.0]]
  """

  def logits_of_one_exit(*args):
    exits = _exits(logits_fn(*args))
    if not -len(exits) <= k < len(exits):
      raise ValueError(f"k={k}: expected an exit from 0 to {len(exits) - 1}")
    return exits[k]

  return logits_of_one_exit


def mean_of_exits(logits_fn: LogitsFn) -> LogitsFn:
  """The mean of the logits over the exits: the exits as an ensemble.

  Attacking a tuple directly ascends the mean of the exits' losses instead, which wants every exit
  fooled.

  Args:
    logits_fn: `x -> tuple of logits`.

  Returns:
    `x -> logits [b, k]`.

  Raises:
    ValueError: (when called) the classifier has a single exit.

  >>> import jax.numpy as jnp
  >>> mean_of_exits(lambda x: (x, 2 * x))(jnp.ones((1, 2))).tolist()
  [[1.5, 1.5]]
  """

  def mean_logits(*args):
    exits = _exits(logits_fn(*args))
    return sum(exits) / len(exits)

  return mean_logits


def _exits(outputs):
  """The exits' outputs; a bare array would be cut along its batch."""
  if not isinstance(outputs, tuple):
    raise ValueError("logits_fn returned one array: expected a tuple with one entry per exit")
  return outputs
