"""Mistakes in a config, found before data are read and anything is compiled."""

from typing import Any

import jax
import jax.numpy as jnp

from jax_robust import presets
from jax_robust.attacks.recipes import keywords
from jax_robust.config import UNITS
from jax_robust.errors import ConfigError
from jax_robust.evaluate import intervals
from jax_robust.runs import build
from jax_robust.runs.blocks import block, check_name, check_options, from_config
from jax_robust.train import checkpoint, optim, parallel
from jax_robust.types import Progress

OPTIONAL = ("epoch_size", "generate", "runs")
"""Keys that only some configs have."""

_CLASSES = 3


def check(config: Any) -> None:
  """Builds what can be built without data, and looks up every name.

  Raises:
    ConfigError: a misspelt name or key, with the near miss, or a value that its function refuses.
  """
  _check_keys(config)
  if len(config.select) != 2:
    raise ConfigError(f"config.select={config.select!r}: expected a metric and 'max' or 'min'")
  check_name("select", config.select[0], intervals.FLAGS)
  if config.select[0] == "noisy" and not config.smoothing.sigma:
    raise ConfigError("config.select names 'noisy', but config.smoothing.sigma is 0: no noise")
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
  build.model(config, _CLASSES)
  build.make_prepare(config, _CLASSES)
  if "attack" in build.objective(config).keywords:
    _try_attack("attack", block(config, "attack"), soft=True)
  _try_attack("evaluation.attack", block(config.evaluation, "attack"), soft=False)
  _try_objective(config)


def _check_keys(config: Any) -> None:
  """Looks for keys that nobody reads, and for those that are missing."""
  base = presets.base()
  durations = {f"{stem}_{unit}" for stem in ("total", "evaluate", "save", "log") for unit in UNITS}
  required = set(base) - durations
  check_options("", config, required | durations | set(OPTIONAL))
  for key in sorted(required - set(config)):
    raise ConfigError(f"the config has no {key!r}: begin with jax_robust.presets.base()")
  for name in presets.PLAIN_BLOCKS:
    check_options(name, config[name], base[name].keys())
    for key in sorted(set(base[name]) - set(config[name])):
      raise ConfigError(f"the config has no '{name}.{key}': begin with jax_robust.presets.base()")
  check_options("ema", config.ema, keywords(optim.ema_update))


def _try_attack(name: str, options: dict[str, Any], *, soft: bool) -> None:
  """Traces an attack on a linear net: what it refuses, it refuses now."""
  x = jnp.zeros((2, 2, 2, 1))
  targets = jnp.full((2, _CLASSES), 1 / _CLASSES) if soft else jnp.zeros((2,), jnp.int32)
  with from_config(name):
    attack = build.attack(options)
    jax.eval_shape(
      lambda keys: attack(lambda x: x.reshape(2, -1)[:, :_CLASSES], x, targets, keys),
      jax.random.split(jax.random.key(0)),
    )


def _try_objective(config: Any) -> None:
  """Traces the objective on a linear net: what it refuses, it refuses now."""
  batch = {"image": jnp.zeros((2, 2, 2, 1)), "target": jnp.full((2, _CLASSES), 1 / _CLASSES)}

  def apply_fn(params, model_state, x, *, train):
    return x.reshape(len(x), -1) @ params, model_state

  with from_config("objective"):
    jax.eval_shape(
      lambda params, keys: build.objective(config)(
        apply_fn, params, {}, batch, keys, Progress(0, 0.0)
      ),
      jnp.zeros((4, _CLASSES)), jax.random.split(jax.random.key(0)),
    )  # fmt: skip
