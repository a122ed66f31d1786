"""Adversarial training on CIFAR-10: PGD (Madry et al., 2018), FGSM, RS-FGSM or N-FGSM, l∞ 8/255.

Arguments: `attack=pgd|fgsm|rs_fgsm|n_fgsm|none` (`none` is ordinary training), `model`, `smoke`.
Not run by us at this size yet.
"""

from jax_robust import config as config_lib
from jax_robust import presets


def get_config(arg=""):
  arg = config_lib.parse_arg(
    arg, model="preact_resnet18", depth=28, width=10, norm="linf", flavour="sign", attack="pgd"
  )
  config = presets.trades_generated(arg, "cifar10")
  config.batch.update({"size": 128, "original_share": 1.0, "emulated_workers": 0})
  config.augment.label_smoothing = 0.0
  config.model.bn_group_size = None
  config.objective = {"name": "standard" if arg.attack == "none" else "adversarial"}
  if arg.attack == "pgd":
    config.attack.loss = "cross_entropy"
  else:
    name = "fgsm" if arg.attack == "none" else arg.attack
    config.attack = {"name": name, "norm": "linf", "eps": 8 / 255}
  config.total_epochs, config.evaluate_epochs = 100.0, 5.0
  return presets.finish(config, arg)
