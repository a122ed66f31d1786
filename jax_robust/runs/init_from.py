"""Weights of other programs: what the file says completes the config, and logits are held to it.

A state dict of PyTorch fits a net by names and shapes; whether it means the same depends on
padding, activation and normalisation. What the file and its layout tell is written into
`config.model`, so that `config.json` has it; what they don't is asked for, or found by
`config.init_check`.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust import config as config_lib
from jax_robust import models
from jax_robust.data import named
from jax_robust.errors import ConfigError
from jax_robust.models import convert, layouts, normalization
from jax_robust.runs import build, state_dicts, weights, workdir
from jax_robust.runs.blocks import from_config
from jax_robust.train.metrics import report

TOLERANCE = 1e-4
"""By how much logits may differ from those of `init_check`, relative to the largest of these."""


def complete(config: Any, folder: pathlib.Path) -> Any:
  """The config with what a PyTorch file of `init_from` says of the model; itself for other weights.

  A workdir that has checkpoints needs the file no more: its own config says the rest.

  Args:
    config: of a job.
    folder: the workdir.

  Raises:
    ConfigError: the file is of no layout that is known, or may be of several; `config.model` says
      otherwise, or leaves open what only it can say; the logits are not those of `init_check`.
  """
  reference = config.get("init_from")
  if not isinstance(reference, str) or not hasattr(config.get("model"), "items"):
    return config  # `check.check` says what is wrong
  if not reference or reference == named.MADE:
    if config.get("init_check"):
      raise ConfigError("init_check is for weights from elsewhere: set init_from, too")
    return _without_layout(config)
  file = weights.file_of(reference)
  if (folder / "checkpoints").exists() and not file.exists():
    return _as_stored(config, folder)
  if file.is_dir() and not config.get("init_check"):
    return _without_layout(config)
  arrays = weights.read_weights(reference)
  if layouts.is_torch(arrays) and (folder / "checkpoints").exists():
    return _as_stored(config, folder)
  if layouts.is_torch(arrays):
    return _complete(config, state_dicts.identify(config, arrays, convert.read_metadata(file)))
  config = _without_layout(config)
  if config.get("init_check"):
    _report(config, _deviation(config, arrays, *_read_check(config.init_check)))
  return config


def _without_layout(config: Any) -> Any:
  """The config, whose weights are ours; raises ConfigError where it speaks of a layout."""
  if config.get("init_layout") or config.model.get("name") == layouts.FROM_WEIGHTS:
    raise ConfigError(
      f"init_from={config.init_from!r} is no PyTorch state dict, which init_layout and "
      f"model.name={layouts.FROM_WEIGHTS!r} are for: name the model, or a file of such"
    )
  return config


def _as_stored(config: Any, folder: pathlib.Path) -> Any:
  """The config with the fields of the model that the workdir's own has, for the same file."""
  stored = workdir.read_config(folder)
  if stored["init_from"] != config.init_from:
    return config
  if config.model.get("name") == layouts.FROM_WEIGHTS:
    return _with_model(config, stored["model"])
  return _with_model(config, {**stored["model"], **config.model})


def _complete(config: Any, found: layouts.Found) -> Any:
  """The config of a state dict, with every field of the model that its logits depend on."""
  if config.model.get("name") == layouts.FROM_WEIGHTS:
    net = models.MODELS[found.fields["name"]]
    known = {field.name for field in dataclasses.fields(net)}
    kept = {key: value for key, value in config.model.items() if key in known - {"name"}}
    config = _with_model(config, {**kept, **found.fields})
  state_dicts.check_agrees(config, found)
  config = _with_model(config, {**config.model, **found.fields})
  lacking = [key for key in found.open if key not in config.model]
  if not config.get("init_check"):
    if lacking:
      raise ConfigError(state_dicts.ask(config, found, lacking))
    return _with_constants(config)
  return _held_to_logits(config, found, lacking)


def _held_to_logits(config: Any, found: layouts.Found, lacking: list[str]) -> Any:
  """The only one of the possible configs whose logits are those of `init_check`."""
  images, logits = _read_check(config.init_check)
  good, deviations = [], {}
  for choice in _choices(config, found, lacking):
    each = _with_constants(_with_model(config, {**config.model, **choice}))
    deviation = _deviation(each, state_dicts.as_ours(each, found), images, logits)
    shown = ", ".join(f"{key}={value}" for key, value in choice.items()) or "the config"
    deviations[shown] = deviation
    if deviation <= TOLERANCE:
      good.append((shown, each, deviation))
  if not good:
    _refuse(config, deviations)
  if len(good) > 1:
    raise ConfigError(
      f"init_check={config.init_check!r} can't tell {' from '.join(g[0] for g in good)}: more, or "
      "other images would"
    )
  _report(config, good[0][2])
  return good[0][1]


def _choices(config: Any, found: layouts.Found, lacking: list[str]) -> Iterator[dict[str, Any]]:
  """Every way to fill the fields that are lacking."""
  options = [[{key: v} for v in found.open[key]] for key in lacking if found.open[key]]
  if "mean" in lacking or "std" in lacking:
    usual = dict.fromkeys(
      (normalization.constants(config.data.name), ((0.0,), (1.0,)), ((0.5,), (0.5,)))
    )
    pairs = ({"mean": mean, "std": std} for mean, std in usual)
    options.append([{key: pair[key] for key in pair if key in lacking} for pair in pairs])
  for each in itertools.product(*options):
    yield {key: value for part in each for key, value in part.items()}


def _with_model(config: Any, model: Mapping[str, Any]) -> Any:
  """The config with another block `model`."""
  return config_lib.from_data({**config_lib.to_data(config), "model": dict(model)})


def _with_constants(config: Any) -> Any:
  """The config with the normalisation said, where it was left to the data set."""
  mean, std = normalization.constants(config.data.name)
  return _with_model(config, {"mean": mean, "std": std, **config.model})


def _read_check(path: str) -> tuple[np.ndarray, np.ndarray]:
  """The images `[n, h, w, c]` in [0, 1] and the logits `[n, k]` of an npz file.

  Raises:
    ConfigError: it has none, or what it has can't be such.
  """
  with from_config("init_check"):
    if not pathlib.Path(path).is_file():
      raise ConfigError(f"init_check={path!r}: there is no such file")
    arrays = convert.load_arrays(path)
    if lacking := sorted({"images", "logits"} - arrays.keys()):
      raise ValueError(f"{path} has no {' and no '.join(map(repr, lacking))}: it needs both")
    images, logits = arrays["images"], np.asarray(arrays["logits"], np.float32)
    if images.dtype == np.uint8:
      images = images.astype(np.float32) / 255
    if images.ndim == 4 and images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
      images = images.transpose(0, 2, 3, 1)  # PyTorch's order
    if images.ndim != 4 or logits.ndim != 2 or not 0 < len(images) == len(logits):
      raise ValueError(
        f"{path} has images {arrays['images'].shape} and logits {logits.shape}: expected [n, h, w, "
        "c] or [n, c, h, w], and [n, k]"
      )
    if not (np.isfinite(logits).all() and np.abs(logits).max() > 0):
      raise ValueError(f"{path}: the logits are all zero, NaN or infinite, and could tell nothing")
    if not (np.min(images) >= 0 and np.max(images) <= 1):
      raise ValueError(f"{path}: the images are not in [0, 1]: save them before any normalisation")
  return np.asarray(images, np.float32), logits


def _deviation(
  config: Any, arrays: Mapping[str, np.ndarray], images: np.ndarray, logits: np.ndarray
) -> float:
  """The largest difference of our logits from those given, relative to the largest of these."""
  net = build.model(config, logits.shape[1])
  params, model_state = weights.fit(dict(arrays), net, images.shape[1:], name=config.init_from)
  with jax.default_matmul_precision("highest"):
    ours = jax.jit(lambda v, x: net.apply(v, x, train=False))(
      {"params": params, **model_state}, jnp.asarray(images)
    )
  ours = np.asarray(ours[-1] if isinstance(ours, tuple) else ours)
  return float(np.abs(ours - logits).max() / np.abs(logits).max())


def _report(config: Any, deviation: float) -> None:
  """Says that the check was met, or raises ConfigError."""
  if not deviation <= TOLERANCE:
    _refuse(config, {"the config": deviation})
  report(f"init_from: the logits are those of init_check, to {deviation:.1e} of the largest")


def _refuse(config: Any, deviations: Mapping[str, float]) -> None:
  """Raises the error for logits that are others, with how far off each choice was."""
  shown = "; ".join(f"{name}: {value:.2g}" for name, value in deviations.items())
  raise ConfigError(
    f"init_from={config.init_from!r} does not give the logits of init_check={config.init_check!r}: "
    f"off by more than {TOLERANCE:g} of the largest ({shown}). The net that made them normalises, "
    "pads or activates otherwise, or the images are others"
  )
