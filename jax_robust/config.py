"""Configs: what every run has, how a file is found, and how the command line changes it.

A config is data only, so that the `config.json` of a workdir reproduces its run. A block is the
keyword arguments of one function; a key that the function does not know is an error on start.
"""

import fractions
import importlib.util
import json
import math
import pathlib
import runpy
import traceback
from collections.abc import Mapping
from typing import Any

import ml_collections

from jax_robust.errors import ConfigError, near_miss, near_path

UNITS = ("steps", "epochs", "examples")

MOVED = {"evaluation.attack": "evals.robust.attack"}
"""Blocks of earlier versions, and what they are called now."""


def parse_arg(arg: str, **defaults: Any) -> ml_collections.ConfigDict:
  """Reads a config's argument, such as `norm=l2,smoke`: a bare name means True.

  Every config takes `smoke`, which `presets.finish` turns into two steps on a tiny net.

  Args:
    arg: comma-separated `name=value` or `name`.
    **defaults: the names that the config knows, each value telling the type.

  Returns:
    The values.

  Raises:
    ConfigError: an unknown name, with the near miss, or a value of another type.

  >>> parse_arg("norm=l2,smoke", norm="linf").norm
  'l2'
  """
  values = ml_collections.ConfigDict({"smoke": False, **defaults})
  for item in filter(None, arg.split(",")):
    name, equals, text = item.partition("=")
    if name not in values:
      raise ConfigError(f"unknown config argument {name!r}{near_miss(name, values)}")
    values[name] = parse_value(text, values[name], name) if equals else True
  return values


def parse_value(text: str, current: Any, name: str) -> Any:
  """Reads a value of the type of the current one; numbers may be fractions.

  >>> parse_value("8/255", 0.1, "eps") == 8 / 255
  True
  """
  try:
    if isinstance(current, bool):
      return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    if isinstance(current, int):
      return int(text)
    if isinstance(current, float):
      return _number(text)
    if isinstance(current, (tuple, list)):
      return tuple(_guess(item) for item in text.strip("()[] ").split(",") if item.strip())
  except (ValueError, KeyError, ZeroDivisionError) as error:
    kind = type(current).__name__
    raise ConfigError(
      f"{name}={text!r}: expected a value of type {kind}, as {current!r}"
    ) from error
  return text if isinstance(current, str) else _guess(text)


def _number(text: str) -> float:
  """A float, written as one or as a fraction; no NaN."""
  value = float(fractions.Fraction(text.strip())) if "/" in text else float(text)
  if math.isnan(value):
    raise ValueError("not a number")
  return value


def _guess(text: str) -> Any:
  """An integer, a number, a truth value, or else the text itself."""
  text = text.strip()
  if text.lower() in ("true", "false", "none"):
    return {"true": True, "false": False, "none": None}[text.lower()]
  for read in (int, _number):
    try:
      return read(text)
    except (ValueError, ZeroDivisionError):
      continue
  return text.strip("'\"")


def load(reference: str) -> ml_collections.ConfigDict:
  """Loads `file[:arg]`: a Python file, a `config.json`, or the name of a config that ships with us.

  Raises:
    ConfigError: there is no such file, with the near miss, or it gives no config.
  """
  path_text, _, arg = reference.partition(":")
  path = _find(path_text)
  if path.suffix == ".json":
    return _load_json(path, arg)
  try:
    config = runpy.run_path(str(path))["get_config"](arg)
  except ConfigError:
    raise
  except Exception as error:
    raise ConfigError(_where(error, path)) from error
  if not isinstance(config, ml_collections.ConfigDict):
    raise ConfigError(f"{path}: get_config returned {type(config).__name__}, expected a ConfigDict")
  return config


def _load_json(path: pathlib.Path, arg: str) -> ml_collections.ConfigDict:
  """Reads the `config.json` of an earlier run."""
  if arg:
    raise ConfigError(f"{path} takes no argument, but {arg!r} is given: change values by key")
  try:
    data = json.loads(path.read_text())
  except ValueError as error:
    raise ConfigError(f"{path} is no JSON file: {error}") from error
  if not isinstance(data, dict):
    raise ConfigError(f"{path} holds a {type(data).__name__}, expected a config")
  return from_data(data)


def _where(error: Exception, path: pathlib.Path) -> str:
  """What went wrong in a config file, and in which line of it."""
  if isinstance(error, KeyError) and error.args == ("get_config",):
    return f"{path} has no function get_config(arg='')"
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename == str(path)
  ]
  line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
  return f"{path}{f', line {line}' if line else ''}: {type(error).__name__}: {error}"


def from_data(data: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """A config of what `to_data` made; lists become tuples again."""
  return ml_collections.ConfigDict(_tuples(data))


def _tuples(data: Any) -> Any:
  """JSON's lists as tuples."""
  if isinstance(data, Mapping):
    return {key: _tuples(value) for key, value in data.items()}
  return tuple(map(_tuples, data)) if isinstance(data, list) else data


def shipped() -> dict[str, pathlib.Path]:
  """The configs of the installed package, by name."""
  spec = importlib.util.find_spec("jax_robust.configs")
  folders = list(spec.submodule_search_locations or ()) if spec else []
  beside = pathlib.Path(__file__).resolve().parent.parent / "configs"
  paths = (path for folder in [*folders, beside] for path in pathlib.Path(folder).glob("*.py"))
  return {path.stem: path for path in sorted(paths) if path.stem != "__init__"}


def _find(text: str) -> pathlib.Path:
  """The file that a reference means."""
  path = pathlib.Path(text)
  if path.is_file():
    return path
  known = shipped()
  # `configs/x.py` means the shipped x where there is no checkout around.
  if path.stem in known and str(path.parent) in (".", "configs"):
    return known[path.stem]
  hint = near_path(path) or near_miss(path.stem, known)
  raise ConfigError(f"no config file {text!r}{hint}")


def override(config: ml_collections.ConfigDict, key: str, text: str) -> None:
  """Sets `a.b.c` to a value read as the type of the present one.

  A duration may be given in another unit than the config's: `total_steps` replaces `total_epochs`.

  Raises:
    ConfigError: an unknown key, with the near miss, or a value of another type.
  """
  for old, new in MOVED.items():
    if key.startswith(f"{old}."):
      raise ConfigError(f"config key {key!r} is now {new + key.removeprefix(old)!r}")
  *parents, name = key.split(".")
  block = config
  for i, parent in enumerate(parents):
    if not isinstance(block.get(parent), ml_collections.ConfigDict):
      where = ".".join(parents[: i + 1])
      if parent in block:
        raise ConfigError(f"config key {where!r} is a value, not a block: it has no {name!r}")
      raise ConfigError(f"unknown config key {where!r}{near_miss(parent, block.keys())}")
    block = block[parent]
  if isinstance(block.get(name), ml_collections.ConfigDict):
    keys = ", ".join(f"{key}.{each}" for each in block[name])
    raise ConfigError(f"config key {key!r} is a block: change one of {keys}")
  if name in block:
    value = parse_value(text, block[name], key)
    with block.ignore_type():
      block[name] = value
    return
  stem, _, unit = name.rpartition("_")
  siblings = [f"{stem}_{other}" for other in UNITS if f"{stem}_{other}" in block]
  if unit not in UNITS or not siblings:
    flat = flatten(config)
    close = near_miss(key, flat) if len(parents) else near_miss(name, config.keys())
    raise ConfigError(f"unknown config key {key!r}{close}")
  value = parse_value(text, 0.0, key)
  del block[siblings[0]]
  block[name] = value


def steps(
  block: Mapping[str, Any], stem: str, *, batch_size: int, epoch_size: int, default: int = 0
) -> int:
  """Resolves a duration given as `{stem}_steps`, `_epochs` or `_examples` to whole steps.

  An epoch is `epoch_size` examples drawn from anywhere. Fractions of a step are cut off.

  Raises:
    ConfigError: more than one unit is given, or a negative duration.

  >>> steps({"total_epochs": 400}, "total", batch_size=1024, epoch_size=50_000)
  19531
  """
  given = [unit for unit in UNITS if f"{stem}_{unit}" in block]
  if not given:
    return default
  if len(given) > 1:
    raise ConfigError(f"{stem} is given as {' and '.join(given)}: keep one")
  value = block[f"{stem}_{given[0]}"]
  if value < 0 or not math.isfinite(value):
    raise ConfigError(f"{stem}_{given[0]}={value}: expected a non-negative number")
  per_step = {"steps": 1.0, "epochs": batch_size / epoch_size, "examples": batch_size}[given[0]]
  # 1e-9: 10 epochs of exactly 100 steps are 1000 steps, whatever the division's last bit says.
  return int(value / per_step + 1e-9)


def flatten(
  config: Mapping[str, Any] | ml_collections.ConfigDict, prefix: str = ""
) -> dict[str, Any]:
  """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, (Mapping, ml_collections.ConfigDict)):
      flat |= flatten(value, f"{prefix}{key}.")
    else:
      flat[f"{prefix}{key}"] = value
  return flat


def to_data(config: Any) -> Any:
  """Plain dictionaries, lists, strings and numbers, as JSON has them.

  Raises:
    ConfigError: something that is not data.
  """
  if isinstance(config, (Mapping, ml_collections.ConfigDict)):
    return {str(key): to_data(value) for key, value in config.items()}
  if isinstance(config, (tuple, list)):
    return [to_data(value) for value in config]
  if config is None or isinstance(config, (bool, int, float, str)):
    return config
  raise ConfigError(f"a config holds data only, not {config!r}")
