"""Mistakes in a config, found before data are read and anything is compiled."""

from typing import Any

from jax_robust import job_table, presets
from jax_robust.attacks.recipes import keywords
from jax_robust.config import UNITS
from jax_robust.errors import ConfigError, check_options
from jax_robust.runs import build, evaluation, nets, training
from jax_robust.runs.blocks import check_name
from jax_robust.train import checkpoint, optim, parallel

OPTIONAL = ("attack", "epoch_size")
"""Keys that only some configs have, besides the optional blocks of jobs."""

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
  if len(config.select) != 2:
    raise ConfigError(f"config.select={config.select!r}: expected a metric and 'max' or 'min'")
  check_name("select", config.select[0], config.evals)
  check_name("select", config.select[1], ("max", "min"))
  if not config.data.num_heldout and config.evaluation.checkpoint == checkpoint.BEST:
    raise ConfigError(
      "config.data.num_heldout=0 leaves only test images to look at, and no checkpoint may be "
      "chosen by them: set evaluation.checkpoint='latest', or hold some training images out"
    )
  check_name("parallel", config.parallel, parallel.MODES)
  check_name("batch.backend", config.batch.backend, ("resident", "tfdata"))
  check_name("evaluation.checkpoint", config.evaluation.checkpoint, checkpoint.KINDS)
  if "/" not in config.data.name:
    check_name("data.name", config.data.name, build.DATASETS)
  build.draw_rule(config)
  evaluation.make_evaluators(config)
  nets.read_exit(config)
  build.model(config, _NUM_CLASSES)
  training.make_prepare(config, _NUM_CLASSES)
  training.training_method(config)


def _check_keys(config: Any) -> None:
  """Looks for keys that nothing reads, and for those that are missing."""
  base = presets.base()
  durations = {f"{stem}_{unit}" for stem in ("total", "evaluate", "save", "log") for unit in UNITS}
  required = set(base) - durations - set(OPTIONAL)
  optional = set(OPTIONAL) | set(job_table.blocks(optional=True))
  check_options("", config, required | durations | optional)
  for key in sorted(required - set(config)):
    raise ConfigError(f"the config has no {key!r}: begin with jax_robust.presets.base()")
  for name in presets.PLAIN_BLOCKS:
    check_options(name, config[name], (*base[name], *OPTIONAL_IN.get(name, ())))
    for key in sorted(set(base[name]) - set(config[name])):
      raise ConfigError(f"the config has no '{name}.{key}': begin with jax_robust.presets.base()")
  check_options("ema", config.ema, keywords(optim.ema_update))
