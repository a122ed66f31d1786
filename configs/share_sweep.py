"""What generated images do to robustness, by their share in the batch: a sweep of small trainings.

  python -m jax_robust.main --config=configs/share_sweep.py --workdir=SWEEP \\
    --config.data_dir=TFDS '--config.sweep.grid=seed=0,1;
    generated.path=GAUSSIAN/generated,DIFFUSION/generated;batch.original_share=0,0.3,0.7'

Every cell is TRADES with PGD of five steps on the first 1,000 images of CIFAR-10 at 16 x 16 pixels,
evaluated by PGD-40 on the first 2,000 test images: few images, since generated ones stand for more
of them (with `data.train_split=train[:10%]`, 5,000, no generator helped in so few steps), and few
pixels, so that a cell takes two minutes of one core. All cells have as many steps; `baseline` is
the originals alone. Pools of several sizes are one more key, `generated.num_examples=1000,10000`,
and augmentations as well: `augment.cutout=0,8`, `augment.mixup_alpha=0,1`,
`augment.policy=none,autoaugment,randaugment`.

What a generator must have seen is the same images, at the same size:

  python -m jax_robust.main --config=configs/share_sweep.py --config.job=generate \\
    --config.data_dir=TFDS --config.generate.num_examples=10000 --workdir=GAUSSIAN

What was measured is in docs/generated.md. Arguments: `steps`; `smoke`.
"""

from jax_robust import attacks, presets
from jax_robust import config as config_lib


def get_config(arg=""):
  arg = config_lib.parse_arg(arg, steps=400)
  config = presets.base()
  config.job = "sweep"
  config.sweep.update({"grid": "seed=0,1", "baseline": "batch.original_share=1"})
  config.generate = {"method": "gaussian", "num_examples": 10000, "num_shards": 4}
  config.data.update({"train_split": "train[:2%]", "num_heldout": 100, "image_size": 16})
  config.evaluation.update({"checkpoint": "latest", "num_examples": 2000})
  config.batch.update({"size": 128, "emulated_workers": 0, "backend": "resident"})
  config.augment.pad = 2
  config.model = {
    "name": "small_cnn", "channels": (32, 64, 128), "strides": (1, 2, 2), "activation": "swish",
  }  # fmt: skip
  config.attack = {**attacks.RECIPES["trades_sign"], "loss": "kl_divergence", "num_steps": 5}
  config.schedule = {"name": "cosine", "learning_rate": 0.1, "warmup_steps": 50}
  config.ema.decay = 0.99
  del config.total_epochs, config.save_epochs, config.evaluate_epochs
  config.update(
    {"total_steps": arg.steps, "save_steps": 300, "evaluate_steps": arg.steps, "log_steps": 50}
  )
  return presets.finish(config, arg)
