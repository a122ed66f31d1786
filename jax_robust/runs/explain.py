"""What `--explain` prints: the keys of a config, their values, and what docstrings say of them."""

import inspect
import re
import textwrap
from collections.abc import Mapping
from typing import Any

from jax_robust import config as config_lib
from jax_robust.errors import ConfigError, near_miss, shown
from jax_robust.runs import keys
from jax_robust.runs.key_docs import DURATIONS, PLAIN
from jax_robust.trackers import TRACKERS

_WIDTH, _LEFT, _VALUE = 100, 36, 24  # columns: of all, of key and value, of a value
_ITEM = re.compile(r"  ((?:\*{0,2}[\w.]+)(?:, [\w.]+)*): (.*)")
_SECTIONS = ("Args:", "Attributes:")


def explain(config: Any, key: str = "") -> str:
  """What a key of a config means, or each key of a block, or all keys.

  Args:
    config: whose values are told.
    key: with dots, of a value or of a block; '' for all keys.

  Raises:
    ConfigError: there is no such key, with the near miss.
  """
  places = every_key(config)
  if key in places:
    return "\n".join(_whole(key, places[key], config))
  members = [each for each in places if each.startswith(f"{key}.")] if key else list(places)
  if not members:
    block, dot, _ = key.rpartition(".")
    beside = {each for each in places if dot and each.startswith(f"{block}.")}
    known = beside or {each.partition(".")[0] for each in places}
    raise ConfigError(f"unknown config key {shown(key)}{near_miss(key, known)}")
  lines = (_line(each, places[each], meaning(config, each)) for each in members)
  return "\n".join([*lines, "", "--explain=KEY tells more of one, and of the keys of a block"])


def every_key(config: Any) -> dict[str, Any]:
  """The values of all keys that a config has or may have; of those it lacks, their defaults."""
  found = config_lib.flatten(config)
  blocks = {tuple(key.split(".")[:-1]) for key in found} | {(name,) for name in config}
  blocks |= {("tracking", name) for name in TRACKERS}
  for place in blocks - {()}:
    for name, each in keys.known(config, place).items():
      if each.annotation is not dict:
        default = None if each.default is each.empty else each.default
        found.setdefault(".".join([*place, name]), default)
  return dict(sorted(found.items()))


def meaning(config: Any, key: str) -> str:
  """What a key means, as a sentence or more; '' where nothing tells."""
  if key in PLAIN:
    return PLAIN[key]
  if key.startswith("runs."):  # changes of the runs of the job `compare`
    return meaning(config, key.split(".", 2)[-1])
  *place, name = key.split(".")
  within = ".".join(place)
  stem, _, unit = name.rpartition("_")
  if unit in config_lib.UNITS:
    if not place:
      return f"{DURATIONS[stem]}, in {unit}"
    if unit != "steps" and (told := meaning(config, f"{within}.{stem}_steps")):
      return f"{told} (here in {unit})"
  if place and name in ("name", "method", "evaluator"):
    return f"which function the other keys of {within} are for"
  for source in keys.sources(config, tuple(place)):
    told = arguments(inspect.getdoc(source) or "")
    if name in told:
      return told[name]
  return meaning(config, within) if place else ""  # an item of an option that is a block


def arguments(docstring: str) -> dict[str, str]:
  """What a docstring says of each argument or attribute.

  >>> arguments("Does it.\\n\\nArgs:\\n  x, y: a number,\\n    or two.\\n\\nReturns:\\n  z: no.")
  {'x': 'a number, or two.', 'y': 'a number, or two.'}
  """
  found: dict[str, list[str]] = {}
  inside, names = False, []
  for line in docstring.split("\n"):
    if line and not line.startswith(" "):
      inside, names = line.startswith(_SECTIONS), []
    elif inside and (item := _ITEM.fullmatch(line)):
      names = [name.strip("*") for name in item[1].split(", ")]
      found |= {name: [item[2]] for name in names}
    elif inside and line.startswith("    "):
      for name in names:
        found[name].append(line.strip())
  return {name: " ".join(lines) for name, lines in found.items()}


def _line(key: str, value: Any, text: str) -> str:
  """A key, its value, and the beginning of what it means."""
  shown_value = _shown(value)
  if len(shown_value) > _VALUE:
    shown_value = f"{shown_value[: _VALUE - 1]}…"
  left = f"{key} = {shown_value}".ljust(_LEFT)
  return f"{left}  {textwrap.shorten(text, _WIDTH - len(left) - 2, placeholder=' …')}".rstrip()


def _whole(key: str, value: Any, config: Any) -> list[str]:
  """A key, its type and value, and all that is told of it."""
  place, name = tuple(key.split(".")[:-1]), key.rpartition(".")[2]
  parameter = keys.known(config, place).get(name)
  kind = keys.say(parameter.annotation if parameter else keys.kind_of(key, value))
  lines = [f"{key} = {_shown(value)}   ({kind})"]
  if key not in config_lib.flatten(config):
    lines.append("  not in this config: the function's default holds")
  told = meaning(config, key) or "nothing is told of it"
  lines += textwrap.wrap(told, _WIDTH, initial_indent="  ", subsequent_indent="  ")
  names = [_name(source) for source in keys.sources(config, place)]
  return [*lines, f"  of: {', '.join(names)}"] if names and key not in PLAIN else lines


def _name(source: Any) -> str:
  """Where a function is from, as Python imports it."""
  return ".".join(filter(None, (getattr(source, "__module__", ""), source.__name__)))


def _shown(value: Any) -> str:
  """A value as it may be typed."""
  if isinstance(value, Mapping):
    return "{…}"
  if isinstance(value, (tuple, list)):
    return ",".join(map(str, value)) or "()"
  return "none" if value is None else repr(value) if value == "" else str(value)
