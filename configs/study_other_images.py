"""Digits learned from images of clothes: MNIST through Fashion-MNIST, by a teacher's labels.

  python -m jax_robust.main --config=configs/study_other_images.py --config.data_dir=TFDS \\
    --workdir=STUDY

Published (Wallace, Distill 2019), one seed: the teacher 99.1 % on MNIST, the student 91.04 %, and
94.5 % "normalised with MNIST's mean and variance". Net and schedule are not known; this is LeNet
with the recipe of PyTorch's example of 2019: SGD .01, momentum .5, batches of 64, 10 epochs.

Arguments: `epochs`, `smoke`.
"""

from jax_robust import config as config_lib
from jax_robust import presets


def get_config(arg=""):
  arg = config_lib.parse_arg(arg, epochs=10.0)
  config = presets.base()
  config.job = "study"
  config.data.update({"name": "mnist", "num_heldout": 1000})
  config.augment.update({"pad": 0, "flip": False, "label_smoothing": 0.0})
  config.batch.update(
    {"size": 64, "original_share": 1.0, "emulated_workers": 0, "backend": "resident"}
  )
  config.model = {"name": "lenet"}
  config.objective = {"name": "standard"}
  del config.attack
  config.evals, config.select = presets.evals(), ("clean", "max")
  config.optimizer = {"name": "sgd", "momentum": 0.5, "nesterov": False, "weight_decay": 0.0}
  config.schedule = {"name": "constant", "learning_rate": 0.01}
  config.ema = {"decay": 0.0, "warmup_steps": 0, "ramp": False}
  config.evaluation.checkpoint = "latest"
  config.trackers = ()
  config.total_epochs, config.evaluate_epochs, config.save_epochs = arg.epochs, 1.0, 1.0
  config.study = {"name": "other_images", "images": "fashion_mnist", "num_seeds": 3}
  config = presets.finish(config, arg)
  if arg.smoke:
    config.study.update({"images": "made", "num_seeds": 1, "modes": ("none", "matched")})
  return config
