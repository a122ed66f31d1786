"""A block of a config is the keyword arguments of one function: read, checked and bound here."""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jax_robust.errors import ConfigError, DataFileError, near_miss


def block(config: Mapping[str, Any], name: str) -> dict[str, Any]:
  """One block of a config as keyword arguments."""
  value = config.get(name, {})
  return dict(value.to_dict() if hasattr(value, "to_dict") else value)


@contextlib.contextmanager
def from_config(name: str) -> Iterator[None]:
  """Makes what a function says about its arguments a complaint about that block of the config."""
  try:
    yield
  except (ConfigError, DataFileError):
    raise
  except (TypeError, ValueError) as error:
    raise ConfigError(f"config.{name}: {error}") from error


def call(
  name: str, function: Callable, *args: Any, options: Mapping[str, Any], **bound: Any
) -> Any:
  """Calls `function(*args, **options, **bound)`, where `options` is the block `name`.

  Raises:
    ConfigError: an option that the function does not know, with the near miss, or does not accept.
  """
  parameters = inspect.signature(function).parameters.values()
  keywords = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}
  check_options(name, options, keywords - bound.keys())
  with from_config(name):
    return function(*args, **options, **bound)


def check_options(name: str, options: Iterable[str], known: Iterable[str]) -> None:
  """Raises ConfigError, with the near miss, for an unknown key of a block ("" is the config)."""
  for option in options:
    if option not in known:
      key = f"{name}.{option}" if name else option
      raise ConfigError(f"unknown config key {key!r}{near_miss(option, known)}")


def check_name(key: str, name: Any, known: Iterable[str]) -> None:
  """Raises ConfigError, with the near miss, unless the value of a config key is a known name."""
  if name not in known:
    raise ConfigError(f"config.{key}={name!r}{near_miss(name, known)}")


def read_piece(key: str, text: str) -> tuple[int, int]:
  """Reads `3/16`, piece 3 of sixteen, counted from 0.

  Raises:
    ConfigError: it is something else; `key` is that of the config.

  >>> read_piece("autoattack.shard", "3/16")
  (3, 16)
  """
  try:
    piece, num_pieces = map(int, text.split("/"))
  except ValueError:
    piece, num_pieces = 0, 0
  if not 0 <= piece < num_pieces:
    raise ConfigError(f"{key}={text!r}: expected I/N with 0 <= I < N, such as 3/16")
  return piece, num_pieces
