"""One training method = one pure function.

`objective(apply_fn, params, model_state, batch, rng, progress) -> (loss, (model_state, metrics))`,
once its attack and constants are bound with `functools.partial`. `rng` holds one key per example.
"""

from jax_robust.objectives.adversarial import adversarial
from jax_robust.objectives.gaussian import gaussian, stability
from jax_robust.objectives.macer import macer
from jax_robust.objectives.smoothadv import consistency, smoothadv
from jax_robust.objectives.smoothmix import smoothmix
from jax_robust.objectives.standard import standard
from jax_robust.objectives.trades import trades

OBJECTIVES = {
  "adversarial": adversarial,
  "consistency": consistency,
  "gaussian": gaussian,
  "macer": macer,
  "smoothadv": smoothadv,
  "smoothmix": smoothmix,
  "stability": stability,
  "standard": standard,
  "trades": trades,
}
"""The objectives by the name a config gives them."""

__all__ = [
  "OBJECTIVES",
  "adversarial",
  "consistency",
  "gaussian",
  "macer",
  "smoothadv",
  "smoothmix",
  "stability",
  "standard",
  "trades",
]
