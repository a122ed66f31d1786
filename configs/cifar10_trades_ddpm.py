"""TRADES with a million generated images, as released: CIFAR-10, l∞ 8/255 or l2 128/255.

Gowal, Rebuffi et al., 2021, "Doing More with Less" / "Improving Robustness using Generated Data"
(arXiv:2110.09468). Download `cifar10_ddpm.npz` and make shards of it once:

  python -m jax_robust.main --config=configs/cifar10_trades_ddpm.py --config.job=generate \\
    --config.generate.path=cifar10_ddpm.npz --workdir=SHARDS
  python -m jax_robust.main --config=configs/cifar10_trades_ddpm.py --workdir=WORKDIR \\
    --config.generated.path=SHARDS/generated

Arguments: `model=wide_resnet|preact_resnet18`, `depth`, `width`, `norm=linf|l2`, `cutmix`,
`flavour=adam|sign` (the released program's attack, or the step that the paper prints), `smoke`.

Published, standard AutoAttack on all 10,000 test images (clean / robust %):
  l∞  WRN-28-10 85.97 / 60.73   WRN-70-16 86.94 / 63.62   (400 epochs, 1M DDPM samples)
  l2  WRN-28-10 90.24 / 77.44   WRN-70-16 90.83 / 78.39
The released code has no l2 attack; here it is normalised-gradient steps of 15/255, projected on the
ball and then the box. Not run by us at this size yet: a step of 1,024 images on WRN-28-10 is about
5.7e18 / 19531 = 2.9e14 FLOP.
"""

from jax_robust import config as config_lib
from jax_robust import presets


def get_config(arg=""):
  arg = config_lib.parse_arg(
    arg, model="wide_resnet", depth=28, width=10, norm="linf", flavour="adam", cutmix=False
  )
  config = presets.trades_generated(arg, "cifar10")
  config.augment.cutmix = arg.cutmix
  if arg.cutmix:
    config.augment.group_size = 256  # one emulated worker's rows
    config.objective.attack_target = "label"
  return presets.finish(config, arg)
