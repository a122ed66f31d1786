"""What objectives share: the `logits_fn` that an attack gets, one exit or several, accuracy."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jax_robust import losses
from jax_robust.errors import check_images, check_name
from jax_robust.nets.exits import exits_of, predictions
from jax_robust.types import ApplyFn, Batch, LogitsFn, as_keys

STATISTICS = ("batch", "running")


def attacked_logits_fn(apply_fn: ApplyFn, params, model_state, *, statistics: str) -> LogitsFn:
  """Closes the net over frozen parameters for an attack.

  Args:
    apply_fn: the net.
    params: its parameters; no gradient flows to them through the result.
    model_state: its running statistics; the attack's passes never change them.
    statistics: 'batch' normalises by the statistics of the batch under attack, 'running' by the
      running averages (eval mode).

  Returns:
    A `logits_fn` for `jax_robust.attacks`.

  Raises:
    ValueError: `statistics` is neither of the two.
  """
  check_name("attack_statistics", statistics, STATISTICS)
  frozen = jax.lax.stop_gradient(params)

  def logits_fn(x):
    return apply_fn(frozen, model_state, x, train=statistics == "batch")[0]

  return logits_fn


def read_batch(batch: Batch, *rng: Any) -> tuple[Array, ...]:
  """Images, targets and a key per example of a batch, checked as the attacks check theirs.

  Args:
    batch: `image` and `target`.
    rng: a key per example, or one for all (`types.as_keys`); not given where none is needed.

  Raises:
    TypeError, ValueError: as `errors.check_images`, `errors.check_targets` and `types.as_keys`;
      images of less than 32 bits.
  """
  x = batch["image"]
  check_images(x)
  if jnp.finfo(x.dtype).bits < 32:
    # Noise has 128 values in bfloat16, and x + delta is rounded to another radius.
    raise TypeError(
      f"x has dtype {x.dtype}: expected float32, as `types.Batch` says, so that noise and "
      "perturbations keep their size; a net computes in half precision by its own dtype, such as "
      "model.dtype=bfloat16"
    )
  return x, losses.as_targets(batch["target"], len(x)), *(as_keys(each, len(x)) for each in rng)


def one_exit(apply_fn: ApplyFn, name: str) -> ApplyFn:
  """The same net, for an objective that is defined for a single array of logits.

  Raises:
    ValueError: (when called) the net has several exits; `name` is the objective's.
  """

  def apply_one(params, model_state, *inputs, **options):
    outputs, model_state = apply_fn(params, model_state, *inputs, **options)
    exits = exits_of(outputs)
    if len(exits) > 1:
      raise ValueError(
        f"objective {name!r} needs a net with one exit, and this one has {len(exits)}: 'standard', "
        "'adversarial', 'trades' and 'gaussian' train all exits at once"
      )
    return exits[0], model_state

  return apply_one


def accuracy(outputs, targets):
  """Share of rows whose largest logit, of the exit that answers, is the target's largest entry."""
  logits = predictions(outputs)
  return jnp.mean(jnp.argmax(logits, -1) == losses.as_labels(targets), dtype=logits.dtype)
