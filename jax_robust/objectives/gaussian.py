"""Training on noisy images: Cohen et al.'s baseline, and stability training."""

import jax
import jax.numpy as jnp

from jax_robust import losses
from jax_robust.errors import check_not_negative, check_sigma
from jax_robust.objectives import common, noisy
from jax_robust.types import ApplyFn, Batch, Progress


def gaussian(
  apply_fn: ApplyFn, params, model_state, batch: Batch, rng, progress: Progress, *, sigma: float
):
  """`mean_i CE(t_i, f(x_i + d_i))`, d_i ~ N(0, sigma^2): one noise per image.

  Of a net with several exits the cross entropy is the mean over the exits.

  Args:
    apply_fn: the net, `(params, model_state, x, train=) -> (outputs, model_state)`.
    params: what the loss is differentiated by.
    model_state: running statistics.
    batch: `image` `[b, h, w, c]` in [0, 1] and `target` `[b, k]`.
    rng: one key per example, `[b]`, for the noise.
    progress: unused.
    sigma: standard deviation of the noise, in units of the image. Noisy images are not clipped.

  Returns:
    The mean loss, and `(model_state, metrics)`.

  Raises:
    ValueError: sigma is not above 0.

  Reference: Cohen et al., 2019, "Certified Adversarial Robustness via Randomized Smoothing".
  """
  del progress
  check_sigma(sigma)
  x, targets, keys = common.read_batch(batch, rng)
  noises = sigma * noisy.draw_noises(keys, x, 1)
  outputs, model_state = apply_fn(params, model_state, noisy.noisy_copies(x, noises), train=True)
  loss = jnp.mean(losses.over_exits(losses.cross_entropy)(outputs, targets))
  metrics = {"loss": loss, "noisy_accuracy": common.accuracy(outputs, targets)}
  return loss, (model_state, metrics)


def stability(
  apply_fn: ApplyFn,
  params,
  model_state,
  batch: Batch,
  rng,
  progress: Progress,
  *,
  sigma: float,
  lbd: float = 2.0,
):
  """`mean_i CE(t_i, f(x_i)) + lbd H(softmax f(x_i), softmax f(x_i + d_i))`.

  H(p, q) = -sum p log q. The gradient flows through both predictions; the two passes normalise, and
  update the running statistics, each by itself, the clean one first.

  Args:
    apply_fn, params, model_state, batch, rng, progress, sigma: as those of `gaussian`.
    lbd: weight of the stability term.

  Returns:
    The mean loss, and `(model_state, metrics)`.

  Raises:
    ValueError: sigma is not above 0; lbd below 0.

  Reference: Li et al., 2019, "Certified Adversarial Robustness with Additive Noise"; the loss as in
  the program released with SmoothMix.
  """
  del progress
  check_sigma(sigma)
  check_not_negative(lbd=lbd)
  x, targets, keys = common.read_batch(batch, rng)
  noises = sigma * noisy.draw_noises(keys, x, 1)
  return stability_loss(apply_fn, params, model_state, x, targets, noises, lbd=lbd)


def stability_loss(apply_fn: ApplyFn, params, model_state, x, targets, noises, *, lbd: float):
  """`stability` for given noises `[b, 1, ...]`."""
  apply_fn = common.one_exit(apply_fn, "stability")
  clean, model_state = apply_fn(params, model_state, x, train=True)
  outputs, model_state = apply_fn(params, model_state, noisy.noisy_copies(x, noises), train=True)
  cross_entropy = jnp.mean(losses.cross_entropy(clean, targets))
  instability = jnp.mean(losses.cross_entropy(outputs, jax.nn.softmax(clean)))
  loss = cross_entropy + lbd * instability
  metrics = {
    "loss": loss,
    "cross_entropy": cross_entropy,
    "instability": instability,
    "accuracy": common.accuracy(clean, targets),
    "noisy_accuracy": common.accuracy(outputs, targets),
  }
  return loss, (model_state, metrics)
