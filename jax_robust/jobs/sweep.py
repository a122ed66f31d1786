"""The sweep job: a training for every cell of a grid of values, evaluated, in one table."""

import functools
import hashlib
import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_robust import bars, job_table, jobs, overrides, paths
from jax_robust import config as config_lib
from jax_robust.errors import ConfigError, shown
from jax_robust.evaluate import intervals, sweep_plots, tables
from jax_robust.runs import check as config_check
from jax_robust.runs import identity, keys, pieces, workdir
from jax_robust.runs.blocks import check_name
from jax_robust.train import metrics
from jax_robust.train.loop import NonFiniteError

CELLS = "cells"
"""The folder of a workdir in which each cell has one of its own."""

THEN = ("evaluate", "autoattack", "certify")
"""Jobs that may follow the training of a cell."""

DEFAULTS = job_table.JOBS["sweep"].defaults

_DONE = "cell"  # the result that says that a cell is finished


class Cell(NamedTuple):
  """A training of a grid.

  Attributes:
    name: of its folder.
    changes: what was typed for each key.
  """

  name: str
  changes: dict[str, str]


def sweep(config: Any, path: pathlib.Path) -> dict[str, Any]:
  """Trains and evaluates every cell of config.sweep.grid, or a share of them; one table of all.

  A cell is a run of its own in `cells/`, which goes on after a kill. Several starts with shares of
  their own (`sweep.shard`) may work in one workdir at once. A training that ends in NaN or infinity
  is noted, and the others go on.
  """
  share, num_shares = pieces.read_share("sweep.shard", config.sweep.shard)
  cells = read_grid(config.sweep.grid)[share::num_shares]
  for cell in bars.counted(cells, "cells", len(cells), unit="cells"):
    if not _run(cell_config(config, cell), path / CELLS / cell.name, config.sweep.then):
      return {"preempted": True}
  return write_results(config, path)


def _run(config: Any, place: pathlib.Path, then: Sequence[str]) -> bool:
  """Trains and evaluates a cell, unless it is finished; whether it was not told to stop."""
  belongs_to = _digest(config, then)
  if _finished(place, belongs_to):
    return True
  metrics.report(f"cell {place.name}")
  found: dict[str, Any] = {"numbers": {}, "failed": ""}
  try:
    if jobs.run(config, place)["preempted"]:
      return False
    for job in then:
      found["numbers"] |= _numbers_of(job, jobs.run(_with_job(config, job), place))
  except NonFiniteError as error:
    metrics.report(f"cell {place.name} has failed: {error}")
    found = {"numbers": {}, "failed": str(error)}
  workdir.write_result(place, _DONE, {"belongs_to": belongs_to, **found})
  return True


def _finished(place: pathlib.Path, belongs_to: str) -> Mapping[str, Any]:
  """What a cell has found, if it is finished and of this config; or nothing."""
  file = place / "results" / f"{_DONE}.json"
  found = workdir.read_note(file) if file.is_file() else {}
  return found if found.get("belongs_to") == belongs_to else {}


def _digest(config: Any, then: Sequence[str]) -> str:
  """Of all that the numbers of a cell depend on."""
  flat = config_lib.flatten(config)
  kept = {key: value for key, value in flat.items() if key not in ("data_dir", "imports_from")}
  return identity.digest({"config": config_lib.to_data(kept), "then": list(then)})


def _with_job(config: Any, job: str) -> Any:
  """The config of another job on a cell."""
  config = config.copy_and_resolve_references()
  config.job = job
  return config


def _numbers_of(job: str, result: Mapping[str, Any]) -> dict[str, list[float]]:
  """The numbers of a job's result that the table has, each with its interval over images."""
  if job == "evaluate":
    return {name: [result[name], *result[f"{name}_interval"]] for name in result["evals"]}
  if job == "autoattack":
    return {job: [result["robust"], *result["robust_interval"]]}
  averages = {
    f"acr {name.removeprefix('certify_')}": each["average_certified_radius"]
    for name, each in result.items()
    if each["complete"]
  }
  return {name: [each[key] for key in ("value", "low", "high")] for name, each in averages.items()}


def write_results(config: Any, path: pathlib.Path) -> dict[str, Any]:
  """Writes `results/sweep.json` and `sweep.png` of the cells that are finished, and a table."""
  cells, rows, missing = read_grid(config.sweep.grid), {}, []
  for cell in cells:
    found = _finished(
      path / CELLS / cell.name, _digest(cell_config(config, cell), config.sweep.then)
    )
    if not found:
      missing.append(cell.name)
      continue
    changes = {key: text for key, text in cell.changes.items() if key != config.sweep.over}
    row = rows.setdefault(tuple(changes.items()), {"changes": changes, "cells": [], "failed": {}})
    row["cells"].append(found["numbers"])
    if found["failed"]:
      row["failed"][cell.name] = found["failed"]
  result = {
    "grid": config.sweep.grid,
    "over": config.sweep.over,
    "complete": not missing,
    "missing": missing,
    "rows": [{**row, "cells": len(row["cells"]), **_means(row["cells"])} for row in rows.values()],
  }
  workdir.write_result(path, "sweep", result)
  if jax.process_index() == 0:
    _show(path, result)
  return result


def _means(cells: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Any]:
  """Mean, standard deviation and 95 % interval of each number; cells that failed have none.

  Of several cells it is Student's interval; of one, that over its images.
  """
  means: dict[str, Any] = {}
  for name in dict.fromkeys(name for cell in cells for name in cell):
    each = np.array([cell[name] for cell in cells if name in cell])
    values, several = each[:, 0], len(each) > 1
    interval = intervals.student_interval(values) if several else intervals.Interval(*each[0])
    deviation = float(values.std(ddof=1)) if several else None
    means[name] = {**interval._asdict(), "sd": deviation, "values": values.tolist()}
  return {"means": means}


def _show(path: pathlib.Path, result: Mapping[str, Any]) -> None:
  """Prints the table and draws the picture of what there is."""
  rows = [row for row in result["rows"] if row["means"]]
  names = list(dict.fromkeys(name for row in rows for name in row["means"]))
  table = [
    {**row["changes"], "cells": str(row["cells"]),
     **{name: _said(row["means"].get(name)) for name in names}}
    for row in result["rows"]
  ]  # fmt: skip
  if table:
    print(tables.markdown_table(table))
  for row in result["rows"]:
    for name, error in row["failed"].items():
      print(f"failed: {name}: {error}")
  if result["missing"]:
    print(f"{len(result['missing'])} cells are not finished, the first: {result['missing'][0]}")
  print(f"numbers: {path / 'results' / 'sweep.json'}")
  if rows:
    points = [
      sweep_plots.Point(
        row["changes"],
        {
          name: intervals.Interval(each["value"], each["low"], each["high"])
          for name, each in row["means"].items()
        },
      )
      for row in rows
    ]
    sweep_plots.draw_sweep(path / "results" / "sweep.png", points, over=result["over"])
    print(f"picture: {path / 'results' / 'sweep.png'}")


def _said(mean: Mapping[str, Any] | None) -> str:
  """A mean with the standard deviation over seeds, if there are several.

  >>> _said({"value": 0.512, "sd": 0.0041}), _said({"value": 0.5, "sd": None}), _said(None)
  ('0.5120 ± 0.0041', '0.5000', '')
  """
  if mean is None:
    return ""
  return f"{mean['value']:.4f}" + (f" ± {mean['sd']:.4f}" if mean["sd"] is not None else "")


def read_grid(text: str) -> list[Cell]:
  """The cells of a grid, in the order of its values, the last key's varying first.

  Args:
    text: `KEY=VALUE,VALUE;KEY=VALUE,...`, of the config's keys, with the values as typed.

  Raises:
    ConfigError: no key, a key without a value, or one twice.

  >>> [cell.name for cell in read_grid("seed=0,1; objective.beta=1,6")][:2]
  ['seed=0,objective.beta=1', 'seed=0,objective.beta=6']
  """
  values: dict[str, tuple[str, ...]] = {}
  for part in filter(str.strip, text.split(";")):
    key, _, listed = part.strip().partition("=")
    key, found = key.strip(), paths.split_list(listed, "sweep.grid")
    if not found:
      raise ConfigError(f"config.sweep.grid: {shown(part)} has no value: write KEY=VALUE,VALUE")
    if key in values or len({*found}) < len(found):
      raise ConfigError(f"config.sweep.grid: {shown(part)} has a key or a value twice: keep one")
    values[key] = found
  if not values:
    raise ConfigError("config.sweep.grid is empty: write KEY=VALUE,VALUE;KEY=..., as seed=0,1,2")
  cells = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
  return [Cell(_name_of(changes), changes) for changes in cells]


def _name_of(changes: Mapping[str, str]) -> str:
  """The name of a cell's folder; with a checksum where its values are no names of files."""
  whole = ",".join(f"{key}={text}" for key, text in changes.items())
  name = re.sub(r"[^\w.=,+-]", "_", whole)[:150]
  return name if name == whole else f"{name}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def cell_config(config: Any, cell: Cell) -> Any:
  """The config of a cell's training.

  Raises:
    ConfigError: an unknown key, with the near miss, or a value of another type.
  """
  run = config.copy_and_resolve_references()
  with run.unlocked():
    run.job = "train"
    run.sweep = dict(DEFAULTS)
  overrides.override_all(run, cell.changes, functools.partial(keys.known, run))
  return run


def check(config: Any) -> None:
  """Raises ConfigError where a cell could not be trained, or a job can't follow."""
  pieces.read_share("sweep.shard", config.sweep.shard)
  for job in config.sweep.then:
    check_name("sweep.then", job, THEN)
  cells = read_grid(config.sweep.grid)
  if config.sweep.over and config.sweep.over not in cells[0].changes:
    over = config.sweep.over
    if over != DEFAULTS["over"]:
      raise ConfigError(f"config.sweep.over={over!r} is no key of the grid: take one, or none")
  for cell in cells:
    try:
      config_check.check(cell_config(config, cell))
    except ConfigError as error:
      raise ConfigError(f"the cell {cell.name} of config.sweep.grid: {error}") from error
