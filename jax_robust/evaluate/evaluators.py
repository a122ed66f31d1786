"""Evaluators: what is measured of each image, by the name that a config gives them.

An evaluator is `(logits_fn, x, labels, keys, **options) -> columns`: pure, per image, and jit-able.
The column `correct` says for which images the answer is right. Columns of one number per image are
measured, be they flags or values; others are for pictures. `diagnostics` has those that look at
more than the answer.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jax_robust.attacks.classes import is_finite
from jax_robust.attacks.non_finite import put_back
from jax_robust.attacks.returned import check_attacked
from jax_robust.errors import (
  check_function,
  check_images,
  check_sigma,
  check_targets,
  shown,
)
from jax_robust.losses import as_labels
from jax_robust.nets.exits import predictions
from jax_robust.nets.randomised import keyed
from jax_robust.types import Attack, Images, LogitsFn, Rng, as_keys, fold, normals

Columns: TypeAlias = Mapping[str, Array]
Evaluator: TypeAlias = Callable[..., Columns]

_NOISE = 0x9015E  # a number for the noise's keys that no attack folds in


def is_correct(logits: Float[Array, "b k"], labels: Int[Array, " b"]) -> Bool[Array, " b"]:
  """Whether the largest logit is the label's; a NaN, which argmax prefers, makes it wrong."""
  return (jnp.argmax(logits, -1) == labels) & ~jnp.any(jnp.isnan(logits), -1)


def _check(logits_fn: LogitsFn, x: Images, labels: Any) -> tuple[LogitsFn, Int[Array, " b"]]:
  """`(x, keys) -> logits` of the exit that answers, and labels, by the law of the attacks."""
  check_images(x)
  query, given = keyed(logits_fn), labels

  def logits_of(x, keys):
    logits = predictions(query(x, keys))
    check_targets(given, num_classes=logits.shape[1], name="labels")
    return logits

  return logits_of, as_labels(labels, len(x))


def attack_images(
  attack: Callable[[Any], Attack], eps: Any, logits_fn: LogitsFn, x: Images, labels: Any, keys: Rng
) -> Array:
  """The images that `attack(eps)` makes of x, checked as what comes from any attack.

  Raises:
    TypeError: `attack` is no function of the radius that gives an attack.
    TypeError, ValueError: as `attacks.returned.check_attacked`.
  """
  check_function(_OF_EPS, attack=attack)
  try:
    inspect.signature(attack).bind(eps)
  except TypeError:
    raise TypeError(
      f"attack={shown(attack)} takes other arguments: expected a function{_OF_EPS}"
    ) from None
  except ValueError:  # without a signature
    pass
  made = attack(eps)
  check_function(f": attack is to be one{_OF_EPS}", **{"attack(eps)": made})
  x_adv = made(logits_fn, x, labels, keys)
  check_attacked(x_adv, x)
  return x_adv


_OF_EPS = (
  " of the radius that gives an attack, such as lambda eps: functools.partial("
  "attacks.pgd, ball=attacks.linf_ball(eps))"
)


def clean(logits_fn: LogitsFn, x: Images, labels: Any, keys: Rng) -> Columns:
  """Whether images are classified correctly as they are.

  Args:
    logits_fn: `x -> outputs`, or randomised `(x, rng) -> outputs`; of several exits the last one
      answers.
    x: images in [0, 1].
    labels: true classes, as `errors.check_targets` describes them.
    keys: one key per image, or one for all: see `types.as_keys`.

  Returns:
    `correct` `[b]` and `probs` `[b, k]`; `lost` `[b]`, whether the logits were not finite, which
    makes an image wrong.
  """
  query, labels = _check(logits_fn, x, labels)
  logits = query(x, as_keys(keys, len(x)))
  return {
    "correct": is_correct(logits, labels), "probs": jax.nn.softmax(logits),
    "lost": ~jnp.isfinite(logits).all(-1),
  }  # fmt: skip


def attacked(
  logits_fn: LogitsFn,
  x: Images,
  labels: Any,
  keys: Rng,
  *,
  attack: Callable[[Any], Attack],
  eps: Any,
) -> Columns:
  """Whether images are classified correctly both as they are and attacked.

  Guarantees:
    `robust_implies_correct`: the attacked image is scored again, in a pass of its own.
    `a_lost_point_is_no_attack`: where the logits of the attacked image are NaN or infinite, the
      verdict is that of the image, which stands in its place. Clean logits of NaN are wrong.

  Args:
    logits_fn, x, labels, keys: as those of `clean`.
    attack: `eps -> attack`.
    eps: radius, in units of the image; may be traced.

  Returns:
    `correct` `[b]`; `x_adv` `[b, ...]`; `probs` and `probs_adv` `[b, k]`; `lost` `[b]`, whether
    the logits of the attacked image were not finite.

  Raises:
    TypeError, ValueError: `attack` gives none; what it returns are no images in [0, 1] of the shape
      of x; as `jax_robust.attacks` lists them.
  """
  query, labels = _check(logits_fn, x, labels)
  keys = as_keys(keys, len(x))
  x_adv = attack_images(attack, eps, logits_fn, x, labels, keys)
  logits, logits_adv = query(x, keys), query(x_adv, keys)
  lost = ~is_finite(logits_adv)
  logits_adv = put_back(lost, logits, logits_adv)
  return {
    "correct": is_correct(logits, labels) & is_correct(logits_adv, labels),
    "x_adv": put_back(lost, jnp.asarray(x), x_adv),
    "probs": jax.nn.softmax(logits),
    "probs_adv": jax.nn.softmax(logits_adv),
    "lost": lost,
  }


def noisy(
  logits_fn: LogitsFn,
  x: Images,
  labels: Any,
  keys: Rng,
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
  check_sigma(sigma)
  query, labels = _check(logits_fn, x, labels)
  keys = as_keys(keys, len(x))
  dtype = jnp.promote_types(x.dtype, jnp.float32)  # in bfloat16 a normal has 128 values
  noise = normals(fold(keys, _NOISE), x.shape[1:], dtype)
  x_noisy = (x + sigma * noise).astype(x.dtype)
  return {"correct": is_correct(query(x_noisy, keys), labels)}


EVALUATORS: dict[str, Callable[..., Columns]] = {
  "attacked": attacked,
  "clean": clean,
  "noisy": noisy,
}
"""The evaluators by the name that a config gives them."""
