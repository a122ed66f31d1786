"""Attacks of one gradient step, for fast adversarial training."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_robust import losses
from jax_robust.attacks.balls import Ball
from jax_robust.attacks.checks import check_images
from jax_robust.attacks.gradient import CLASSIFIER_NOISE, pgd
from jax_robust.attacks.projections import per_example
from jax_robust.nets.randomised import keyed
from jax_robust.types import LogitsFn, LossFn, as_keys, fold


def fgsm(
  logits_fn: LogitsFn,
  x: Float[Array, "b *dims"],
  targets: Any,
  rng: Array,
  *,
  ball: Ball,
  loss_fn: LossFn = losses.cross_entropy,
  step_size: Array | float | None = None,
) -> Float[Array, "b *dims"]:
  """Fast gradient sign method: `project(x + eps ascent(grad loss(x)))`, in any ball.

  Guarantees: those of `pgd`, of which it is one step from x.

  Args:
    logits_fn: `x -> outputs`, or `(x, rng) -> outputs` of a randomised classifier; a tuple of
      outputs (exits) is attacked in the mean of its losses.
    x: images in [0, 1], `[b, ...]`.
    targets: what `loss_fn` takes: labels `[b]` or probabilities `[b, k]`.
    rng: one key, or one per example, for a randomised classifier only.
    ball: the threat model.
    loss_fn: per-example loss to ascend.
    step_size: in units of the image; default eps.

  Returns:
    x_adv `[b, ...]`.

  Reference: Goodfellow et al., 2015, "Explaining and Harnessing Adversarial Examples",
  https://arxiv.org/abs/1412.6572.

  >>> import jax, jax.numpy as jnp
  >>> from jax_robust.attacks import linf_ball
  >>> x, labels = jnp.full((1, 2), 0.5), jnp.array([0])
  >>> fgsm(lambda x: x, x, labels, jax.random.key(0), ball=linf_ball(0.25)).tolist()
  [[0.25, 0.75]]
  """
  step_size = ball.eps if step_size is None else step_size
  return pgd(
    logits_fn, x, targets, rng,
    ball=ball, loss_fn=loss_fn, num_steps=1, step_size=step_size, start="zero",
  )  # fmt: skip


def rs_fgsm(
  logits_fn: LogitsFn,
  x: Float[Array, "b *dims"],
  targets: Any,
  rng: Array,
  *,
  ball: Ball,
  loss_fn: LossFn = losses.cross_entropy,
  step_size: Array | float | None = None,
) -> Float[Array, "b *dims"]:
  """FGSM from a uniform start in the ball, projected back onto it ("fast is better than free").

  The start is projected onto the box as well before the gradient is taken.

  Guarantees: those of `pgd`, of which it is one step from a uniform start.

  Args:
    logits_fn: `x -> outputs`, or `(x, rng) -> outputs` of a randomised classifier; a tuple of
      outputs (exits) is attacked in the mean of its losses.
    x: images in [0, 1], `[b, ...]`.
    targets: what `loss_fn` takes: labels `[b]` or probabilities `[b, k]`.
    rng: one key, or one per example.
    ball: the threat model.
    loss_fn: per-example loss to ascend.
    step_size: in units of the image; default 1.25 eps.

  Returns:
    x_adv `[b, ...]`.

  Reference: Wong et al., 2020, "Fast is better than free: Revisiting adversarial training",
  https://arxiv.org/abs/2001.03994.

  >>> import jax, jax.numpy as jnp
  >>> from jax_robust.attacks import linf_ball
  >>> x, labels = jnp.full((1, 2), 0.5), jnp.array([0])
  >>> rs_fgsm(lambda x: x, x, labels, jax.random.key(0), ball=linf_ball(0.25)).shape
  (1, 2)
  """
  step_size = 1.25 * ball.eps if step_size is None else step_size
  return pgd(
    logits_fn, x, targets, rng,
    ball=ball, loss_fn=loss_fn, num_steps=1, step_size=step_size, start="uniform",
  )  # fmt: skip


def n_fgsm(
  logits_fn: LogitsFn,
  x: Float[Array, "b *dims"],
  targets: Any,
  rng: Array,
  *,
  ball: Ball,
  loss_fn: LossFn = losses.cross_entropy,
  noise_scale: Array | float = 2.0,
  step_size: Array | float | None = None,
) -> Float[Array, "b *dims"]:
  """N-FGSM: noise U(-k eps, k eps), then a sign step of eps from there, clipped to [0, 1] only.

  **The result leaves the ball**: |x_adv - x| reaches k eps + step_size. It augments training, and
  never measures robustness.

  Guarantees:
    `n_fgsm_stays_within_noise_and_step`: |x_adv - x| <= k eps + step_size, 0 <= x_adv <= 1.
    `zero_radius_is_the_identity`, `result_is_independent_of_the_batch`, `no_gradient_flows_out`.

  Args:
    logits_fn: `x -> outputs`, or `(x, rng) -> outputs` of a randomised classifier; a tuple of
      outputs (exits) is attacked in the mean of its losses.
    x: images in [0, 1], `[b, ...]`.
    targets: what `loss_fn` takes: labels `[b]` or probabilities `[b, k]`.
    rng: one key, or one per example.
    ball: an l-infinity ball, of which eps alone is used.
    loss_fn: per-example loss to ascend.
    noise_scale: k; the paper uses 2 in nearly every setting.
    step_size: in units of the image; default eps.

  Returns:
    x_adv `[b, ...]`.

  Raises:
    ValueError: the ball is not l-infinity.

  Reference: de Jorge et al., 2022, "Make Some Noise: Reliable and Efficient Single-Step Adversarial
  Training", https://arxiv.org/abs/2202.01181.

  >>> import jax, jax.numpy as jnp
  >>> from jax_robust.attacks import linf_ball
  >>> x, labels = jnp.full((1, 2), 0.5), jnp.array([0])
  >>> n_fgsm(lambda x: x, x, labels, jax.random.key(0), ball=linf_ball(0.125)).shape
  (1, 2)
  """
  check_images(x)
  if ball.norm != "linf":
    raise ValueError(f"ball.norm={ball.norm!r}: n_fgsm is defined for 'linf' only")
  x, targets = jax.lax.stop_gradient((x, targets))
  loss_fn = losses.over_exits(loss_fn)
  step_size = ball.eps if step_size is None else step_size

  keys = as_keys(rng, x.shape[0])
  noise = ball.sample(keys, x) * per_example(noise_scale, x)
  x_noisy = jnp.clip(x + noise, 0.0, 1.0)
  ask, noise_keys = keyed(logits_fn), fold(keys, CLASSIFIER_NOISE)
  gradient = jax.grad(lambda x: jnp.sum(loss_fn(ask(x, noise_keys), targets)))(x_noisy)
  x_adv = x_noisy + per_example(step_size, x) * ball.ascent(gradient)
  return jax.lax.stop_gradient(jnp.clip(x_adv, 0.0, 1.0))
