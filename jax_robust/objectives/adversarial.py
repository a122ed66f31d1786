"""Adversarial training in the sense of Madry et al.: the loss at the adversarial example."""

import jax.numpy as jnp

from jax_robust import losses
from jax_robust.errors import check_function
from jax_robust.objectives import common
from jax_robust.types import ApplyFn, Attack, Batch, LossFn, Progress


def adversarial(
  apply_fn: ApplyFn,
  params,
  model_state,
  batch: Batch,
  rng,
  progress: Progress,
  *,
  attack: Attack,
  loss_fn: LossFn = losses.cross_entropy,
  attack_statistics: str = "batch",
):
  """`mean_i loss(t_i, f(x'_i))` with `x' = attack(f, x, t)`.

  With `attack` a PGD this is Madry et al.'s training, with one of the FGSM family it is fast
  adversarial training.

  Guarantees:
    `attack_leaves_statistics_alone`: only the training pass at x' changes `model_state`.

  Args:
    apply_fn: the net, `(params, model_state, x, train=) -> (outputs, model_state)`.
    params: what the loss is differentiated by; the attack sees them frozen.
    model_state: running statistics.
    batch: `image` `[b, h, w, c]` in [0, 1] and `target` `[b, k]`.
    rng: one key per example, `[b]`, for the attack.
    progress: unused.
    attack: `(logits_fn, x, targets, rng) -> x_adv`.
    loss_fn: per-example loss of the outer minimisation.
    attack_statistics: 'batch' or 'running', what BatchNorm uses inside the attack.

  Returns:
    The mean loss, and `(model_state, metrics)`.

  Raises:
    TypeError, ValueError: an unknown `attack_statistics`; an attack or a loss that is no function.

  Reference: Madry et al., 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks".
  """
  del progress
  check_function(attack=attack)
  x, targets, keys = common.read_batch(batch, rng)
  logits_fn = common.attacked_logits_fn(apply_fn, params, model_state, statistics=attack_statistics)
  x_adv = attack(logits_fn, x, targets, keys)
  outputs, model_state = apply_fn(params, model_state, x_adv, train=True)
  loss = jnp.mean(losses.over_exits(loss_fn)(outputs, targets))
  metrics = {"loss": loss, "adversarial_accuracy": common.accuracy(outputs, targets)}
  return loss, (model_state, metrics)
