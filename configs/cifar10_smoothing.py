"""Randomized smoothing on CIFAR-10: ResNet-110 or -20, SmoothMix and its rivals.

  python -m jax_robust.main --config=configs/cifar10_smoothing.py:sigma=0.5,mix_step=1 --workdir=RUN
  python -m jax_robust.main --config=RUN/config.json --config.job=certify --workdir=RUN \
    --config.smoothing.skip=20

SmoothMix as published: ResNet-110, 150 epochs, m = 2, T = 4, eta = 5, alpha .5, 1, 2 for sigma .25,
.5, 1, with mix_step 0 and 1. The rivals' options are those with which CAT-RS compares (the programs
differ: MACER's lbd at sigma .5 is 6 in one place and 4 in another), on the same schedule; the
Gaussian, Stability, SmoothAdv and MACER programs' own default is 90 epochs.

Generated images, which the paper does not use, come in with `generated=SHARDS,share=0.5`.

Measured 2026-11-22 on two shared CPU cores: method=gaussian,sigma=0.25,depth=20, ten epochs instead
of 150, milestone_epochs=3.4,6.8, without and with CIFAKE's images, certified with N = 10,000 on
every 100th test image (docs/results.md has the commands):

  originals only             ACR .327   certified .67 .54 .36 .16 at radius 0, .25, .5, .75
  generated=SHARDS,share=.5  ACR .294   certified .67 .44 .34 .12   (difference -.034 +- .021)

Arguments: `method=gaussian|stability|smoothadv|macer|consistency|smoothmix`, `sigma`, `depth`,
`mix_step`, `eta`, `m` (0, the default, is the published value), `generated`, `share`, `smoke`.
"""

from jax_robust import config as config_lib
from jax_robust import presets


def get_config(arg=""):
  arg = config_lib.parse_arg(
    arg, method="smoothmix", sigma=0.5, depth=110, mix_step=0, eta=5.0, m=0, generated="", share=0.5
  )
  level = presets.noise_level(arg.sigma)
  smoothadv = {
    "method": "pgd", "num_noise_vec": (4, 8, 2)[level],
    "epsilon": (256, 256, 512)[level] / 256, "num_steps": 10, "warmup": 10,
  }  # fmt: skip
  objectives = {
    "gaussian": {},
    "stability": {"lbd": (2.0, 2.0, 1.0)[level]},
    "smoothadv": smoothadv,
    "macer": {"lbd": (12.0, 6.0, 12.0)[level], "deferred": (0, 0, 50)[level]},
    "consistency": {"lbd": (20.0, 10.0, 10.0)[level], "num_noise_vec": 2},
    "smoothmix": {
      "num_noise_vec": 2, "alpha": 2 * arg.sigma, "num_steps": 4, "eta": arg.eta,
      "mix_step": arg.mix_step,
    },
  }  # fmt: skip
  config = presets.smoothing(arg, "cifar10", objectives)
  config.model = {
    "name": "cifar_resnet", "depth": arg.depth, "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2023, 0.1994, 0.2010),
  }  # fmt: skip
  config.schedule = {"name": "milestones", "learning_rate": 0.1, "milestone_epochs": (51.0, 101.0)}
  config.total_epochs, config.evaluate_epochs, config.save_epochs = 150.0, 10.0, 1.0
  if arg.generated:
    config.generated.path, config.batch.original_share = arg.generated, arg.share
  return presets.finish(config, arg)
