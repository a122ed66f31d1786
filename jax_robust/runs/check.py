"""Mistakes in a config, found before data are read and anything is compiled."""

from typing import Any

import jax

from jax_robust import job_table, presets
from jax_robust.attacks.balls import BALLS
from jax_robust.attacks.recipes import keywords
from jax_robust.config import check_block
from jax_robust.data import named
from jax_robust.errors import ConfigError, check_options
from jax_robust.runs import build, evaluation, keys, nets, overfitting, tracking, training
from jax_robust.runs.blocks import check_name, from_config
from jax_robust.train import checkpoint, optim, parallel

OPTIONAL_IN = {"data": ("draw",)}
"""Keys that a block may have or lack."""

_NUM_CLASSES = 3  # any number: the data say how many there are


def check(config: Any) -> None:
  """Looks up every name, and builds what can be built without data.

  `training.make_training` traces the rest once the data are open.

  Raises:
    ConfigError: a misspelt name or key, with the near miss, or a value that its function refuses.
  """
  _check_keys(config)
  keys.check_types(config)
  _check_values(config)
  if not isinstance(config.select, (tuple, list)) or len(config.select) != 2:
    raise ConfigError(f"config.select={config.select!r}: expected a metric and 'max' or 'min'")
  check_name("select", config.select[1], ("max", "min"))
  if not config.data.num_heldout and config.evaluation.checkpoint == checkpoint.BEST:
    raise ConfigError(
      "config.data.num_heldout=0 leaves only test images to look at, and no checkpoint may be "
      "chosen by them: set evaluation.checkpoint='latest', or hold some training images out"
    )
  check_name("parallel", config.parallel, parallel.MODES)
  if config.autoattack.norm:
    check_name("autoattack.norm", config.autoattack.norm, BALLS)
  check_name("batch.backend", config.batch.backend, ("resident", "tfdata"))
  check_name("evaluation.checkpoint", config.evaluation.checkpoint, checkpoint.READ)
  for key in ("name", "test_name"):
    if config.data[key] and "/" not in config.data[key]:
      check_name(f"data.{key}", config.data[key], named.names())
  if not 0 <= config.data.label_noise <= 1:
    raise ConfigError(
      f"config.data.label_noise={config.data.label_noise}: expected a share of the labels, 0 to 1"
    )
  tracking.check(config)
  if not 0 <= config.data.test_share < 1:
    raise ConfigError(
      f"config.data.test_share={config.data.test_share}: expected a share of the images, 0 to 1"
    )
  build.draw_rule(config)
  evaluation.make_evaluators(config)
  evaluation.check_select(config)
  overfitting.check(config)
  evaluation.check_units(config)
  nets.read_exit(config)
  build.model(config, _NUM_CLASSES)
  training.make_prepare(config, _NUM_CLASSES)
  training.training_method(config)
  job = job_table.JOBS.get(config.get("job"))
  if job is not None and job.trains:
    training.check_schedule(config)


def _check_values(config: Any) -> None:
  """Looks at numbers that no function takes before the data are open."""
  batch, evaluation_ = config.batch, config.evaluation
  counts = {
    "batch.size": (1, batch.size), "evaluation.batch_size": (1, evaluation_.batch_size),
    "smoothing.batch_size": (1, config.smoothing.batch_size),
    "batch.microbatch": (0, batch.microbatch), "data.num_heldout": (0, config.data.num_heldout),
    "data.image_size": (0, config.data.image_size), "epoch_size": (0, config.get("epoch_size", 0)),
    "evaluation.num_examples": (0, evaluation_.num_examples), "seed": (0, config.seed),
  }  # fmt: skip
  for key, (least, value) in counts.items():
    most = keys.MOST_SEED if key == "seed" else keys.MOST
    if not least <= value <= most:
      raise ConfigError(f"config.{key}={value}: expected a whole number, {least} to {most}")
  if min(evaluation_.eps_list, default=0) < 0:
    raise ConfigError(
      f"config.evaluation.eps_list={evaluation_.eps_list}: expected no negative eps"
    )
  with from_config("ema"):
    optim.check_ema(**config.ema)
  with from_config("evaluation.precision"), jax.default_matmul_precision(evaluation_.precision):
    pass


def _check_keys(config: Any) -> None:
  """Looks for keys that nothing reads, and for those that are missing."""
  base = presets.base()
  required = set(base) - {*keys.DURATIONS, *keys.OPTIONAL}
  optional = {*keys.OPTIONAL, *job_table.blocks(optional=True)}
  check_options("", config, required | {*keys.DURATIONS} | optional)
  for key in sorted(required - set(config)):
    raise ConfigError(f"the config has no {key!r}: begin with jax_robust.presets.base()")
  for name in presets.plain_blocks():
    check_block(name, config[name])
    check_options(name, config[name], (*base[name], *OPTIONAL_IN.get(name, ())))
    for key in sorted(set(base[name]) - set(config[name])):
      raise ConfigError(f"the config has no '{name}.{key}': begin with jax_robust.presets.base()")
  check_block("ema", config.ema)
  check_options("ema", config.ema, keywords(optim.ema_update))
