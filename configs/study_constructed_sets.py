"""Robust and non-robust features as training sets: D_R, D_NR, D_rand, D_det, and what they teach.

  python -m jax_robust.main --config=configs/study_constructed_sets.py --config.data_dir=TFDS \\
    --workdir=STUDY

The published recipe (Ilyas et al., 2019) on CIFAR-10 with ResNet-50: l2 radius .5; 7 steps in
training, 100 for D_rand and D_det, 1,000 for the inversion, all of .1; SGD with momentum .9, weight
decay 5e-4, 150 epochs, a tenth at 50 and 100; learning rate .01 on D_NR and D_rand, no augmentation
on D_det. Brightness and rotation are not augmented here. It is days of work of a GPU.

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
  config.model = {
    "name": "resnet50", "stem": "cifar", "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2023, 0.1994, 0.2010),
  }  # fmt: skip
  config.objective = {"name": "adversarial", "attack_statistics": "running"}
  config.attack = {
    "name": "pgd", "norm": "l2", "eps": 0.5, "num_steps": 7, "step_size": 0.1, "start": "zero",
    "keep_best": True,
  }  # fmt: skip
  attack = {"name": "apgd", "norm": "l2", "eps": 0.25, "num_steps": 100}
  config.evals, config.select = presets.evals(attack), ("clean", "max")
  config.optimizer = {"name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}
  config.schedule = {
    "name": "milestones", "learning_rate": 0.1, "milestone_epochs": (50.0, 100.0),
  }  # fmt: skip
  config.ema = {"decay": 0.0, "warmup_steps": 0, "ramp": False}
  config.evaluation.update({"checkpoint": "latest", "eps_list": (0.5,), "batch_size": 500})
  config.trackers = ()
  config.total_epochs, config.evaluate_epochs, config.save_epochs = 150.0, 10.0, 5.0
  config.study = {
    "name": "constructed_sets",
    "moved": {"eps": 0.5, "num_steps": 100, "step_size": 0.1, "chunk_size": 1000},
    "inverted": {
      "num_steps": 1000, "step_size": 0.1, "identity_backward": True, "chunk_size": 1000,
    },
    "early_epochs": 2.0,
    "students": {
      "d_non_robust": {"schedule": {"learning_rate": 0.01}},
      "d_rand": {"schedule": {"learning_rate": 0.01}},
      "d_det": {"augment": {"pad": 0, "flip": False}},
    },
    "num_seeds": 1,
  }  # fmt: skip
  if arg.size == "small":
    _make_small(config)
  config = presets.finish(config, arg)
  if arg.smoke:
    config.data.num_heldout = 0
    config.model = {"name": "mlp", "hidden": (8,)}
    config.study.moved.update({"num_steps": 2, "chunk_size": 36})
    config.study.inverted.update({"num_steps": 3, "chunk_size": 36})
    config.study.early_epochs = 0.4
    config.study.students = {"d_rand": {"schedule": {"learning_rate": 0.01}}}
  return config


def _make_small(config):
  """Fashion-MNIST, a small CNN, and radii in proportion to what moves its predictions."""
  config.data.update({"name": "fashion_mnist", "train_split": "train[:20000]"})
  config.model = {
    "name": "small_cnn", "channels": (16, 32, 64), "strides": (2, 2, 2), "bn_momentum": 0.9,
  }  # fmt: skip
  config.augment.update({"pad": 0, "flip": False})
  config.attack.update({"eps": 1.5, "step_size": 0.3})
  config.evals.robust.attack.update({"eps": 0.5, "num_steps": 30})
  config.evaluation.update({"num_examples": 1000, "eps_list": (1.0, 1.5)})
  config.schedule = {"name": "cosine", "learning_rate": 0.1}
  config.total_epochs, config.evaluate_epochs, config.save_epochs = 12.0, 12.0, 3.0
  config.study.moved.update({"eps": 1.5, "num_steps": 30, "step_size": 0.3, "chunk_size": 500})
  config.study.inverted.update({"num_steps": 100, "step_size": 0.2, "chunk_size": 500})
  config.study.early_epochs = 0.25
  config.study.students = {}
