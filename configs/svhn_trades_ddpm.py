"""TRADES with a million generated images on SVHN, l∞ 8/255 or l2 128/255.

Normalisation and augmentation of the papers' SVHN runs are not known; here there is neither a crop
nor a flip (a mirrored digit is another one), and pixels stay as they are. Shards of `svhn_ddpm.npz`
are made like CIFAR-10's. Not run by us at this size yet.
"""

from jax_robust import config as config_lib
from jax_robust import presets


def get_config(arg=""):
  arg = config_lib.parse_arg(
    arg, model="wide_resnet", depth=28, width=10, norm="linf", flavour="adam"
  )
  config = presets.trades_generated(arg, "svhn_cropped")
  config.augment.update({"pad": 0, "flip": False})
  return presets.finish(config, arg)
