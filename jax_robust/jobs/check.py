"""Mistakes in a config, found before data are read and anything is compiled."""

from typing import Any

import jax
import jax.numpy as jnp

from jax_robust.config import ConfigError
from jax_robust.jobs import build
from jax_robust.jobs.blocks import block, check_name, from_config
from jax_robust.train import checkpoint, parallel

MEASURED = ("clean", "robust")
"""What the evaluation during training measures, and `config.select` may name."""

_CLASSES = 3


def check(config: Any) -> None:
  """Builds what can be built without data, and looks up every name.

  Raises:
    ConfigError: a misspelt name or key, with the near miss, or a value that its function refuses.
  """
  if len(config.select) != 2:
    raise ConfigError(f"config.select={config.select!r}: expected a metric and 'max' or 'min'")
  check_name("select", config.select[0], MEASURED)
  check_name("select", config.select[1], ("max", "min"))
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
