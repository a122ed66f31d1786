"""Grids of config values: the cells of a sweep, and the baseline that they are compared with."""

import functools
import hashlib
import itertools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from jax_robust import overrides, paths
from jax_robust.errors import ConfigError, shown
from jax_robust.runs import keys

Changes = Mapping[str, str]
"""What was typed for each key."""


class Cell(NamedTuple):
  """A training of a grid.

  Attributes:
    name: of its folder.
    changes: what was typed for each key.
  """

  name: str
  changes: Changes

  def row(self, over: str) -> tuple[tuple[str, str], ...]:
    """What it has in common with the cells that differ in the key `over` alone."""
    return tuple((key, text) for key, text in self.changes.items() if key != over)


def read_grid(text: str) -> list[Cell]:
  """The cells of a grid, in the order of its values, the last key's varying first.

  Args:
    text: `KEY=VALUE,VALUE;KEY=VALUE,...`, of the config's keys, with the values as typed.

  Raises:
    ConfigError: no key, a key without a value, or one twice.

  >>> [cell.name for cell in read_grid("seed=0,1; objective.beta=1,6")][:2]
  ['seed=0,objective.beta=1', 'seed=0,objective.beta=6']
  """
  values = _read_values(text, "sweep.grid")
  if not values:
    raise ConfigError("config.sweep.grid is empty: write KEY=VALUE,VALUE;KEY=..., as seed=0,1,2")
  return _product(values)


def read_baseline(text: str, grid: str, over: str) -> list[Cell]:
  """The cells that the rows of a grid are compared with: one for each value of the key `over`.

  Args:
    text: `KEY=VALUE;KEY=VALUE`; empty for none.
    grid: as `read_grid` takes it.
    over: the key over which means are taken.

  Raises:
    ConfigError: a key with several values, without one, or the key `over`.

  >>> [cell.name for cell in read_baseline("batch.original_share=1", "seed=0,1", "seed")]
  ['seed=0,batch.original_share=1', 'seed=1,batch.original_share=1']
  """
  values = _read_values(text, "sweep.baseline")
  if not values:
    return []
  for key, found in values.items():
    if len(found) > 1 or key == over:
      raise ConfigError(
        f"config.sweep.baseline: {key}={','.join(found)}: write KEY=VALUE;KEY=VALUE, one value each"
        + (f", and leave out {over!r}, over which means are taken" if key == over else "")
      )
  of_grid = _read_values(grid, "sweep.grid")
  if over in of_grid:
    values[over] = of_grid[over]
  in_order = sorted(values, key=[*of_grid, *values].index)  # so that a cell of both is one
  return _product({key: values[key] for key in in_order})


def cell_config(config: Any, cell: Cell, defaults: Mapping[str, Any]) -> Any:
  """The config of a cell's training.

  Args:
    config: of the sweep.
    cell: what it changes.
    defaults: of the block `sweep`, which a cell does not have.

  Raises:
    ConfigError: an unknown key, with the near miss, or a value of another type.
  """
  run = config.copy_and_resolve_references()
  with run.unlocked():
    run.job = "train"
    run.sweep = dict(defaults)
  overrides.override_all(run, cell.changes, functools.partial(keys.known, run))
  return run


def _read_values(text: str, name: str) -> dict[str, tuple[str, ...]]:
  """The values of each key."""
  values: dict[str, tuple[str, ...]] = {}
  for part in filter(str.strip, text.split(";")):
    key, _, listed = part.strip().partition("=")
    key, found = key.strip(), paths.split_list(listed, name)
    if not found:
      raise ConfigError(f"config.{name}: {shown(part)} has no value: write KEY=VALUE,VALUE")
    if key in values or len({*found}) < len(found):
      raise ConfigError(f"config.{name}: {shown(part)} has a key or a value twice: keep one")
    values[key] = found
  return values


def _product(values: Mapping[str, tuple[str, ...]]) -> list[Cell]:
  """A cell for each combination of values."""
  cells = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
  return [Cell(_name_of(changes), changes) for changes in cells]


def _name_of(changes: Changes) -> str:
  """The name of a cell's folder; with a checksum where its values are no names of files."""
  whole = ",".join(f"{key}={text}" for key, text in changes.items())
  name = re.sub(r"[^\w.=,+-]", "_", whole)[:150]
  return name if name == whole else f"{name}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
