"""GradAlign: FGSM training, with a penalty on gradients that turn within the ball."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jax_robust import losses
from jax_robust.attacks.balls import linf_ball
from jax_robust.errors import check_eps, check_one, is_traced
from jax_robust.objectives import common
from jax_robust.types import ApplyFn, Batch, LossFn, Progress


def grad_align(
  apply_fn: ApplyFn,
  params,
  model_state,
  batch: Batch,
  rng,
  progress: Progress,
  *,
  eps: float = 8 / 255,
  lbd: float | None = None,
  loss_fn: LossFn = losses.cross_entropy,
):
  """`mean_i l(x'_i) + lbd mean_i (1 - cos(g(x_i), g(x_i + eta_i)))`, g the gradient in x of l.

  `l(x) = loss(t, f(x))`, of several exits the mean over the exits; eta_i is uniform in the
  l-infinity ball of radius eps, and `x' = clip(x + eps sign(g(x)), 0, 1)`, FGSM with a zero start.
  The penalty is differentiated through g(x + eta) alone; x + eta is not clipped. FGSM and
  the penalty share g(x), so a step costs three passes, one of them differentiated once more.

  Guarantees:
    `penalty_is_that_of_numpy`: on a linear net, where g is known.
    `gradient_is_numerical`: the gradient is that of finite differences with g(x) held fixed.
    `zero_gradients_are_skipped`: an image with g(x) = 0 or g(x + eta) = 0 adds nothing to the
      penalty, and the gradient stays finite. It still counts in the mean, where the released
      program leaves it out, so that the result does not depend on how rows are spread over devices.
    `attack_leaves_statistics_alone`: only the training pass at x' changes `model_state`.

  Args:
    apply_fn: the net, `(params, model_state, x, train=) -> (outputs, model_state)`; its activations
      should be differentiable twice for an exact gradient of the penalty, ReLU will do.
    params: what the loss is differentiated by.
    model_state: running statistics; all three passes normalise by the batch.
    batch: `image` `[b, h, w, c]` in [0, 1] and `target` `[b, k]`.
    rng: one key per example, `[b]`, for eta.
    progress: unused.
    eps: l-infinity radius, in units of images in [0, 1].
    lbd: weight of the penalty; None takes `published_weight(eps)`.
    loss_fn: per-example loss of one exit.

  Returns:
    The loss, and `(model_state, metrics)`; the metric `gradient_alignment` is the mean cosine,
    which falls towards 0 as catastrophic overfitting sets in.

  Raises:
    TypeError, ValueError: eps is no radius in [0, 1]; lbd is no finite number of at least 0.

  Reference: Andriushchenko and Flammarion, 2020, "Understanding and Improving Fast Adversarial
  Training", https://arxiv.org/abs/2007.02617.
  """
  del progress
  check_eps(eps, "linf", one=True)
  weight = published_weight(eps) if lbd is None else lbd
  check_one(lbd=weight)
  x, targets, keys = common.read_batch(batch, rng)

  def input_gradient(params, x):
    def total(x):
      outputs, _ = apply_fn(params, model_state, x, train=True)
      return jnp.sum(losses.over_exits(loss_fn)(outputs, targets))

    return jax.grad(total)(x)

  clean = jax.lax.stop_gradient(input_gradient(params, x))
  x_adv = jnp.clip(x + eps * jnp.sign(clean), 0.0, 1.0)
  outputs, new_state = apply_fn(params, model_state, x_adv, train=True)
  adversarial_loss = jnp.mean(losses.over_exits(loss_fn)(outputs, targets))
  eta = linf_ball(eps).sample(keys, x).astype(x.dtype)
  alignment = jnp.mean(losses.cosines(clean, input_gradient(params, x + eta), of_zero=1.0))
  loss = adversarial_loss + weight * (1.0 - alignment)
  metrics = {
    "loss": loss,
    "adversarial_loss": adversarial_loss,
    "gradient_alignment": alignment,
    "adversarial_accuracy": common.accuracy(outputs, targets),
  }
  return loss, (new_state, metrics)


def published_weight(eps: Any) -> Any:
  """`exp(255 eps ln(10) / 8 + ln(.02))`: lambda of CIFAR-10, .2 at 8/255 and 2 at 16/255.

  >>> round(published_weight(8 / 255), 6), round(published_weight(16 / 255), 6)
  (0.2, 2.0)
  """
  power = 255 * (eps if is_traced(eps) else float(eps)) * math.log(10) / 8 + math.log(0.02)
  return jnp.exp(power) if is_traced(eps) else math.exp(power)
