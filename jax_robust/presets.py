"""What configs are made of: the recipe released with the papers, its attacks, and the smoke version."""

import ml_collections

from jax_robust import attacks


def base() -> ml_collections.ConfigDict:
  """What every config starts from: the recipe released with "Doing More with Less", at its defaults."""
  return ml_collections.ConfigDict(
    {
      "job": "train",
      "seed": 0,
      "data_dir": "",
      "init_from": "",
      "parallel": "jit",
      "distributed": False,
      "tensorboard": True,
      "data": {"name": "cifar10", "num_heldout": 1024, "image_size": 0, "test_split": "test"},
      "generated": {"path": "", "verify": "size"},
      "batch": {
        "size": 1024,
        "original_share": 0.3,
        "emulated_workers": 4,
        "num_slices": 1,
        "microbatch": 0,
        "backend": "tfdata",
      },
      "augment": {"pad": 4, "flip": True, "label_smoothing": 0.1, "smoothing_scope": "generated"},
      "model": {"name": "wide_resnet", "depth": 28, "width": 10, "bn_group_size": 32},
      "objective": {"name": "trades", "beta": 6.0},
      "attack": trades_attack(),
      "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
      "schedule": {"name": "cosine", "learning_rate": 0.1, "warmup_epochs": 10.0},
      "ema": {"decay": 0.995, "warmup_steps": 0, "ramp": True},
      "total_epochs": 400.0,
      "log_steps": 50,
      "save_epochs": 10.0,
      "evaluate_epochs": 40.0,
      "select": ("robust", "max"),
      "evaluation": {
        "batch_size": 512,
        "num_examples": 0,
        "attack": pgd40(),
        "eps_list": (),
        "checkpoint": "best",
      },
    }
  )


def trades_attack(**changes) -> dict:
  """TRADES' inner attack as released: ten steps of Adam on the input towards another prediction."""
  return {**attacks.RECIPES["trades_adam"], "loss": "kl_divergence", **changes}


def pgd40(**changes) -> dict:
  """The papers' monitoring attack: 40 steps of Adam on the margin."""
  return {**attacks.RECIPES["pgd_40"], **changes}


def finish(
  config: ml_collections.ConfigDict, arg: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
  """Returns the config as it is, or with `smoke` its two-step version on a tiny net and made data.

  The objective, attack kinds, optimiser and job stay: what is tested is that they fit together.
  """
  if not arg.smoke:
    return config
  for unit in ("steps", "epochs", "examples"):
    for stem in ("total", "save", "evaluate", "log"):
      config.pop(f"{stem}_{unit}", None)
  with config.ignore_type(), config.unlocked():
    config.update({"total_steps": 2, "save_steps": 1, "evaluate_steps": 2, "log_steps": 1})
    config.data.name, config.data.num_heldout = "made", 8
    if config.generated.path:
      config.generated.path = "made"
    config.batch.size = 24
    config.batch.microbatch = min(config.batch.microbatch, 12)
    config.evaluation.batch_size, config.evaluation.num_examples = 8, 8
    config.model = {"name": "small_cnn", "channels": (4, 4), "strides": (2, 2)}
    config.schedule.pop("warmup_epochs", None)
    config.schedule.warmup_steps = 1
    config.augment.pad = 1
    for attack in (config.attack, config.evaluation.attack):
      attack.num_steps = min(attack.get("num_steps", 1), 2)
      if attack.get("num_steps") and attack.name != "pgd":
        del attack.num_steps
  return config
