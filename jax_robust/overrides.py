"""Changes to a config, by keys with dots: as typed on the command line, or as values of Python."""

import functools
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jax_robust.config import UNITS, ConfigDict, flatten, parse_value, tuples
from jax_robust.errors import ConfigError, near_miss, shown

NAMED_NONE = ("augment.smoothing_scope", "generated.verify")
"""Keys that have a value called none; `none` removes the others."""

MOVED = {"evaluation.attack": "evals.robust.attack", "tensorboard": "trackers"}
"""Keys and blocks of earlier versions, and what they are called now."""

Known = Callable[[tuple[str, ...]], Mapping[str, inspect.Parameter]]
"""`("attack",) -> {keyword: parameter}`: what the function takes whose keywords a block holds."""


def override(
  config: ConfigDict,
  key: str,
  text: str,
  known: Known = lambda place: {},
) -> None:
  """Sets `a.b.c` to what was typed, read as a value of the type of the present one.

  A duration may be given in another unit than the config's: `total_steps` replaces `total_epochs`.
  A key that the config lacks may be set if it is known, and is removed by `none`, after which its
  function's own default holds.

  Args:
    config: is changed.
    key: with dots.
    text: what was typed.
    known: the keys that each block may have besides its present ones.

  Raises:
    ConfigError: an unknown key, with the near miss, or a value of another type.
  """
  is_none = text.strip().lower() == "none" and key not in NAMED_NONE
  _set(config, key, functools.partial(parse_value, text), known, remove=is_none)


def change(
  config: ConfigDict,
  changes: Mapping[str, Any],
  known: Known = lambda place: {},
) -> None:
  """Sets keys with dots to values of Python: what `override` does for what was typed.

  Text is read as if typed where something else than text is expected, so that '8/255' is a number;
  None removes a key that its function can do without; a dictionary takes the place of a block.

  Args:
    config: is changed.
    changes: the values by key, such as `{"attack.eps": 8 / 255, "ema": {"decay": 0.9}}`.
    known: as that of `override`.

  Raises:
    ConfigError: an unknown key, with the near miss, or text that is no such value.
  """

  def read(value: Any, current: Any, key: str) -> Any:
    return parse_value(value, current, key) if isinstance(value, str) else value

  for key in _in_order(changes):
    value = tuples(changes[key])
    if isinstance(value, dict) and isinstance(config.get(key), ConfigDict):
      del config[key]  # else what it does not name would stay
      config[key] = value
    else:
      _set(config, key, functools.partial(read, value), known, remove=value is None)


def override_all(
  config: ConfigDict, typed: Mapping[str, str], known: Known = lambda place: {}
) -> None:
  """`override` of several keys, in an order in which each is known when its turn comes.

  Args:
    config, known: as those of `override`.
    typed: what was typed, by key.
  """
  for key in _in_order(typed):
    override(config, key, typed[key], known)


def _in_order(keys: Iterable[str]) -> list[str]:
  """What names a block's function goes first: the block's other keys are that function's."""
  names = (".name", ".norm", ".method", ".evaluator", ".backend")
  return sorted(keys, key=lambda key: not key.endswith(names))


def _set(
  config: ConfigDict,
  key: str,
  read: Callable[[Any, str], Any],
  known: Known,
  *,
  remove: bool,
) -> None:
  """Sets `a.b.c` to `read(current, key)`, or removes it where that can be done without."""
  for old, new in MOVED.items():
    if f"{key}.".startswith(f"{old}."):
      raise ConfigError(f"config key {key!r} is now {new + key.removeprefix(old)!r}")
  *parents, name = key.split(".")
  block = config
  for i, parent in enumerate(parents):
    if not isinstance(block.get(parent), ConfigDict):
      where = ".".join(parents[: i + 1])
      if parent in block:
        raise ConfigError(
          f"config key {shown(where)} is a value, not a block: it has no {shown(name)}"
        )
      optional = known(tuple(parents[:i])).get(parent)
      if optional is None or optional.annotation is not dict:
        raise _unknown(config, parents[: i + 1], {*block, *known(tuple(parents[:i]))})
      with block.unlocked():
        block[parent] = {}
    block = block[parent]
  place = tuple(parents)
  present = block.get(name)
  if remove and _remove(block, key, known(place)):
    return
  if isinstance(present, ConfigDict):
    keys = ", ".join(f"{key}.{each}" for each in present)
    raise ConfigError(f"config key {shown(key)} is a block: change one of {keys}")
  if name in block:
    value = read(present, key)
  else:
    stem, _, unit = name.rpartition("_")
    siblings = [f"{stem}_{other}" for other in UNITS if f"{stem}_{other}" in block]
    if unit in UNITS and siblings:
      value = read(0.0, key)
      del block[siblings[0]]
    elif name in known(place):
      value = read(_example(known(place)[name]), key)
    else:
      raise _unknown(config, [*parents, name], {*block, *known(place)})
  with block.unlocked(), block.ignore_type():
    block[name] = value


def _remove(block: ConfigDict, key: str, known: Mapping[str, Any]) -> bool:
  """Removes a key whose function does without, or never knew; whether `none` means that here."""
  name = key.rpartition(".")[2]
  parameter = known.get(name)
  if parameter is None and ("." not in key or not known or name not in block):
    return False
  if parameter is not None and parameter.default is parameter.empty:
    raise ConfigError(f"{key}=none: it can't be removed, since its block needs it")
  if name in block:
    with block.unlocked():
      del block[name]
  return True


def _example(parameter: inspect.Parameter) -> Any:
  """A value of the type that a keyword takes; None where several will do."""
  if isinstance(parameter.default, (bool, int, float, str, tuple)):
    kind = type(parameter.default)
    return kind() if parameter.annotation is not float else 0.0
  alternatives = (parameter.annotation, *typing.get_args(parameter.annotation))
  if any(typing.get_origin(each) in (Sequence, tuple) for each in alternatives):
    return ()
  kinds = [each for each in (bool, int, float, str) if parameter.annotation is each]
  return kinds[0]() if kinds else None


def _unknown(config, names: list[str], known: set[str]) -> ConfigError:
  """What to say of a key that its block lacks: the near miss there, or where else there is one."""
  *parents, name = names
  where = ".".join([*parents, ""])
  hint = near_miss(name, known)
  if not parents and "expected one of" in hint:
    elsewhere = [key for key in flatten(config) if key.endswith(f".{name}")]
    hint = f": did you mean {elsewhere[0]!r}?" if elsewhere else hint
  hint = hint.replace("did you mean '", f"did you mean '{where}")
  return ConfigError(f"unknown config key {shown(where + name)}{hint}")
