"""TRADES on MNIST without generated data: l∞ .3 or l2 2, images padded to 32 × 32 inside the net.

Published for l∞ .3, WRN-28-10, standard AutoAttack (clean / robust %): 99.26 / 96.34 (Gowal et al.,
2020). That run's schedule is not in the released code; this is CIFAR-10's, shortened to 100 epochs,
with sign steps of .01. The l2 radius is our choice. Not run by us at this size yet.

Arguments: `model=small_cnn|wide_resnet`, `depth`, `width`, `norm=linf|l2`, `smoke`.
"""

from jax_robust import config as config_lib
from jax_robust import presets


def get_config(arg=""):
  arg = config_lib.parse_arg(
    arg, model="wide_resnet", depth=28, width=10, norm="linf", flavour="sign"
  )
  config = presets.trades_generated(arg, "mnist")
  config.model.pad_to = 32
  config.batch.update({"size": 512, "original_share": 1.0, "emulated_workers": 0})
  config.augment.update({"pad": 0, "flip": False, "label_smoothing": 0.0})
  eps, step_size = {"linf": (0.3, 0.01), "l2": (2.0, 0.2)}[arg.norm]
  config.attack.update({"eps": eps, "step_size": step_size, "num_steps": 40})
  config.evals.robust.attack.eps = eps
  config.total_epochs, config.evaluate_epochs = 100.0, 10.0
  return presets.finish(config, arg)
