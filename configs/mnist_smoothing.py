"""Randomized smoothing on MNIST: LeNet, 90 epochs, SmoothMix and its rivals as published.

  python -m jax_robust.main --config=configs/mnist_smoothing.py:num_steps=1,alpha=8 --workdir=RUN
  python -m jax_robust.main --config=RUN/config.json --config.job=certify --workdir=RUN

The published batch of 256 is cut into m chunks, each with an update of its own: a batch here is a
chunk. Options are those of the program released with SmoothMix: m = 4; T = 3, 4, 8 and
eta = 1 for sigma .25, .5, 1 (or T = 2, eta = 5 at .25, and eta = 5); lbd 2 for Stability; lbd 16,
16, 6 for MACER, deferred; lbd 10, 5, 5 for Consistency; PGD with epsilon 255 / 256, T = 10 for
SmoothAdv.

Measured on two CPU cores (2026-11-22, docs/results.md), average certified radius at sigma 1 and
N = 10,000 on every 20th test image, and that of the published log on the same images: Gaussian
1.554 and 1.548, SmoothMix with T = 1 and alpha = 8 1.697 and 1.695 (rounded down). At sigma .5, on
one core of an AMD EPYC (2026-11-28): Gaussian 1.372 and 1.368, Stability 1.382 and 1.384.

Arguments: `method=gaussian|stability|smoothadv|macer|consistency|smoothmix`, `sigma`, `num_steps`,
`alpha`, `eta`, `mix_step`, `m` (0, the default, is the published value), `smoke`.
"""

from jax_robust import config as config_lib
from jax_robust import presets


def get_config(arg=""):
  arg = config_lib.parse_arg(
    arg, method="smoothmix", sigma=1.0, num_steps=0, alpha=1.0, eta=1.0, mix_step=0, m=0
  )
  level = presets.noise_level(arg.sigma)
  smoothmix = {
    "num_noise_vec": 4, "alpha": arg.alpha, "num_steps": arg.num_steps or (3, 4, 8)[level],
    "eta": arg.eta, "mix_step": arg.mix_step,
  }  # fmt: skip
  pgd = {"method": "pgd", "num_noise_vec": 4, "epsilon": 255 / 256, "num_steps": 10, "warmup": 10}
  objectives = {
    "gaussian": {},
    "stability": {"lbd": 2.0},
    "smoothadv": pgd,
    "macer": {"lbd": (16.0, 16.0, 6.0)[level], "deferred": 30},
    "consistency": {"lbd": (10.0, 5.0, 5.0)[level], "num_noise_vec": 2},
    "smoothmix": smoothmix,
  }
  config = presets.smoothing(arg, "mnist", objectives)
  config.model = {"name": "lenet", "mean": (0.0,), "std": (1.0,)}
  config.augment.update({"pad": 0, "flip": False})
  config.schedule = {"name": "milestones", "learning_rate": 0.01, "milestone_epochs": (31.0, 61.0)}
  config.total_epochs, config.evaluate_epochs, config.save_epochs = 90.0, 10.0, 2.0
  return presets.finish(config, arg)
