"""Which outputs are a success, how far from it others are, and which wrong classes are tried."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jax_robust import losses
from jax_robust.errors import check_count
from jax_robust.nets.exits import predictions


def misclassified(outputs: Any, labels: Int[Array, " b"]) -> Bool[Array, " b"]:
  """Whether the predicted class differs from the label; of several exits the last one predicts.

  NaN among the logits counts as correct: no attack may claim it.

  >>> misclassified(jnp.array([[0.0, 1.0], [0.0, jnp.nan]]), jnp.array([0, 0])).tolist()
  [True, False]
  """
  logits = predictions(outputs)
  return (jnp.argmax(logits, axis=-1) != labels) & ~jnp.any(jnp.isnan(logits), axis=-1)


def is_finite(outputs: Any) -> Bool[Array, " b"]:
  """Whether all logits of an example, of all exits, are finite: else the point is no attack.

  >>> is_finite(jnp.array([[0.0, 1.0], [0.0, jnp.inf]])).tolist()
  [True, False]
  """
  leaves = jax.tree.leaves(outputs)
  rows = [jnp.all(jnp.isfinite(z), axis=tuple(range(1, z.ndim))) for z in leaves]
  return jnp.all(jnp.stack(rows), axis=0)


def succeeded(
  outputs: Any, labels: Int[Array, " b"], goals: Any, *, to_goal: bool = False
) -> Bool[Array, " b"]:
  """Whether an attack is done: the predicted class is wrong, or with `to_goal` it is the goal.

  Logits that are not finite are never a success.

  >>> z = jnp.array([[0.0, 1.0, 2.0]])
  >>> succeeded(z, jnp.array([0]), jnp.array([1])).tolist()
  [True]
  >>> succeeded(z, jnp.array([0]), jnp.array([1]), to_goal=True).tolist()
  [False]
  """
  if to_goal:
    return (jnp.argmax(predictions(outputs), axis=-1) == goals) & is_finite(outputs)
  return misclassified(outputs, labels) & is_finite(outputs)


def lead(
  outputs: Any, labels: Int[Array, " b"], goals: Any, *, to_goal: bool = False
) -> Float[Array, " b"]:
  """How far ahead of all others the classes are that count as a success; above 0 exactly there.

  That is `losses.margin`, or with `to_goal` minus the margin of the goal; the mean over exits.

  >>> z = jnp.array([[0.0, 1.0, 2.0]])
  >>> lead(z, jnp.array([0]), jnp.array([1]), to_goal=True).tolist()
  [-1.0]
  """
  margin = losses.over_exits(losses.margin)
  return -margin(outputs, goals) if to_goal else margin(outputs, labels)


def likeliest_wrong(outputs: Any, labels: Int[Array, " b"], num_targets: int) -> Int[Array, "t b"]:
  """The wrong classes in the order of their logits, largest first; of several exits, the last's.

  AutoAttack takes ranks 2 to t + 1, which is the same where the example is classified correctly.

  Raises:
    ValueError: no wrong class, or `num_targets` is no whole number of at least 1.

  >>> likeliest_wrong(jnp.array([[1.0, 3.0, 2.0]]), jnp.array([1]), 9).tolist()
  [[2], [0]]
  """
  check_count(num_targets=num_targets)
  logits = jnp.nan_to_num(predictions(outputs), nan=-jnp.inf)
  num_classes = logits.shape[-1]
  is_true = jax.nn.one_hot(labels, num_classes, dtype=bool)
  num_ranked = min(int(num_targets), num_classes - 1) + 1
  return jax.lax.top_k(jnp.where(is_true, jnp.inf, logits), num_ranked)[1][:, 1:].T
