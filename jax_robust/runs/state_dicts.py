"""PyTorch state dicts as the weights of the net that a config describes."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust.errors import ConfigError
from jax_robust.models import convert, layouts
from jax_robust.runs import build
from jax_robust.runs.blocks import from_config


def identify(
  config: Any, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> layouts.Found:
  """What the state dict of `config.init_from` is; the layout may be named by `config.init_layout`.

  Raises:
    ConfigError: it is none that is known, or may be several.
  """
  with from_config("init_from"):
    try:
      return layouts.identify(arrays, layout=config.get("init_layout", ""), metadata=metadata)
    except ValueError as error:
      raise ValueError(f"{config.init_from}: {error}") from error


def check_agrees(config: Any, found: layouts.Found) -> None:
  """Raises ConfigError where `config.model` says otherwise than the file and its layout."""
  wrong = {
    key: value
    for key, value in found.fields.items()
    if key in config.model and not layouts.is_same(config.model[key], value)
  }
  if wrong:
    here = ", ".join(f"{key}={config.model[key]!r}" for key in wrong)
    there = ", ".join(f"{key}={value!r}" for key, value in wrong.items())
    raise ConfigError(
      f"init_from={config.init_from!r} is in the layout {found.layout!r} "
      f"({layouts.LAYOUTS[found.layout].about}) and has {there}, but config.model has {here}: set "
      f"them so, or --config.model.name={layouts.FROM_WEIGHTS}"
    )


def check_complete(config: Any, found: layouts.Found) -> None:
  """Raises ConfigError where `config.model` lacks what names and shapes don't tell."""
  lacking = [key for key in (*found.fields, *found.open) if key not in config.model]
  if lacking:
    raise ConfigError(ask(config, found, lacking))


def ask(config: Any, found: layouts.Found, lacking: list[str]) -> str:
  """The message that asks for fields which a file does not tell."""
  wanted = []
  for key in lacking:
    values = (found.fields[key],) if key in found.fields else found.open[key]
    wanted.append(f"--config.model.{key}={' or '.join(map(str, values)) or '…'}")
  normalisation = (
    " (mean=0 and std=1 where the PyTorch code takes images in [0, 1] as they are)"
    if "mean" in lacking
    else ""
  )
  return (
    f"init_from={config.init_from!r} is in the layout {found.layout!r} "
    f"({layouts.LAYOUTS[found.layout].about}), whose names and shapes do not tell "
    f"{' and '.join(lacking)}: set {' '.join(wanted)}{normalisation}, or init_check=FILE.npz with "
    "a few `images` and their `logits`, by which they are found"
  )


def as_ours(config: Any, found: layouts.Found) -> dict[str, np.ndarray]:
  """A state dict under our names, for the net of a config that is complete.

  Raises:
    ConfigError: the config says otherwise than the file, or too little; arrays that are missing,
      left over, of another shape, or no weights.
  """
  check_agrees(config, found)
  check_complete(config, found)
  net = build.model(config, found.num_classes)
  image = jnp.zeros((1, 32, 32, found.num_channels))
  shapes = jax.eval_shape(lambda key: net.init(key, image, train=False), jax.random.key(0))
  with from_config("init_from"):
    try:
      variables = convert.from_torch(
        found.arrays, shapes, names=layouts.LAYOUTS[found.layout].names
      )
    except ValueError as error:
      raise ValueError(f"{config.init_from}, in the layout {found.layout!r}: {error}") from error
  return convert.flatten_variables(variables)
