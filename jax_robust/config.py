"""Configs: what every run has, how a file is found, and how a value is read.

A config is data only, so that the `config.json` of a workdir reproduces its run. A block is the
keyword arguments of one function; a key that the function does not know is an error on start.
"""

import fractions
import functools
import importlib.util
import json
import math
import operator
import os
import pathlib
import runpy
import traceback
from collections.abc import Mapping
from typing import Any

from jax_robust import paths, plugins
from jax_robust.errors import ConfigError, brought_by, near_miss, near_path, shown

with brought_by("train"):
  from ml_collections import ConfigDict

UNITS = ("steps", "epochs", "examples")


def parse_arg(arg: str, **defaults: Any) -> ConfigDict:
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
  values = ConfigDict({"smoke": False, **defaults})
  for item in paths.split_list(arg, "the config's argument"):
    name, equals, text = item.partition("=")
    if name not in values:
      raise ConfigError(f"unknown config argument {shown(name)}{near_miss(name, values)}")
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
      if paths.is_listed(name):
        return paths.split_list(text, name)
      return tuple(_guess(item) for item in text.strip("()[] ").split(",") if item.strip())
  except (ValueError, KeyError, ArithmeticError) as error:
    if isinstance(error, ConfigError):
      raise
    kind = type(current).__name__
    raise ConfigError(
      f"{name}={shown(text)}: expected a value of type {kind}, as {shown(current)}"
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
    except (ValueError, ArithmeticError):
      continue
  return text.strip("'\"")


def load(reference: str) -> ConfigDict:
  """Loads `file[:arg]`: a Python file, a `config.json`, or the name of a config that ships with us.

  The modules that it names in `imports` are imported; those of a Python file may lie beside it.

  Raises:
    ConfigError: there is no such file, with the near miss, or it gives no config, or names a module
      that can't be imported.
  """
  found = paths.split_argument(reference)
  if found is None:
    name, _, arg = reference.partition(":")
    found = str(_shipped(name, reference)), arg
  path, arg = pathlib.Path(found[0]), found[1]
  if path.suffix == ".json":
    config = _load_json(path, arg)
    plugins.load(config)
    return config
  plugins.search(path.parent)
  try:
    config = runpy.run_path(str(path))["get_config"](arg)
  except ConfigError:
    raise
  except (Exception, SystemExit) as error:
    raise ConfigError(_where(error, path)) from error
  if not isinstance(config, ConfigDict):
    raise ConfigError(f"{path}: get_config returned {type(config).__name__}, expected a ConfigDict")
  plugins.load(config)
  if plugins.are_in(path.parent, config.get("imports") or ()):
    config.imports_from = str(path.resolve().parent)
  return config


def _load_json(path: pathlib.Path, arg: str) -> ConfigDict:
  """Reads the `config.json` of an earlier run."""
  if arg:
    raise ConfigError(f"{path} takes no argument, but {arg!r} is given: change values by key")
  return read_json(path)


_MOST_LEVELS = 20  # of nesting; ours have five


def read_json(path: pathlib.Path) -> ConfigDict:
  """Reads a config from a JSON file; lists become tuples.

  Raises:
    ConfigError: it is no JSON, or none that `to_data` could have written: a key twice, a NaN, lists
      of blocks of lists without end.
  """
  try:
    data = json.loads(
      path.read_text(encoding="utf-8"), object_pairs_hook=_once_each, parse_constant=_no_nan
    )
    levels = _levels(data)
  except RecursionError:
    levels, data = math.inf, {}
  except (ValueError, OSError) as error:
    raise ConfigError(f"{path} is no JSON file: {error}") from error
  if levels > _MOST_LEVELS:
    raise ConfigError(f"{path} is no config: it is nested more than {_MOST_LEVELS} levels deep")
  if not isinstance(data, dict):
    raise ConfigError(f"{path} holds a {type(data).__name__}, expected a config")
  try:
    return from_data(data)
  except (ValueError, AttributeError) as error:  # keys that ConfigDict does not take
    raise ConfigError(f"{path} is no config: {error}") from error


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """A JSON object, in which a key that stands twice would hide a value."""
  found = dict(pairs)
  if len(found) < len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise ValueError(f"the key {shown(twice)} stands there twice")
  return found


def _no_nan(text: str) -> float:
  """JSON's `Infinity` as a number."""
  if text == "NaN":
    raise ValueError("NaN is no value of a config")
  return float(text)


def _levels(data: Any) -> int:
  """How deeply lists and blocks are nested, as far as it matters."""
  level, here = 0, [data] if isinstance(data, (dict, list)) else []
  while here and level <= _MOST_LEVELS:
    inner = (each.values() if isinstance(each, dict) else each for each in here)
    here = [value for each in inner for value in each if isinstance(value, (dict, list))]
    level += 1
  return level


def _where(error: BaseException, path: pathlib.Path) -> str:
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


def from_data(data: Mapping[str, Any]) -> ConfigDict:
  """A config of what `to_data` made; lists become tuples again."""
  return ConfigDict(tuples(data))


def tuples(data: Any) -> Any:
  """Data with tuples in place of lists, as configs have them."""
  if isinstance(data, Mapping):
    return {key: tuples(value) for key, value in data.items()}
  return tuple(map(tuples, data)) if isinstance(data, list) else data


def shipped() -> dict[str, pathlib.Path]:
  """The configs of the installed package, by name."""
  spec = importlib.util.find_spec("jax_robust.configs")
  folders = list(spec.submodule_search_locations or ()) if spec else []
  beside = pathlib.Path(__file__).resolve().parent.parent / "configs"
  paths = (path for folder in [*folders, beside] for path in pathlib.Path(folder).glob("*.py"))
  return {path.stem: path for path in sorted(paths) if path.stem != "__init__"}


def _shipped(name: str, reference: str) -> pathlib.Path:
  """The config that ships with us and that a reference means by its name."""
  path, known = pathlib.Path(paths.expand(name)), shipped()
  stem = path.name.removesuffix(".py")
  # `configs/x.py` means the shipped x where there is no checkout around.
  if stem in known and str(path.parent) in (".", "configs"):
    return known[stem]
  whole = pathlib.Path(paths.expand(reference))
  if os.path.isfile(os.path.join(whole, "config.json")):
    raise ConfigError(f"{reference} is a folder: did you mean {str(whole / 'config.json')!r}?")
  hint = near_path(whole) or near_path(path) or near_miss(stem, known)
  raise ConfigError(f"no config file {shown(name)}{hint}")


def with_paths(config: ConfigDict) -> ConfigDict:
  """The config with the `~` of its paths replaced; itself where there is nothing to replace.

  Raises:
    ConfigError: a path that is nothing but blanks, or too long for any file.
  """
  changed, flat = {}, flatten(config)
  for key, value in flat.items():
    in_run = key.split(".", 2)[-1] if key.startswith("runs.") else key
    if isinstance(value, str) and in_run in paths.KEYS:
      if (value and not value.strip()) or "\0" in value:
        raise ConfigError(f"{key}={shown(value)}: expected a path")
      _check_length(key, value)
      changed[key] = paths.expand(value)
    elif isinstance(value, (tuple, list)) and paths.is_listed(in_run):
      for each in value:
        _check_length(key, str(each))
      changed[key] = tuple(paths.expand_item(v) if isinstance(v, str) else v for v in value)
  if all(value == flat[key] for key, value in changed.items()):
    return config
  config = config.copy_and_resolve_references()
  for key, value in changed.items():
    *parents, name = key.split(".")
    block = functools.reduce(operator.getitem, parents, config)
    with block.unlocked(), block.ignore_type():
      block[name] = value
  return config


def _check_length(key: str, path: str) -> None:
  """Raises ConfigError where no file can be called so, which any look at the disk would raise."""
  if paths.is_too_long(path):
    raise ConfigError(f"{key}={shown(path)}: no file has so long a name")


def check_block(key: str, value: Any) -> None:
  """Raises ConfigError where something else stands in place of a block of keys."""
  if not isinstance(value, (Mapping, ConfigDict)):
    raise ConfigError(f"config key {key!r} is {shown(value)}: expected a block of keys")


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


def flatten(config: Mapping[str, Any] | ConfigDict, prefix: str = "") -> dict[str, Any]:
  """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, (Mapping, ConfigDict)):
      flat |= flatten(value, f"{prefix}{key}.")
    else:
      flat[f"{prefix}{key}"] = value
  return flat


def to_data(config: Any) -> Any:
  """Plain dictionaries, lists, strings and numbers, as JSON has them.

  Raises:
    ConfigError: something that is not data.
  """
  if isinstance(config, (Mapping, ConfigDict)):
    return {str(key): to_data(value) for key, value in config.items()}
  if isinstance(config, (tuple, list)):
    return [to_data(value) for value in config]
  if config is None or isinstance(config, (bool, int, float, str)):
    return config
  raise ConfigError(f"a config holds data only, not {config!r}")
