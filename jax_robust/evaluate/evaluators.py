"""Evaluators: what is measured of each image, by the name that a config gives them.

An evaluator is `(logits_fn, x, labels, keys, **options) -> columns`: pure, per image, and jit-able.
The column `correct` says for which images the answer is right; others are for pictures.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jax_robust.types import Attack, LogitsFn, fold

Columns: TypeAlias = Mapping[str, Array]
Evaluator: TypeAlias = Callable[..., Columns]

_NOISE = 0x9015E  # a number for the noise's keys that no attack folds in


def is_correct(logits: Float[Array, "b k"], labels: Int[Array, " b"]) -> Bool[Array, " b"]:
  """Whether the largest logit is the label's; a NaN, which argmax prefers, makes it wrong."""
  return (jnp.argmax(logits, -1) == labels) & ~jnp.any(jnp.isnan(logits), -1)


def clean(
  logits_fn: LogitsFn, x: Float[Array, "b *dims"], labels: Int[Array, " b"], keys: Key[Array, " b"]
) -> Columns:
  """Whether images are classified correctly as they are.

  Args:
    logits_fn: `x -> logits [b, k]`.
    x: images in [0, 1].
    labels: true classes.
    keys: one key per image.

  Returns:
    `correct` `[b]` and `probs` `[b, k]`.
  """
  del keys
  logits = logits_fn(x)
  return {"correct": is_correct(logits, labels), "probs": jax.nn.softmax(logits)}


def attacked(
  logits_fn: LogitsFn,
  x: Float[Array, "b *dims"],
  labels: Int[Array, " b"],
  keys: Key[Array, " b"],
  *,
  attack: Callable[[Any], Attack],
  eps: Any,
) -> Columns:
  """Whether images are classified correctly both as they are and attacked.

  Guarantees:
    `robust_implies_correct`: the attacked image is scored again, in a pass of its own.

  Args:
    logits_fn, x, labels, keys: as those of `clean`.
    attack: `eps -> attack`.
    eps: radius, in units of the image; may be traced.

  Returns:
    `correct` `[b]`; `x_adv` `[b, ...]`; `probs` and `probs_adv` `[b, k]`.
  """
  x_adv = attack(eps)(logits_fn, x, labels, keys)
  logits, logits_adv = logits_fn(x), logits_fn(x_adv)
  return {
    "correct": is_correct(logits, labels) & is_correct(logits_adv, labels),
    "x_adv": x_adv,
    "probs": jax.nn.softmax(logits),
    "probs_adv": jax.nn.softmax(logits_adv),
  }


def noisy(
  logits_fn: LogitsFn,
  x: Float[Array, "b *dims"],
  labels: Int[Array, " b"],
  keys: Key[Array, " b"],
  *,
  sigma: float,
) -> Columns:
  """Whether images are classified correctly under Gaussian noise, one draw per image.

  Args:
    logits_fn, x, labels, keys: as those of `clean`.
    sigma: standard deviation of the noise, in units of the image.

  Returns:
    `correct` `[b]`.
  """
  draw = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))
  noise = draw(fold(keys, _NOISE))
  return {"correct": is_correct(logits_fn(x + sigma * noise), labels)}


EVALUATORS = {"attacked": attacked, "clean": clean, "noisy": noisy}
"""The evaluators by the name that a config gives them."""
