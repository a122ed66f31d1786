"""Classes: which outputs count as wrong, and which wrong classes an attack tries."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def main_outputs(outputs: Any) -> Array:
  """The logits that are predicted with: of several exits, their mean.

  >>> main_outputs((jnp.zeros((1, 2)), jnp.ones((1, 2)))).tolist()
  [[0.5, 0.5]]
  """
  return sum(outputs) / len(outputs) if isinstance(outputs, tuple) else outputs


def check_single_exit(outputs: Any) -> None:
  """Raises where a classifier gave a tuple of exits, of which none says what the class is."""
  if isinstance(outputs, tuple):
    raise ValueError(
      f"logits_fn returned {len(outputs)} exits: expected one array of logits; choose with "
      "exit_at(logits_fn, k) or mean_of_exits(logits_fn)"
    )


def misclassified(outputs: Any, labels: Int[Array, " b"]) -> Bool[Array, " b"]:
  """Whether the arg max is another class than the label: of every exit, if there are more.

  NaN among the logits counts as correct: no attack may claim it.

  >>> misclassified(jnp.array([[0.0, 1.0], [0.0, jnp.nan]]), jnp.array([0, 0])).tolist()
  [True, False]
  """
  exits = outputs if isinstance(outputs, tuple) else (outputs,)
  wrong = [(jnp.argmax(z, axis=-1) != labels) & ~jnp.any(jnp.isnan(z), axis=-1) for z in exits]
  return jnp.all(jnp.stack(wrong), axis=0)


def likeliest_wrong(outputs: Any, labels: Int[Array, " b"], num_targets: int) -> Int[Array, "t b"]:
  """The wrong classes in the order of their logits, largest first; of exits, of their sum.

  AutoAttack takes ranks 2 to t + 1, which is the same where the label is ahead.

  Raises:
    ValueError: no wrong class, or `num_targets` below 1.

  >>> likeliest_wrong(jnp.array([[1.0, 3.0, 2.0]]), jnp.array([1]), 9).tolist()
  [[2], [0]]
  """
  outputs = jnp.nan_to_num(main_outputs(outputs), nan=-jnp.inf)
  if min(num_targets, outputs.shape[-1] - 1) < 1:
    raise ValueError(
      f"num_targets={num_targets} of {outputs.shape[-1]} classes: expected at least 1 wrong class"
    )
  num_targets = min(num_targets, outputs.shape[-1] - 1)
  is_true = jax.nn.one_hot(labels, outputs.shape[-1], dtype=bool)
  ranked = jax.lax.top_k(jnp.where(is_true, jnp.inf, outputs), num_targets + 1)[1]
  return ranked[:, 1:].T
