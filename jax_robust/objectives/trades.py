"""TRADES: clean cross entropy plus beta times how far an attack can move the prediction."""

import jax
import jax.numpy as jnp

from jax_robust import losses
from jax_robust.errors import check_flag, check_function, check_name, check_one
from jax_robust.objectives import common
from jax_robust.types import ApplyFn, Attack, Batch, Progress


def trades(
  apply_fn: ApplyFn,
  params,
  model_state,
  batch: Batch,
  rng,
  progress: Progress,
  *,
  attack: Attack,
  beta: float = 6.0,
  attack_statistics: str = "batch",
  clean_pass_updates: bool = False,
  attack_target: str = "prediction",
):
  """`mean_i CE(t_i, f(x_i)) + beta * mean_i KL(softmax f(x_i) || softmax f(x'_i))`.

  x' ascends the same KL with the clean prediction held fixed. The penalty's gradient flows through
  both predictions. Of a net with several exits both terms are means over the exits, each compared
  with its own clean prediction.

  The defaults are the protocol of the program released with "Doing More with Less";
  `attack_statistics='running', clean_pass_updates=True` is that of the 2019 paper.

  Guarantees:
    `attack_leaves_statistics_alone`: the attack's target and its passes never change `model_state`.
    `clean_pass_uses_batch_statistics`: the clean pass normalises by the batch, and changes
      `model_state` only with `clean_pass_updates`.
    `adversarial_pass_updates_statistics`: the training pass at x' always does.

  Args:
    apply_fn: the net, `(params, model_state, x, train=) -> (outputs, model_state)`.
    params: what the loss is differentiated by; the attack sees them frozen.
    model_state: running statistics.
    batch: `image` `[b, h, w, c]` in [0, 1] and `target` `[b, k]`.
    rng: one key per example, `[b]`, for the attack.
    progress: unused.
    attack: `(logits_fn, x, targets, rng) -> x_adv`, ascending `losses.kl_divergence`.
    beta: weight of the penalty.
    attack_statistics: 'batch' or 'running', what BatchNorm uses in the attack and for its target.
    clean_pass_updates: whether the clean training pass updates the running statistics too.
    attack_target: what the attack moves away from: 'prediction', the clean one, or 'label', the
      batch's targets, as the released program does where CutMix has mixed them.

  Returns:
    The loss, and `(model_state, metrics)`.

  Raises:
    TypeError, ValueError: an unknown `attack_target` or `attack_statistics`; an attack that is no
      function; a beta that is no finite number of at least 0.

  Reference: Zhang et al., 2019, "Theoretically Principled Trade-off between Robustness and
  Accuracy"; Gowal et al., 2021, "Improving Robustness using Generated Data".
  """
  del progress
  check_function(attack=attack)
  check_one(beta=beta)
  check_flag(clean_pass_updates=clean_pass_updates)
  x, targets, keys = common.read_batch(batch, rng)
  clean_outputs, clean_state = apply_fn(params, model_state, x, train=True)
  logits_fn = common.attacked_logits_fn(apply_fn, params, model_state, statistics=attack_statistics)
  check_name("attack_target", attack_target, ("prediction", "label"))
  reference = targets
  if attack_target == "prediction":
    # In the released protocol the reference is the clean pass that is trained, so one pass serves
    # both; with running statistics it needs a pass of its own.
    outputs = clean_outputs if attack_statistics == "batch" else logits_fn(x)
    reference = jax.lax.stop_gradient(jax.tree.map(jax.nn.softmax, outputs))
  x_adv = attack(logits_fn, x, reference, keys)

  if clean_pass_updates:
    model_state = clean_state
  adv_outputs, model_state = apply_fn(params, model_state, x_adv, train=True)
  clean_probs = jax.tree.map(jax.nn.softmax, clean_outputs)
  cross_entropy = jnp.mean(losses.over_exits(losses.cross_entropy)(clean_outputs, targets))
  kl = jnp.mean(losses.over_exits(losses.kl_divergence)(adv_outputs, clean_probs))
  loss = cross_entropy + beta * kl
  metrics = {
    "loss": loss,
    "cross_entropy": cross_entropy,
    "kl": kl,
    "accuracy": common.accuracy(clean_outputs, targets),
    "adversarial_accuracy": common.accuracy(adv_outputs, batch["target"]),
  }
  return loss, (model_state, metrics)
