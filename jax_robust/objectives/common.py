"""What the objectives share: the view of the net that an attack gets, and accuracy."""

import jax
import jax.numpy as jnp

from jax_robust.errors import near_miss
from jax_robust.types import ApplyFn, LogitsFn

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
  if statistics not in STATISTICS:
    raise ValueError(f"attack_statistics={statistics!r}{near_miss(statistics, STATISTICS)}")
  frozen = jax.lax.stop_gradient(params)

  def logits_fn(x):
    return apply_fn(frozen, model_state, x, train=statistics == "batch")[0]

  return logits_fn


def accuracy(outputs, targets):
  """Share of rows whose largest logit (of the last exit) is the target's largest entry."""
  logits = outputs[-1] if isinstance(outputs, tuple) else outputs
  return jnp.mean(jnp.argmax(logits, -1) == jnp.argmax(targets, -1), dtype=logits.dtype)
