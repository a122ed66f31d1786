"""What a net learns from another net's mistakes alone: CIFAR-10.

  python -m jax_robust.main --config=configs/study_own_mistakes.py --config.data_dir=TFDS \\
    --workdir=STUDY

Published (Wallace, Distill 2019), one seed: a ResNet-18 after 2 epochs is right on 62.5 % of its
training images and on 63.1 % of the test images; a new one that is trained for 50 epochs on the
18,768 others, with the labels that the first one gives them, gets 49.7 % of the test images right.
Optimiser, schedule, batch size and augmentation are not published. Here both are trained by SGD
with momentum .9, weight decay 5e-4, batches of 128 and a learning rate that falls from .1 to 0 by
a cosine, with random crops and flips.

`:size=small` takes a small CNN, 4 epochs for the teacher and 9 for students, for one CPU core.

Arguments: `size=full` or `small`, `smoke`.
"""

from jax_robust import config as config_lib
from jax_robust import errors, presets

SIZES = ("full", "small")


def get_config(arg=""):
  arg = config_lib.parse_arg(arg, size="full")
  errors.check_name("size", arg.size, SIZES, error=errors.ConfigError)
  config = presets.base()
  config.job = "study"
  config.data.update({"name": "cifar10", "num_heldout": 0})
  config.augment.update({"label_smoothing": 0.0})
  config.batch.update(
    {"size": 128, "original_share": 1.0, "emulated_workers": 0, "backend": "resident"}
  )
  config.model = {"name": "resnet18"}
  config.objective = {"name": "standard"}
  del config.attack
  config.evals, config.select = presets.evals(), ("clean", "max")
  config.optimizer = {"name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}
  config.schedule = {"name": "cosine", "learning_rate": 0.1}
  config.ema = {"decay": 0.0, "warmup_steps": 0, "ramp": False}
  config.evaluation.checkpoint = "latest"
  config.trackers = ()
  config.total_epochs, config.evaluate_epochs, config.save_epochs = 2.0, 10.0, 1.0
  config.study = {"name": "own_mistakes", "student_epochs": 50.0, "num_seeds": 3}
  if arg.size == "small":
    config.model = {
      "name": "small_cnn",
      "channels": (32, 64, 128),
      "strides": (2, 2, 2),
      "bn_momentum": 0.9,
    }
    config.total_epochs, config.study.student_epochs = 4.0, 9.0
  config = presets.finish(config, arg)
  if arg.smoke:
    config.data.num_heldout = 0
    config.model = {"name": "mlp", "hidden": (8,)}  # which has learned something after two steps
    config.study.update({"student_epochs": 1.0, "num_seeds": 1})
  return config
