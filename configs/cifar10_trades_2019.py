"""TRADES as in the 2019 paper: CIFAR-10, l∞ .031, ten sign steps of .007 from .001 N(0, 1), beta 6.

Zhang et al., 2019, "Theoretically Principled Trade-off between Robustness and Accuracy". The attack
runs in eval mode, both training passes update the running statistics, and there is no parameter
average. Learning rate and schedule are those of this library's other configs: this shows the loss
and the attack of 2019, not its schedule. Not run by us at this size yet.
"""

from jax_robust import attacks, presets
from jax_robust import config as config_lib


def get_config(arg=""):
  arg = config_lib.parse_arg(
    arg, model="wide_resnet", depth=34, width=10, norm="linf", flavour="sign"
  )
  config = presets.trades_generated(arg, "cifar10")
  config.model.update({"activation": "relu", "bn_group_size": None, "bn_momentum": 0.9})
  config.batch.update({"size": 128, "original_share": 1.0, "emulated_workers": 0})
  config.augment.label_smoothing = 0.0
  config.attack = {**attacks.RECIPES["trades_2019"], "loss": "kl_divergence"}
  config.objective.update({"attack_statistics": "running", "clean_pass_updates": True})
  config.ema.decay = 0.0
  config.evals.robust.attack.eps = 0.031
  config.total_epochs, config.evaluate_epochs = 76.0, 4.0
  return presets.finish(config, arg)
