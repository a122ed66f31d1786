"""Guards: what makes robust accuracy look higher than it is, before an evaluation and after it.

Each check returns warnings, which an evaluation reports and keeps with its result.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust import losses
from jax_robust.types import LogitsFn, fold

NOISE = 1e-4
"""How far logits of unit length may differ between two passes."""

SQUARE_GAIN = 0.002
"""By how much Square may be better than all the gradient attacks together."""


def check_model(logits_fn: LogitsFn, x: Any, labels: Any, keys: Any, randomised: bool) -> list[str]:
  """Examines a model on one batch; returns warnings.

  They name randomised or batch-dependent logits, probabilities in place of logits, gradients that
  are exactly zero, and logits of low precision or that change with that of matrix products.

  Args:
    logits_fn: `(x, keys) -> logits`, as `keyed` makes it.
    x: images `[b, ...]`.
    labels: `[b]`.
    keys: `[b]`.
    randomised: whether the version is made for randomised models.
  """
  x, labels = jnp.asarray(x), jnp.asarray(labels)
  query = jax.jit(lambda x, keys: logits_fn(x, keys))
  other_keys = fold(keys, 1)
  logits = np.asarray(query(x, keys), np.float32)
  passes = [logits] + [np.asarray(query(x, other_keys), np.float32) for _ in range(2)]
  found = []
  if not randomised and _differ(passes[0], passes[1]) | _differ(passes[1], passes[2]):
    found.append("the model is randomised, two passes differ: use version='rand'")
  else:
    # Row 0 with other neighbours, at another place.
    moved = np.asarray(query(jnp.roll(x, 1, 0).at[2:].set(0.5), jnp.roll(keys, 1)), np.float32)
    if _differ(moved[1:2], logits[:1]):
      found.append(
        "an image's logits depend on its neighbours in the batch (BatchNorm in training mode?): "
        "the result would depend on how images are batched"
      )
  if logits.max() < 1 + 1e-5 and logits.min() > -1e-5 and np.abs(logits.sum(-1) - 1).max() < 1e-5:
    found.append("the model returns probabilities: gradients vanish; evaluate its logits instead")
  return found + _check_precision(logits_fn, x, keys, logits) + _check_gradients(
    logits_fn, x, labels, keys
  )  # fmt: skip


def _check_precision(logits_fn, x, keys, logits):
  """Warns of logits that are coarse, or change where matrix products are exact."""
  dtype = jax.eval_shape(lambda x, keys: logits_fn(x, keys), x, keys).dtype
  if jnp.finfo(dtype).bits < 32:
    return [f"the model returns {dtype} logits: ties and flipped predictions are likely"]
  with jax.default_matmul_precision("highest"):
    exact = jax.jit(lambda x, keys: logits_fn(x, keys))(x, keys)
  if _differ(np.asarray(exact, np.float32), logits, 1e-3):
    return [
      "the model's matrix products run in low precision (TF32 or bfloat16); predictions are made "
      "again in float32"
    ]
  return []


def _check_gradients(logits_fn, x, labels, keys):
  """Warns of images where the loss has no gradient at all."""
  warnings = []
  for name, loss_fn in (("cross entropy", losses.cross_entropy), ("margin", losses.margin)):

    def total(x, loss_fn=loss_fn):
      return jnp.sum(loss_fn(logits_fn(x, keys), labels))

    gradient = jax.jit(jax.grad(total))(x)
    count = int(jnp.sum(jnp.all(gradient.reshape(len(x), -1) == 0, axis=1)))
    if count:
      warnings.append(
        f"the gradient of the {name} is exactly zero for {count} of {len(x)} images: gradients are "
        "masked or saturated, so trust the gradient attacks less than Square"
      )
  return warnings


def check_rejected(rejected: Mapping[str, int]) -> list[str]:
  """Warns of points that an attack reported and the evaluation did not confirm."""
  return [
    f"{count} points of {name} were not confirmed by the check of ball, box and class: the "
    "model's predictions are unstable, or depend on the batch"
    for name, count in rejected.items()
    if count
  ]


def check_square(clean: np.ndarray, robust_after: Mapping[str, np.ndarray]) -> list[str]:
  """Warns where Square, which sees no gradient, broke what the gradient attacks had left."""
  before = [clean.mean()] + [f.mean() for name, f in robust_after.items() if name != "square"]
  if "square" not in robust_after or len(before) < 2:
    return []
  gain = min(before) - robust_after["square"].mean()
  if gain > max(SQUARE_GAIN, 1.5 / len(clean)):  # a single image is luck
    return ["Square broke images that the gradient attacks had left: gradients are masked"]
  return []


def _differ(a, b, tolerance=NOISE):
  """Whether logits, scaled to unit length, differ by more than rounding."""
  unit = [z / (np.linalg.norm(z, axis=-1, keepdims=True) + 1e-10) for z in (a, b)]
  return bool(np.linalg.norm(unit[0] - unit[1], axis=-1).max() > tolerance)
