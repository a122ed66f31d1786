"""What configs are made of: the papers' recipe, its attacks, and the smoke version."""

from collections.abc import Mapping
from typing import Any

import ml_collections

from jax_robust import attacks, errors, job_table
from jax_robust import config as config_lib

_DATA = {
  "name": "cifar10", "num_heldout": 1024, "image_size": 0, "train_split": "train", "classes": (),
  "labels": "", "label_noise": 0.0, "test_name": "", "test_split": "test",
  "test_share": 0.0,
}  # fmt: skip


def base() -> ml_collections.ConfigDict:
  """What every config starts from: the recipe released with "Doing More with Less"."""
  return ml_collections.ConfigDict(
    {
      "job": "train",
      "imports": (),
      "imports_from": "",
      "seed": 0,
      "data_dir": "",
      "init_from": "",
      "init_layout": "",
      "init_check": "",
      "parallel": "jit",
      "distributed": False,
      "trackers": ("tensorboard",),
      "tracking": {},
      "data": dict(_DATA),
      "generated": {"path": "", "num_examples": 0, "verify": "read"},
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
      "evals": evals(pgd40()),
      "select": ("robust", "max"),
      "evaluation": {
        "batch_size": 512,
        "num_examples": 0,
        "eps_list": (),
        "checkpoint": "best",
        "precision": "highest",
        "exit": "last",
      },
      **job_table.blocks(),
    }
  )


def plain_blocks() -> tuple[str, ...]:
  """Blocks with fixed keys; the others are the keywords of whatever function they name."""
  return ("data", "generated", "evaluation", *job_table.blocks())


def complete(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Brings a config of an earlier version up to date: it may lack `evals`, and keys of blocks.

  Paths get their `~` replaced.

  Raises:
    ConfigError: something else stands where a block of keys is expected.
  """
  defaults = base()
  optional = job_table.blocks(optional=True)
  for name in (*plain_blocks(), *optional):
    if name in config:
      config_lib.check_block(name, config[name])
  with config.unlocked(), config.ignore_type():
    for name in ("init_layout", "init_check"):
      config[name] = config.get(name, "")
    attack = (config.get("evaluation") or {}).get("attack")
    if attack is not None:
      config_lib.check_block("evaluation.attack", attack)
      del config.evaluation["attack"]
      config.evals = evals(attack, noise=(config.get("smoothing") or {}).get("sigma") or None)
    if "tensorboard" in config:
      config.trackers = ("tensorboard",) if config.tensorboard else ()
      del config["tensorboard"]
    for name in ("trackers", "tracking"):
      config[name] = config.get(name, defaults[name])
    for name in ("imports", "imports_from"):
      config[name] = config.get(name) or defaults[name]
    for name in plain_blocks():
      config[name] = {**defaults[name].to_dict(), **(config.get(name) or {})}
    if "draw" not in config.data:
      config.data.draw = "auto"
    for name, block in optional.items():
      if name in config:
        config[name] = {**block, **config[name]}
  return config_lib.with_paths(config)


def evals(attack: Mapping[str, Any] | None = None, *, noise: float | None = None) -> dict:
  """`config.evals`: clean accuracy, and what else is given.

  Args:
    attack: the attack of the entry `robust`, as keywords of `attacks.make_attack`.
    noise: the standard deviation of the entry `noisy`; 0 stands for that of the training. None
      leaves the entry out.
  """
  entries: dict = {"clean": {"evaluator": "clean"}}
  if attack is not None:
    entries["robust"] = {"evaluator": "attacked", "attack": dict(attack)}
  if noise is not None:
    entries["noisy"] = {"evaluator": "noisy", "sigma": float(noise)}
  return entries


def exit_evals(attack: Mapping[str, Any], *, aim: int | str = "average") -> dict:
  """Entries of `config.evals` for every exit: `clean_exits`, and `robust_exits` under an attack.

  Args:
    attack: as keywords of `attacks.make_attack`.
    aim: see `evaluate.diagnostics.attacked_exits`; 'own' attacks each exit by itself, at that many
      times the cost.
  """
  return {
    "clean_exits": {"evaluator": "clean_exits"},
    "robust_exits": {"evaluator": "attacked_exits", "attack": dict(attack), "aim": aim},
  }


def depth_evals(attack: Mapping[str, Any]) -> dict:
  """Entries of `config.evals` for a net with blocks: how far features move by depth, how gradients
  agree.

  Args:
    attack: in the l-infinity ball, as keywords of `attacks.make_attack`; FGSM is added.
  """
  single = {"name": "fgsm", "norm": "linf", "eps": attack["eps"]}
  return {
    "distance_fgsm": {"evaluator": "feature_distance", "attack": single},
    "distance": {"evaluator": "feature_distance", "attack": dict(attack)},
    "alignment": {"evaluator": "gradient_alignment", "attack": dict(attack)},
  }


def overfitting(*, stop: bool = False, **changes: Any) -> dict:
  """`config.overfitting`: PGD-10 on 512 held-out images at every evaluation, and three rules.

  The rule of Fast-FGSM's program (Wong et al., 2020), but for the images, which are held out rather
  than the first batch of the epoch:

    attack = {**attacks.RECIPES["pgd_10"], "num_steps": 5}
    overfitting(stop=True, gap=0.0, lost=0.0, num_images=128, attack=attack)
  """
  attack = dict(attacks.RECIPES["pgd_10"])
  return {
    "attack": attack,
    "num_images": 512,
    "drop": 0.2,
    "gap": 0.3,
    "lost": 0.5,
    "stop": stop,
    **changes,
  }


def trades_attack(**changes) -> dict:
  """TRADES' inner attack as released: ten steps of Adam on the input towards another prediction."""
  return {**attacks.RECIPES["trades_adam"], "loss": "kl_divergence", **changes}


def pgd40(**changes) -> dict:
  """The papers' monitoring attack: 40 steps of Adam on the margin."""
  return {**attacks.RECIPES["pgd_40"], **changes}


NOISE_LEVELS = (0.25, 0.5, 1.0)
"""The standard deviations for which constants are published."""


def noise_level(sigma: float) -> int:
  """The place of the published noise level nearest to sigma."""
  return min(range(3), key=lambda i: abs(NOISE_LEVELS[i] - sigma))


def smoothing(arg, dataset: str, objectives: dict) -> ml_collections.ConfigDict:
  """Training for randomized smoothing as released with SmoothMix: SGD, steps, no average.

  The published batch of 256 is cut into as many chunks as there are noises per image, except for
  MACER, whose 16 noises are all of one step. The released program drops the learning rate one epoch
  late, after 31 epochs rather than 30.

  Args:
    arg: with `method`, `sigma`, and `m`, the noises per image, 0 for what `objectives` says.
    dataset: the data set's name.
    objectives: the keywords of each method.
  """
  if arg.method not in objectives:
    near = errors.near_miss(arg.method, objectives)
    raise errors.ConfigError(f"method={arg.method!r}{near}")
  config = base()
  config.data.update({"name": dataset, "num_heldout": 0})
  objective = {"name": arg.method, "sigma": arg.sigma, **objectives[arg.method]}
  if arg.m:
    objective["num_noise_vec"] = arg.m
  config.objective = objective
  num_chunks = 1 if arg.method == "macer" else objective.get("num_noise_vec", 1)
  config.batch.size = max(256 // num_chunks, 1)
  config.augment.update({"label_smoothing": 0.0})
  config.optimizer = {
    "name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4,
    "decay_batchnorm": True,
  }  # fmt: skip
  config.ema = {"decay": 0.0, "warmup_steps": 0, "ramp": False}
  config.batch.update({"original_share": 1.0, "emulated_workers": 0})
  del config["attack"], config["evals"]
  config.evals, config.select = evals(noise=0.0), ("noisy", "max")
  config.evaluation.checkpoint = "latest"
  return config


def trades_generated(arg, dataset: str) -> ml_collections.ConfigDict:
  """The papers' recipe on a data set, with net, norm and attack flavour as `arg` says."""
  config = base()
  config.data.name = dataset
  config.generate = {
    "method": "convert", "path": "", "num_shards": 64, "generator": "DDPM", "licence": "not stated",
  }  # fmt: skip
  config.model = {"name": arg.model, "activation": "swish", "bn_group_size": 32}
  if arg.model == "wide_resnet":
    config.model.update({"depth": arg.depth, "width": arg.width})
  if arg.norm == "l2":
    config.attack = {**attacks.RECIPES["trades_l2"], "loss": "kl_divergence"}
  elif arg.norm != "linf":
    raise errors.ConfigError(f"norm={arg.norm!r}: expected 'linf' or 'l2'")
  elif arg.flavour == "sign":
    config.attack = {**attacks.RECIPES["trades_sign"], "loss": "kl_divergence"}
  elif arg.flavour != "adam":
    raise errors.ConfigError(f"flavour={arg.flavour!r}: expected 'adam' or 'sign'")
  config.evals.robust.attack.update({"norm": arg.norm, "eps": config.attack.eps})
  return config


_TINY = {
  "small_cnn": {"name": "small_cnn", "channels": (4, 4), "strides": (2, 2)},
  "msdnet": {
    "name": "msdnet", "num_blocks": 2, "base": 1, "step": 1, "channels": 2, "growth": 2,
    "growth_factors": (1, 2), "bottleneck_factors": (1, 2),
  },
  "unet": {"name": "unet", "width": 4, "multipliers": (1,), "num_blocks": 1, "attention": ()},
}  # fmt: skip
"""What `finish` puts in place of a net for a smoke run: a small CNN, or a tiny one of its kind."""

_KEPT = ("exits", "precondition", "num_labels")
"""Fields of a net that a smoke run keeps."""


def finish(
  config: ml_collections.ConfigDict, arg: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
  """Returns the config as it is, or with `smoke` its two-step version on a tiny net and made data.

  The objective, attack kinds, optimiser and job stay: what is tested is that they fit together.
  """
  if not arg.smoke:
    return config
  for stem in ("total", "save", "evaluate", "log"):
    for unit in config_lib.UNITS:
      _drop(config, f"{stem}_{unit}")
  config.update({"total_steps": 2, "save_steps": 1, "evaluate_steps": 2, "log_steps": 1})
  config.data.update({"name": "made", "num_heldout": 8, "image_size": 0, "test_split": "test"})
  if config.batch.original_share < 1:
    config.generated.path = "made"
  _drop(config, "generate")
  if config.job in ("autoattack", "certify", "early_exit", "exit_attacks"):
    config.init_from = "made"  # untrained weights, which say no noise
    config.smoothing.sigma = config.smoothing.sigma or float(config.objective.get("sigma", 0.0))
  config.autoattack.chunk_size = 8
  config.early_exit.update({"max_steps": 2, "num_queries": 5, "chunk_size": 8})
  config.early_exit.update({"attacks": ("fgsm", "pgd_20", "square")})
  config.smoothing.update({"n0": 10, "n": 100, "max": 8, "batch_size": 100})
  batches = [run.batch for run in (config.get("runs") or {}).values() if "batch" in run]
  for batch in (config.batch, *batches):
    batch.update({"size": 24, "microbatch": 12 if batch.get("microbatch") else 0})
  config.evaluation.update({"batch_size": 8, "num_examples": 8})
  kept = {key: config.model[key] for key in _KEPT if key in config.model}
  tiny = _TINY.get(config.model.name, _TINY["small_cnn"])
  if "bn_group_size" in config.model:
    kept["bn_group_size"] = config.model.bn_group_size and 12
  config.model = {**tiny, **kept}
  config.schedule = {**config.schedule.to_dict(), "warmup_steps": 1}
  _drop(config.schedule, "warmup_epochs")
  _drop(config.schedule, "warmup_share")
  config.augment.update({"pad": min(config.augment.pad, 1)})
  if config.augment.get("group_size"):
    config.augment.group_size = 12
  blocks = [*config.evals.values(), config.get("overfitting") or {}]
  attacks_of_evals = [block["attack"] for block in blocks if "attack" in block]
  for attack in [*attacks_of_evals, *([config.attack] if "attack" in config else [])]:
    if "num_steps" in attack:
      attack.num_steps = min(attack.num_steps, 2)
  if "num_replays" in config.objective:
    config.objective.num_replays = min(config.objective.num_replays, 2)
  return config


def _drop(config: ml_collections.ConfigDict, key: str) -> None:
  """Deletes a key that may be there."""
  if key in config:
    del config[key]
