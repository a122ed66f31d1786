"""MACER: the certified radius of the soft prediction as a loss, without an attack."""

import jax
import jax.numpy as jnp

from jax_robust import losses
from jax_robust.errors import check_count, check_not_negative, check_one, check_sigma
from jax_robust.objectives import common, noisy
from jax_robust.types import ApplyFn, Batch, Progress


def macer(
  apply_fn: ApplyFn,
  params,
  model_state,
  batch: Batch,
  rng,
  progress: Progress,
  *,
  sigma: float,
  num_noise_vec: int = 16,
  lbd: float = 16.0,
  beta: float = 16.0,
  margin: float = 8.0,
  deferred: float = 0.0,
):
  """`mean -log(F_y + 1e-10) + lbd sigma / 2 mean (xi + margin)`, xi = ndtri(p2) - ndtri(p1).

  F is the mean over the noises of softmax f(x + d_j). p1 and p2 are the two largest entries of the
  mean of softmax beta f(x + d_j). Only images count in the second term where p1 is that of y and
  |xi| <= margin: those with a certificate that is not already large.

  Guarantees:
    `recorded_step_agrees`: both terms and the gradient of a step of the reference program.

  Args:
    apply_fn: the net, `(params, model_state, x, train=) -> (outputs, model_state)`.
    params: what the loss is differentiated by.
    model_state: running statistics.
    batch: `image` `[b, h, w, c]` in [0, 1] and `target` `[b, k]`.
    rng: one key per example, `[b]`, for the noises.
    progress: its epoch says whether the second term is deferred.
    sigma: standard deviation of the noise, in units of the image.
    num_noise_vec: noises per image.
    lbd: weight of the radius.
    beta: inverse temperature of the radius' soft prediction.
    margin: gamma, see above.
    deferred: up to and with this epoch, counted from 0, the second term is left out; 0 leaves out
      none. The published deferred runs use the length of the first learning rate.

  Returns:
    The loss, and `(model_state, metrics)`.

  Raises:
    TypeError, ValueError: sigma is not above 0; no noise; lbd, deferred, beta or margin below 0.

  Reference: Zhai et al., 2020, "MACER: Attack-free and Scalable Robust Training via Maximizing
  Certified Radius", https://arxiv.org/abs/2001.02378.
  """
  check_sigma(sigma)
  check_count(num_noise_vec=num_noise_vec)
  check_not_negative(lbd=lbd, deferred=deferred)
  check_one(beta=beta, margin=margin)
  x, targets, keys = common.read_batch(batch, rng)
  noises = sigma * noisy.draw_noises(keys, x, num_noise_vec)
  weight = lbd * jnp.where((deferred > 0) & (jnp.floor(progress.epoch) <= deferred), 0.0, 1.0)
  return macer_loss(
    apply_fn, params, model_state, x, targets, noises, sigma=sigma,
    lbd=weight, beta=beta, margin=margin,
  )  # fmt: skip


def macer_loss(
  apply_fn: ApplyFn, params, model_state, x, targets, noises, *, sigma, lbd, beta, margin
):
  """`macer` for given noises `[b, m, ...]`."""
  apply_fn = common.one_exit(apply_fn, "macer")
  outputs, model_state = apply_fn(params, model_state, noisy.noisy_copies(x, noises), train=True)
  outputs = noisy.split_copies(outputs, noises.shape[1])
  labels = losses.as_labels(targets, len(x), outputs.shape[-1])
  soft = noisy.mean_probs(outputs)
  prob = jnp.take_along_axis(soft, labels[:, None], axis=1)[:, 0]
  classification = jnp.mean(-jnp.log(prob + 1e-10))

  top = jax.lax.top_k(noisy.mean_probs(beta * outputs), 2)
  is_correct = top[1][:, 0] == labels
  # Where ndtri is infinite, or its gradient, both are cut out before it is taken.
  is_inside = (top[0][:, 0] < 1) & (top[0][:, 1] > 0)
  largest, second = jnp.where(is_inside[:, None], top[0], 0.5).T
  xi = jax.scipy.special.ndtri(second) - jax.scipy.special.ndtri(largest)
  counts = is_correct & is_inside & (jnp.abs(xi) <= margin)
  hinge = jnp.mean(jnp.where(counts, xi + margin, 0.0)) * sigma / 2
  loss = classification + lbd * hinge
  metrics = {
    "loss": loss,
    "classification": classification,
    "robustness": hinge,
    "smoothed_accuracy": jnp.mean(jnp.argmax(soft, -1) == labels, dtype=loss.dtype),
  }
  return loss, (model_state, metrics)
