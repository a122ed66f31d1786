"""Code of others, which adds attacks, methods, models, data sets or jobs when it is imported.

A plug-in is a module that puts its functions into our tables. A config names it in `imports`, and
so does every `config.json`; that of an installed package needs no naming where the package has an
entry point of the group `jax_robust.plugins`.
"""

import functools
import importlib
import importlib.metadata
import os
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

from jax_robust.errors import ConfigError

GROUP = "jax_robust.plugins"
"""The group of entry points; the value of each is a module."""


def search(folder: str | os.PathLike) -> None:
  """Lets modules of this folder be imported, after all others of the same name."""
  folder = str(pathlib.Path(folder).resolve())
  if folder not in sys.path:
    sys.path.append(folder)


def load(config: Any) -> None:
  """Imports the plug-ins of installed packages, and those that a config names in `imports`.

  They are looked for where Python finds modules, and then in the folder `imports_from`.

  Raises:
    ConfigError: one can't be imported, with the remedy; `imports` is no list of names.
  """
  _load_installed()
  names = config.get("imports") or ()
  if isinstance(names, str) or not all(isinstance(name, str) for name in names):
    raise ConfigError(f"config.imports={names!r}: expected a list of modules, such as ('mine',)")
  if config.get("imports_from"):
    search(config["imports_from"])
  for name in names:
    try:
      importlib.import_module(name)
    except Exception as error:
      missing = isinstance(error, ModuleNotFoundError) and error.name in _parents(name)
      remedy = ": install it, or put its folder on PYTHONPATH" if missing else ""
      raise ConfigError(
        f"config.imports: {name!r} can't be imported ({type(error).__name__}: {error}){remedy}"
      ) from error


def are_in(folder: str | os.PathLike, names: Iterable[str]) -> bool:
  """Whether one of these modules, which are imported, lies in this folder."""
  folder = pathlib.Path(folder).resolve()
  files = (getattr(sys.modules.get(name), "__file__", None) for name in names)
  return any(folder in pathlib.Path(file).resolve().parents for file in files if file)


def _parents(name: str) -> list[str]:
  """A module and the packages that it is in: `a.b` and `a`."""
  parts = name.split(".")
  return [".".join(parts[: i + 1]) for i in range(len(parts))]


@functools.cache
def _load_installed() -> None:
  """Imports what installed packages announce, once.

  Raises:
    ConfigError: one fails.
  """
  for point in importlib.metadata.entry_points(group=GROUP):
    try:
      point.load()
    except Exception as error:
      package = point.dist.name if point.dist else point.value
      raise ConfigError(
        f"the plug-in {point.name!r} of the installed package {package} can't be imported "
        f"({type(error).__name__}: {error}): mend or uninstall that package"
      ) from error
