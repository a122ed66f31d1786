"""Which examples count as misclassified, and which wrong classes a targeted attack tries."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jax_robust.nets.exits import predictions


def misclassified(outputs: Any, labels: Int[Array, " b"]) -> Bool[Array, " b"]:
  """Whether the predicted class differs from the label; of several exits the last one predicts.

  NaN among the logits counts as correct: no attack may claim it.

  >>> misclassified(jnp.array([[0.0, 1.0], [0.0, jnp.nan]]), jnp.array([0, 0])).tolist()
  [True, False]
  """
  logits = predictions(outputs)
  return (jnp.argmax(logits, axis=-1) != labels) & ~jnp.any(jnp.isnan(logits), axis=-1)


def likeliest_wrong(outputs: Any, labels: Int[Array, " b"], num_targets: int) -> Int[Array, "t b"]:
  """The wrong classes in the order of their logits, largest first; of several exits, the last's.

  AutoAttack takes ranks 2 to t + 1, which is the same where the example is classified correctly.

  Raises:
    ValueError: no wrong class, or `num_targets` below 1.

  >>> likeliest_wrong(jnp.array([[1.0, 3.0, 2.0]]), jnp.array([1]), 9).tolist()
  [[2], [0]]
  """
  logits = jnp.nan_to_num(predictions(outputs), nan=-jnp.inf)
  num_classes = logits.shape[-1]
  if min(num_targets, num_classes - 1) < 1:
    raise ValueError(
      f"num_targets={num_targets} of {num_classes} classes: expected at least 1 wrong class"
    )
  is_true = jax.nn.one_hot(labels, num_classes, dtype=bool)
  num_ranked = min(num_targets, num_classes - 1) + 1
  return jax.lax.top_k(jnp.where(is_true, jnp.inf, logits), num_ranked)[1][:, 1:].T
