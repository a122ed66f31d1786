"""A block of a config is the keyword arguments of one function: read, checked and bound here."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jax_robust import errors
from jax_robust.attacks.recipes import keywords
from jax_robust.errors import ConfigError, UserError, check_options


def block(config: Mapping[str, Any], name: str) -> dict[str, Any]:
  """One block of a config as keyword arguments."""
  value = config.get(name, {})
  return dict(value.to_dict() if hasattr(value, "to_dict") else value)


@contextlib.contextmanager
def from_config(name: str) -> Iterator[None]:
  """Makes what a function says about its arguments a complaint about that block of the config."""
  try:
    yield
  except UserError:
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
  check_options(name, options, keywords(function) - bound.keys())
  with from_config(name):
    return function(*args, **options, **bound)


def check_name(key: str, name: Any, known: Iterable[str]) -> None:
  """Raises ConfigError, with the near miss, unless the value of a config key is a known name."""
  errors.check_name(f"config.{key}", name, known, error=ConfigError)
