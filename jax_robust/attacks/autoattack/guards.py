"""Guards: what makes robust accuracy look higher than it is, before an evaluation and after it.

Each check returns warnings, which an evaluation reports and keeps with its result.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust import losses
from jax_robust.nets.constants import Lifted
from jax_robust.types import LogitsFn, fold

NOISE = 1e-4
"""How far logits of unit length may differ between two passes."""

SQUARE_GAIN = 0.002
"""By how much Square may be better than all the gradient attacks together."""


def check_model(logits_fn: LogitsFn, x: Any, labels: Any, keys: Any, randomised: bool) -> list[str]:
  """Examines a model on one batch; returns warnings. See `make_check_model`.

  Args:
    logits_fn: `(x, keys) -> logits`, as `keyed` makes it.
    x: images `[b, ...]`.
    labels: `[b]`.
    keys: `[b]`.
    randomised: whether the version is made for randomised models.
  """
  check = make_check_model(Lifted(lambda constants, x, keys: logits_fn(x, keys), ()))
  return check(jnp.asarray(x), jnp.asarray(labels), keys, len(x), randomised)


def make_check_model(net: Lifted, *, gradients: bool = True) -> Callable[..., list[str]]:
  """Builds `check(x, labels, keys, num_images, randomised) -> warnings`, compiled once.

  They name randomised or batch-dependent logits, probabilities in place of logits, gradients that
  are exactly zero, and logits of low precision or that change with that of matrix products.

  Args:
    net: the model.
    gradients: whether to take any; False for a model that can only be queried.

  Returns:
    A function of a batch as `check_model` takes it, of which only the first `num_images` rows
    count: the others fill it up to the size that is compiled.
  """
  query, moved_query = jax.jit(net.apply), jax.jit(lambda *args: net.apply(*_beside_others(*args)))
  gradient_fns = {
    "cross entropy": jax.jit(_gradient_of(losses.cross_entropy, net)),
    "margin": jax.jit(_gradient_of(losses.margin, net)),
  }

  def check(x, labels, keys, num_images, randomised):
    raw = query(net.constants, x, keys)
    logits, other_keys = np.asarray(raw, np.float32), fold(keys, 1)
    passes = [logits]
    passes += [np.asarray(query(net.constants, x, other_keys), np.float32) for _ in range(2)]
    found = []
    if not randomised and _differ(passes[0], passes[1]) | _differ(passes[1], passes[2]):
      found.append("the model is randomised, two passes differ: use version='rand'")
    elif len(x) > 1:
      moved = np.asarray(moved_query(net.constants, x, keys), np.float32)
      if _differ(moved[1:2], logits[:1]):
        found.append(
          "an image's logits depend on its neighbours in the batch (BatchNorm in training mode?): "
          "the result would depend on how images are batched"
        )
    if logits.max() < 1 + 1e-5 and logits.min() > -1e-5 and np.abs(logits.sum(-1) - 1).max() < 1e-5:
      found.append("the model returns probabilities: gradients vanish; evaluate its logits instead")
    found += _check_precision(query, net.constants, x, keys, raw)
    for name, gradient_fn in gradient_fns.items() if gradients else ():
      gradient = np.asarray(gradient_fn(net.constants, x, keys, labels))[:num_images]
      count = int((gradient.reshape(num_images, -1) == 0).all(1).sum())
      if count:
        found.append(
          f"the gradient of the {name} is exactly zero for {count} of {num_images} images: "
          "gradients are masked or saturated, so trust the gradient attacks less than Square"
        )
    return found

  return check


def _beside_others(constants, x, keys):
  """Row 0 at place 1, with other neighbours."""
  return constants, jnp.full_like(x, 0.5).at[1].set(x[0]), jnp.roll(keys, 1)


def _check_precision(query, constants, x, keys, logits):
  """Warns of logits that are coarse, or change where matrix products are exact."""
  if jnp.finfo(logits.dtype).bits < 32:
    return [f"the model returns {logits.dtype} logits: ties and flipped predictions are likely"]
  with jax.default_matmul_precision("highest"):
    exact = np.asarray(query(constants, x, keys), np.float32)
  if _differ(exact, np.asarray(logits, np.float32), 1e-3):
    return [
      "the model's matrix products run in low precision (TF32 or bfloat16); predictions are made "
      "again in float32"
    ]
  return []


def _gradient_of(loss_fn, net):
  """The gradient of a loss in the images."""

  def total(x, constants, keys, labels):
    return jnp.sum(loss_fn(net.apply(constants, x, keys), labels))

  return lambda constants, x, keys, labels: jax.grad(total)(x, constants, keys, labels)


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
