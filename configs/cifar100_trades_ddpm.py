"""TRADES with a million generated images on CIFAR-100, l∞ 8/255, as `cifar10_trades_ddpm.py`.

Published, standard AutoAttack, 1M DDPM samples (clean / robust %): WRN-28-10 59.18 / 30.81,
WRN-70-16 60.46 / 33.49. Shards of `cifar100_ddpm.npz` are made like CIFAR-10's. Not run by us at
this size yet.
"""

from jax_robust import config as config_lib
from jax_robust import presets


def get_config(arg=""):
  arg = config_lib.parse_arg(
    arg, model="wide_resnet", depth=28, width=10, norm="linf", flavour="adam"
  )
  return presets.finish(presets.trades_generated(arg, "cifar100"), arg)
