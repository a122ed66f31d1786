"""One training method = one pure function.

`objective(apply_fn, params, model_state, batch, rng, progress) -> (loss, (model_state, metrics))`,
once its attack and constants are bound with `functools.partial`. `rng` holds one key per example.
"""

from jax_robust.objectives.adversarial import adversarial
from jax_robust.objectives.denoising import denoising
from jax_robust.objectives.free import FREE
from jax_robust.objectives.gaussian import gaussian, stability
from jax_robust.objectives.grad_align import grad_align
from jax_robust.objectives.macer import macer
from jax_robust.objectives.multi_exit import multi_exit
from jax_robust.objectives.smoothadv import consistency, smoothadv
from jax_robust.objectives.smoothmix import smoothmix
from jax_robust.objectives.standard import standard
from jax_robust.objectives.trades import trades
from jax_robust.types import UpdateRecipe

OBJECTIVES = {
  "adversarial": adversarial,
  "consistency": consistency,
  "denoising": denoising,
  "gaussian": gaussian,
  "grad_align": grad_align,
  "macer": macer,
  "multi_exit": multi_exit,
  "smoothadv": smoothadv,
  "smoothmix": smoothmix,
  "stability": stability,
  "standard": standard,
  "trades": trades,
}
"""The objectives by the name a config gives them."""

NEED_LABELS = ("macer", "smoothadv", "smoothmix")
"""Objectives that are defined for a label: of other targets they take the largest entry, which
loses what a teacher's probabilities say."""

UPDATES: dict[str, UpdateRecipe] = {"free": FREE}
"""Training methods that are no single gradient of one loss, by the name a config gives them."""

__all__ = [
  "NEED_LABELS",
  "OBJECTIVES",
  "UPDATES",
  "adversarial",
  "consistency",
  "denoising",
  "gaussian",
  "grad_align",
  "macer",
  "multi_exit",
  "smoothadv",
  "smoothmix",
  "stability",
  "standard",
  "trades",
]
