"""Fast adversarial training of multi-exit nets: the sum over the exits, and a penalty per exit."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jax_robust import losses
from jax_robust.errors import as_numbers, check_function, check_name, check_one, check_weight, shown
from jax_robust.names import natural
from jax_robust.nets.exits import exits_of
from jax_robust.objectives import common
from jax_robust.types import ApplyFn, Attack, Batch, LossFn, Progress

PUBLISHED_PENALTIES = (0.1, 0.1, 0.1, 0.15, 0.15, 0.15, 0.15)
"""For nets of five and of seven exits; fewer take the first of them."""

PENALTIES = ("squared", "norm")


def multi_exit(
  apply_fn: ApplyFn,
  params,
  model_state,
  batch: Batch,
  rng,
  progress: Progress,
  *,
  attack: Attack,
  loss_fn: LossFn = losses.cross_entropy,
  penalties: Sequence[float] | None = None,
  penalty: str = "squared",
  clean_weight: float = 0.0,
  attack_statistics: str = "batch",
):
  """`sum_k mean_i loss(t_i, f_k(x'_i)) + sum_k lambda_k ||W_k||^2` over the exits k.

  `x' = attack(f, x, t)` on the mean of the exits' losses, whose gradient has the sign of that of
  the sum: with an FGSM, one step costs two passes. W_k is the kernel of exit k's last layer. The
  penalty keeps late exits from large weights, with which catastrophic overfitting comes.

  Guarantees:
    `attack_leaves_statistics_alone`: only the training pass at x' changes `model_state`.
    `one_exit_without_penalty_is_adversarial`: of a net with one exit and `penalties=(0,)`.

  Args:
    apply_fn: the net, `(params, model_state, x, train=) -> (outputs, model_state)`; the last layer
      of each exit is named `logits`.
    params: what the loss is differentiated by; the attack sees them frozen.
    model_state: running statistics.
    batch: `image` `[b, h, w, c]` in [0, 1] and `target` `[b, k]`.
    rng: one key per example, `[b]`, for the attack.
    progress: unused.
    attack: `(logits_fn, x, targets, rng) -> x_adv`.
    loss_fn: per-example loss of one exit.
    penalties: lambda of each exit. None takes the published ones, up to seven exits; `[0.0]` is
      none, for any number of exits.
    penalty: 'squared', the sum of a kernel's squares; or 'norm', the root of it.
    clean_weight: of the same loss at the images themselves, which is added.
    attack_statistics: 'batch' or 'running', what BatchNorm uses inside the attack.

  Returns:
    The loss, and `(model_state, metrics)`; the metrics hold the accuracy under the attack of each
    exit, and `kernel_statistics`.

  Raises:
    ValueError: another number of penalties than of exits, or of layers named `logits`.
    TypeError, ValueError: weights that are no finite numbers of at least 0; attack or loss is no
      function.

  Reference: Chen et al., 2022, "Fast adversarial training in a multi-exit network", Neural Networks
  150. Its text gives the lambdas; that the norm is squared, and the sum over the exits with equal
  weights, are inferences.
  """
  del progress
  check_name("penalty", penalty, PENALTIES)
  check_one(clean_weight=clean_weight)
  check_function(attack=attack)
  loss_fn, penalties = losses.over_exits(loss_fn), _read_penalties(penalties)
  x, targets, keys = common.read_batch(batch, rng)
  logits_fn = common.attacked_logits_fn(apply_fn, params, model_state, statistics=attack_statistics)
  x_adv = attack(logits_fn, x, targets, keys)

  def sum_of_exits(outputs):
    return sum(jnp.mean(loss_fn(each, targets)) for each in exits_of(outputs))

  outputs, new_state = apply_fn(params, model_state, x_adv, train=True)
  num_exits = len(exits_of(outputs))
  weights = _weights(penalties, num_exits)
  kernels = last_kernels(params, num_exits, required=any(weights))
  squares = [jnp.sum(jnp.square(kernel)) for kernel in kernels]
  terms = squares if penalty == "squared" else [jnp.sqrt(square) for square in squares]
  loss = sum_of_exits(outputs) + sum(w * term for w, term in zip(weights, terms, strict=False))
  if clean_weight:
    loss += clean_weight * sum_of_exits(apply_fn(params, model_state, x, train=True)[0])
  metrics = {"loss": loss, "adversarial_accuracy": common.accuracy(outputs, targets)}
  for number, logits in enumerate(exits_of(outputs)):
    metrics[f"adversarial_accuracy_{number}"] = common.accuracy(logits, targets)
  return loss, (new_state, metrics | kernel_statistics(kernels))


def kernel_statistics(kernels: Sequence[Array]) -> dict[str, Array]:
  """Norm and variance of each exit's kernel, and how far the late ones exceed the early ones.

  Returns:
    `kernel_norm_{k}`, `kernel_variance_{k}` and, of several exits, `late_to_early`: the largest
    norm of the later half over the largest of the earlier half; a middle one is a late one.

  >>> found = kernel_statistics([jnp.ones((1, 4)), 3 * jnp.ones((1, 4))])
  >>> found["late_to_early"].item(), found["kernel_variance_1"].item()
  (3.0, 0.0)
  """
  norms = [jnp.linalg.norm(kernel) for kernel in kernels]
  half = len(norms) // 2
  result = {f"kernel_norm_{k}": norm for k, norm in enumerate(norms)}
  result |= {f"kernel_variance_{k}": jnp.var(kernel) for k, kernel in enumerate(kernels)}
  if half:
    late, early = jnp.stack(norms[half:]), jnp.stack(norms[:half])
    result["late_to_early"] = jnp.max(late) / jnp.max(early)
  return result


def last_kernels(params: Any, num_exits: int, *, required: bool = True) -> list[Array]:
  """The kernels of the layers named `logits`, in the order of the exits.

  Args:
    params: of the net.
    num_exits: how many there must be.
    required: otherwise there are none where that is not so.

  Raises:
    ValueError: there is another number of them than of exits.
  """
  leaves = jax.tree.leaves_with_path(params)
  paths = {tuple(str(getattr(key, "key", key)) for key in path): leaf for path, leaf in leaves}
  found = {path: leaf for path, leaf in paths.items() if path[-2:] == ("logits", "kernel")}
  if len(found) != num_exits:
    if not required:
      return []
    raise ValueError(
      f"the net has {num_exits} exits and {len(found)} layers named 'logits': each exit's last "
      "layer must have that name, for its weights to be penalised"
    )
  return [found[path] for path in sorted(found, key=lambda path: [*map(natural, path)])]


def _read_penalties(penalties: Any) -> tuple[float, ...] | None:
  """Penalties as floats; raises where they are no finite numbers of at least 0, in a list."""
  if penalties is None:
    return None
  found = as_numbers(penalties, "penalties")
  if found.ndim != 1:
    raise ValueError(
      f"penalties={shown(penalties)}: expected a list, a number for each exit, or [0.0] for none"
    )
  check_weight(penalties=found)
  return tuple(found.tolist())


def _weights(penalties: Sequence[float] | None, num_exits: int) -> Sequence[float]:
  """The lambda of each exit."""
  if penalties is not None and len(penalties) == 1 and not penalties[0]:
    return (0.0,) * num_exits
  given = PUBLISHED_PENALTIES[:num_exits] if penalties is None else penalties
  if len(given) != num_exits:
    raise ValueError(
      f"penalties={tuple(given)} has {len(given)} entries, and the net has {num_exits} exits: give "
      "one for each, or [0.0] for none"
    )
  return given
