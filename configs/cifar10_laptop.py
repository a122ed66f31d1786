"""TRADES on CIFAR-10 at the size of a laptop, with and without generated shards, at equal steps.

The recipe of `cifar10_trades_ddpm.py` on a CNN of 4.8 MMAC, 900 steps of 256 (4.6 epochs).
First make shards of the generated images at hand, an npz, a folder of class folders, or a pack of
JPEGs:

  python -m jax_robust.main --config=configs/cifar10_laptop.py --config.job=generate \\
    --config.generate.path=GENERATED.npz --workdir=SHARDS

then train, with them and without, and evaluate by PGD-40 on 1,000 test images:

  python -m jax_robust.main --config=configs/cifar10_laptop.py:share=0.5 --workdir=WORKDIR \\
    --config.data_dir=TFDS --config.generated.path=SHARDS/generated
  python -m jax_robust.main --config=configs/cifar10_laptop.py:share=1.0 --workdir=WORKDIR ...
  python -m jax_robust.main --config=WORKDIR/config.json --config.job=evaluate --workdir=WORKDIR

Measured 2026-11-21 on two shared CPU cores, half an hour of CPU time a run, with
CIFAKE as the generated images, the first 1,000 test images, PGD-40 at l∞ 8/255, one seed:

  share=0.5   clean .418   robust .147
  share=1.0   clean .438   robust .185

CIFAKE's images are Stable Diffusion's, not CIFAR-10's, and 4.6 epochs are few: no gain is expected.
"""

from jax_robust import config as config_lib
from jax_robust import presets


def get_config(arg=""):
  arg = config_lib.parse_arg(arg, share=0.5, steps=900)
  config = presets.base()
  config.generate = {
    "method": "convert", "path": "", "num_shards": 16, "generator": "", "licence": "not stated",
  }  # fmt: skip
  config.batch.update({"size": 256, "original_share": arg.share, "emulated_workers": 0})
  config.model = {
    "name": "small_cnn", "channels": (24, 48, 72), "strides": (2, 1, 2), "activation": "swish",
    "bn_group_size": 64,
  }  # fmt: skip
  config.schedule = {"name": "cosine", "learning_rate": 0.1, "warmup_steps": 100}
  config.ema.decay = 0.99
  config.evaluation.update(
    {"num_examples": 1000, "eps_list": (2 / 255, 4 / 255, 6 / 255, 12 / 255)}
  )
  del config.total_epochs, config.save_epochs, config.evaluate_epochs
  config.update(
    {"total_steps": arg.steps, "save_steps": 100, "evaluate_steps": 300, "log_steps": 50}
  )
  return presets.finish(config, arg)
