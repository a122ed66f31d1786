"""SmoothAdv and Consistency: smoothed adversarial points, and noises that agree."""

import jax.numpy as jnp

from jax_robust import losses
from jax_robust.attacks.balls import check_ball, l2_ball
from jax_robust.errors import check_count, check_flag, check_name, check_not_negative, check_sigma
from jax_robust.objectives import common, noise_attacks, noisy
from jax_robust.types import ApplyFn, Batch, Progress, fold

METHODS = ("pgd", "ddn")

_ATTACK = 0xADE5  # a number for the attack's keys that no noise has


def smoothadv(
  apply_fn: ApplyFn,
  params,
  model_state,
  batch: Batch,
  rng,
  progress: Progress,
  *,
  sigma: float,
  num_noise_vec: int = 1,
  method: str = "ddn",
  epsilon: float = 64 / 256,
  num_steps: int = 10,
  warmup: float = 1,
  no_grad_attack: bool = False,
):
  """`mean CE(t, f(x' + d_j))`, x' adversarial for the soft prediction under the same noises d_j.

  The published batch of 256 is cut into m chunks: here a chunk is a batch, of 256 / m images.

  Guarantees:
    `attack_leaves_statistics_alone`: only the training pass changes `model_state`.

  Args:
    apply_fn: the net, `(params, model_state, x, train=) -> (outputs, model_state)`.
    params: what the loss is differentiated by; the attack sees them frozen.
    model_state: running statistics; the attack uses them.
    batch: `image` `[b, h, w, c]` in [0, 1] and `target` `[b, k]`.
    rng: one key per example, `[b]`.
    progress: its epoch sets the radius.
    sigma: standard deviation of the noise, in units of the image.
    num_noise_vec: m, noises per image.
    method: 'pgd' or 'ddn'.
    epsilon: l2 radius, in units of the image; the published options count 1/256.
    num_steps: of the attack.
    warmup: epochs over which the radius grows linearly.
    no_grad_attack: PGD by an estimated gradient.

  Returns:
    The mean loss, and `(model_state, metrics)`.

  Raises:
    ValueError: an unknown method; sigma is not above 0; no noise or no step; epsilon below 0; DDN
      without gradients.

  Reference: Salman et al., 2019, https://arxiv.org/abs/1906.04584.
  """
  options = {"method": method, "no_grad_attack": no_grad_attack, "num_steps": num_steps}
  _check(sigma, num_noise_vec, **options)
  check_not_negative(epsilon=epsilon)
  x, targets, rng = common.read_batch(batch, rng)
  check_ball("smoothadv", l2_ball(epsilon), x, per_pixel=False, minimum_norm=False)
  noises = sigma * noisy.draw_noises(rng, x, num_noise_vec)
  radius = epsilon * noisy.warmup_factor(progress, warmup)
  apply_fn = common.one_exit(apply_fn, "smoothadv")
  x_adv = _attack(apply_fn, params, model_state, x, targets, noises, rng, radius, **options)
  outputs, model_state = apply_fn(
    params, model_state, noisy.noisy_copies(x_adv, noises), train=True
  )
  targets = noisy.repeat(losses.as_targets(targets, len(x), outputs.shape[1]), num_noise_vec)
  loss = jnp.mean(losses.cross_entropy(outputs, targets))
  metrics = {"loss": loss, "adversarial_accuracy": common.accuracy(outputs, targets)}
  return loss, (model_state, metrics)


def consistency(
  apply_fn: ApplyFn,
  params,
  model_state,
  batch: Batch,
  rng,
  progress: Progress,
  *,
  sigma: float,
  num_noise_vec: int = 2,
  lbd: float = 10.0,
  eta: float = 0.5,
  adv_training: bool = False,
  method: str = "pgd",
  epsilon: float = 512 / 256,
  num_steps: int = 4,
  warmup: float = 10,
):
  """`mean CE(t, f(x + d_j)) + lbd mean KL(F || softmax f(x + d_j)) + eta mean H(F)`.

  F is the mean over the m noises d_j of softmax f(x + d_j), H its entropy; the gradient flows
  through it. With `adv_training` x is SmoothAdv's adversarial point.

  Guarantees:
    `recorded_step_agrees`: loss and gradient of a step of the reference program.

  Args:
    apply_fn, params, model_state, batch, rng, progress, sigma: as those of `smoothadv`.
    num_noise_vec: m, noises per image: at least 2 to have something to agree on.
    lbd: weight of the consistency.
    eta: weight of the entropy.
    adv_training: whether to train at adversarial points.
    method, epsilon, num_steps, warmup: of the attack, as in `smoothadv`.

  Returns:
    The loss, and `(model_state, metrics)`.

  Raises:
    ValueError: as `smoothadv`; fewer than 2 noises; lbd or eta below 0.

  Reference: Jeong and Shin, 2020, "Consistency Regularization for Certified Robustness of Smoothed
  Classifiers", https://arxiv.org/abs/2006.04062.
  """
  check_flag(adv_training=adv_training)
  options = {"method": method, "no_grad_attack": False, "num_steps": num_steps}
  _check(sigma, num_noise_vec, **options)
  check_not_negative(epsilon=epsilon, lbd=lbd, eta=eta)
  if num_noise_vec < 2:
    raise ValueError(f"num_noise_vec={num_noise_vec}: expected at least 2, which can disagree")
  x, targets, rng = common.read_batch(batch, rng)
  check_ball("smoothadv", l2_ball(epsilon), x, per_pixel=False, minimum_norm=False)
  noises = sigma * noisy.draw_noises(rng, x, num_noise_vec)
  apply_fn = common.one_exit(apply_fn, "consistency")
  if adv_training:
    check_ball("consistency", l2_ball(epsilon), x, per_pixel=False, minimum_norm=False)
    radius = epsilon * noisy.warmup_factor(progress, warmup)
    x = _attack(apply_fn, params, model_state, x, targets, noises, rng, radius, **options)
  return consistency_loss(apply_fn, params, model_state, x, targets, noises, lbd=lbd, eta=eta)


def consistency_loss(
  apply_fn: ApplyFn, params, model_state, x, targets, noises, *, lbd: float, eta: float
):
  """`consistency` for given noises `[b, m, ...]`, at x."""
  apply_fn = common.one_exit(apply_fn, "consistency")
  num_noises = noises.shape[1]
  outputs, model_state = apply_fn(params, model_state, noisy.noisy_copies(x, noises), train=True)
  targets = noisy.repeat(losses.as_targets(targets, len(x), outputs.shape[1]), num_noises)
  cross_entropy = jnp.mean(losses.cross_entropy(outputs, targets))
  soft = noisy.mean_probs(noisy.split_copies(outputs, num_noises))
  divergence = jnp.mean(losses.kl_divergence(outputs, noisy.repeat(soft, num_noises)))
  entropy = -jnp.mean(jnp.sum(soft * jnp.log(jnp.maximum(soft, 1e-20)), axis=-1))
  loss = cross_entropy + lbd * divergence + eta * entropy
  metrics = {
    "loss": loss,
    "cross_entropy": cross_entropy,
    "divergence": divergence,
    "entropy": entropy,
    "noisy_accuracy": common.accuracy(outputs, targets),
  }
  return loss, (model_state, metrics)


def _attack(
  apply_fn, params, model_state, x, targets, noises, rng, radius, *, method, no_grad_attack,
  num_steps,
):  # fmt: skip
  """Adversarial points for the soft prediction."""
  logits_fn = common.attacked_logits_fn(apply_fn, params, model_state, statistics="running")
  arguments = logits_fn, x, losses.as_labels(targets), noises, fold(rng, _ATTACK)
  if method == "ddn":
    return noise_attacks.smoothadv_ddn(*arguments, epsilon=radius, num_steps=num_steps)
  return noise_attacks.smoothadv_pgd(
    *arguments, epsilon=radius, num_steps=num_steps, no_grad_attack=no_grad_attack
  )


def _check(sigma, num_noise_vec, *, method, no_grad_attack, num_steps):
  """Refuses what no attack could be made of."""
  check_sigma(sigma)
  check_count(num_noise_vec=num_noise_vec, num_steps=num_steps)
  check_name("method", method, METHODS)
  check_flag(no_grad_attack=no_grad_attack)
  if no_grad_attack and method != "pgd":
    raise ValueError(f"no_grad_attack=True with method={method!r}: expected method='pgd'")
