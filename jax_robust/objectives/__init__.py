"""One training method = one pure function.

`objective(apply_fn, params, model_state, batch, rng, progress) -> (loss, (model_state, metrics))`,
once its attack and constants are bound with `functools.partial`. `rng` holds one key per example.
"""

from jax_robust.objectives.adversarial import adversarial
from jax_robust.objectives.standard import standard
from jax_robust.objectives.trades import trades

OBJECTIVES = {"adversarial": adversarial, "standard": standard, "trades": trades}
"""The objectives by the name a config gives them."""

__all__ = ["OBJECTIVES", "adversarial", "standard", "trades"]
