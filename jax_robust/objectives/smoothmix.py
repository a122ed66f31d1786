"""SmoothMix: mixing each image with where an unrestricted attack on its soft prediction leads."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_robust import losses
from jax_robust.errors import check_count, check_not_negative, check_sigma
from jax_robust.objectives import common, noise_attacks, noisy
from jax_robust.types import ApplyFn, Batch, Progress, fold

_LAMBDA = 0x5A11  # a number for the mixing weights' keys that no noise has


def smoothmix(
  apply_fn: ApplyFn,
  params,
  model_state,
  batch: Batch,
  rng,
  progress: Progress,
  *,
  sigma: float,
  num_noise_vec: int = 1,
  alpha: float = 1.0,
  num_steps: int = 8,
  eta: float = 1.0,
  mix_step: int = 0,
  maxnorm_s: float | None = None,
  maxnorm: float | None = None,
  warmup: float = 10,
):
  """`mean CE(t, f(x~ + d_j)) + eta w mean 1[F(x~) = y] KL(y_mix || softmax f(x_mix + d_j))`.

  F(x) is the soft prediction, the mean over the m noises d_j of softmax f(x + d_j). x' is where
  `num_steps` steps of length alpha along the gradient of -log F_y lead, in no ball; x~ the iterate
  `mix_step`: the image, or for 1 the one-step adversary. With lambda ~ U[0, 1/2),

    x_mix = (1 - lambda) x~ + lambda x',    y_mix = (1 - lambda) F(x~) + lambda / k,

  so that confidence falls towards over-confident points. w grows from 1 / warmup to 1 over the
  first epochs. The same noises serve attack and both losses. The gradient flows through y_mix.

  The published batch of 256 is cut into m chunks, each of which makes its own update with m noises
  an image: here a chunk is a batch, of 256 / m images.

  Guarantees:
    `recorded_steps_agree`: loss, terms and gradients of the reference program's steps.
    `attack_leaves_statistics_alone`: only the two training passes change `model_state`.

  Args:
    apply_fn: the net, `(params, model_state, x, train=) -> (outputs, model_state)`.
    params: what the loss is differentiated by; the attack sees them frozen.
    model_state: running statistics; the attack uses them, and both training passes update them.
    batch: `image` `[b, h, w, c]` in [0, 1] and `target` `[b, k]`.
    rng: one key per example, `[b]`, for noises and lambda.
    progress: its epoch sets w.
    sigma: standard deviation of the noise, in units of the image.
    num_noise_vec: m.
    alpha, num_steps, mix_step: of the attack.
    eta: weight of the mixed loss.
    maxnorm_s: w times this bounds the l2 distance of x~ from x; default alpha times mix_step.
    maxnorm: bounds that of every iterate; default nothing.
    warmup: epochs.

  Returns:
    The loss, and `(model_state, metrics)`.

  Raises:
    ValueError: sigma is not above 0; no noise or no step; alpha or eta below 0; a `mix_step` that
      is no iterate before the last (the released program silently mixes from the image).

  Reference: Jeong et al., 2021, https://arxiv.org/abs/2111.09277, and the program released with it.
  """
  check_sigma(sigma)
  check_count(num_noise_vec=num_noise_vec, num_steps=num_steps)
  check_not_negative(alpha=alpha, eta=eta)
  if not 0 <= mix_step < num_steps:
    raise ValueError(f"mix_step={mix_step}: expected one of the {num_steps} iterates from 0 on")
  x, targets, rng = common.read_batch(batch, rng)
  noises = sigma * noisy.draw_noises(rng, x, num_noise_vec)
  weights = jax.vmap(functools.partial(jax.random.uniform, maxval=0.5))(fold(rng, _LAMBDA))
  return smoothmix_loss(
    apply_fn, params, model_state, x, targets, noises, weights,
    warmup_factor=noisy.warmup_factor(progress, warmup), alpha=alpha, num_steps=num_steps,
    eta=eta, mix_step=mix_step, maxnorm=maxnorm,
    maxnorm_s=alpha * mix_step if maxnorm_s is None else maxnorm_s,
  )  # fmt: skip


def smoothmix_loss(
  apply_fn: ApplyFn,
  params,
  model_state,
  x: Float[Array, "b h w c"],
  targets: Float[Array, "b k"],
  noises: Float[Array, "b m h w c"],
  weights: Float[Array, " b"],
  *,
  warmup_factor,
  alpha: float,
  num_steps: int,
  eta: float,
  mix_step: int,
  maxnorm_s: float,
  maxnorm: float | None,
):
  """`smoothmix` for given noises and weights lambda."""
  apply_fn = common.one_exit(apply_fn, "smoothmix")
  num_noises, labels = noises.shape[1], losses.as_labels(targets)
  attacked = common.attacked_logits_fn(apply_fn, params, model_state, statistics="running")
  start, adversarial = noise_attacks.unrestricted_attack(
    attacked, x, labels, noises, alpha=alpha, num_steps=num_steps, mix_step=mix_step,
    maxnorm=maxnorm, maxnorm_s=maxnorm_s * warmup_factor,
  )  # fmt: skip

  def train(images, model_state):
    return apply_fn(params, model_state, noisy.noisy_copies(images, noises), train=True)

  outputs, model_state = train(start, model_state)
  targets = losses.as_targets(targets, len(x), outputs.shape[1])
  copied_targets = noisy.repeat(targets, num_noises)
  cross_entropy = jnp.mean(losses.cross_entropy(outputs, copied_targets))
  soft = noisy.mean_probs(noisy.split_copies(outputs, num_noises))

  share = weights.reshape(-1, *(1,) * (x.ndim - 1))
  mixed_outputs, model_state = train((1 - share) * start + share * adversarial, model_state)
  share = weights[:, None]
  mixed_targets = (1 - share) * soft + share / soft.shape[-1]
  divergence = losses.kl_divergence(mixed_outputs, noisy.repeat(mixed_targets, num_noises))
  is_correct = jnp.argmax(soft, -1) == labels
  mixed = jnp.mean(noisy.repeat(is_correct, num_noises) * divergence)
  loss = cross_entropy + eta * warmup_factor * mixed
  metrics = {
    "loss": loss,
    "cross_entropy": cross_entropy,
    "mixed": mixed,
    "noisy_accuracy": common.accuracy(outputs, copied_targets),
    "smoothed_accuracy": jnp.mean(is_correct, dtype=loss.dtype),
  }
  return loss, (model_state, metrics)
