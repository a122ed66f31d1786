"""The sweep job: a training for every cell of a grid of values, evaluated, in one table."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jax_robust import bars, job_table, jobs, paths
from jax_robust import config as config_lib
from jax_robust.errors import ConfigError
from jax_robust.evaluate import intervals, sweep_plots, tables
from jax_robust.runs import check as config_check
from jax_robust.runs import grid, identity, pieces, workdir
from jax_robust.runs.blocks import check_name
from jax_robust.train import metrics
from jax_robust.train.loop import NonFiniteError

CELLS = "cells"
"""The folder of a workdir in which each cell has one of its own."""

THEN = ("evaluate", "autoattack", "certify")
"""Jobs that may follow the training of a cell."""

DEFAULTS = job_table.JOBS["sweep"].defaults

_DONE = "cell"  # the result that says that a cell is finished


def sweep(config: Any, path: pathlib.Path) -> dict[str, Any]:
  """Trains and evaluates every cell of config.sweep.grid, or a share of them; one table of all.

  A cell is a run of its own in `cells/`, which goes on after a kill. Several starts with shares of
  their own (`sweep.shard`) may work in one workdir at once. A training that ends in NaN or infinity
  is noted, and the others go on.
  """
  share, num_shares = pieces.read_share("sweep.shard", config.sweep.shard)
  cells = all_cells(config)[share::num_shares]
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
  """Of all that a cell's numbers depend on: not of where data lie, nor of other jobs' blocks."""
  changing = {name: job.may_change for name, job in job_table.JOBS.items()}
  read = {key for name in ("train", *then) for key in changing[name]}
  unread = {key for keys in changing.values() for key in keys} - read
  flat = config_lib.flatten(config)
  kept = {
    key: value
    for key, value in flat.items()
    if not key.startswith(("data_dir", "imports_from", *unread))
  }
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


def all_cells(config: Any) -> list[grid.Cell]:
  """The cells of the baseline, and those of the grid."""
  baseline = _baseline(config)
  return baseline + [cell for cell in grid.read_grid(config.sweep.grid) if cell not in baseline]


def _baseline(config: Any) -> list[grid.Cell]:
  """The cells that the others are compared with."""
  options = config.sweep
  return grid.read_baseline(options.baseline, options.grid, options.over)


def write_results(config: Any, path: pathlib.Path) -> dict[str, Any]:
  """Writes `results/sweep.json` and `sweep.png` of the cells that are finished, and a table."""
  options, rows, missing = config.sweep, {}, []
  for cell in all_cells(config):
    found = _finished(path / CELLS / cell.name, _digest(cell_config(config, cell), options.then))
    if not found:
      missing.append(cell.name)
      continue
    changes = cell.row(options.over)
    row = rows.setdefault(changes, {"changes": dict(changes), "cells": {}, "failed": {}})
    row["cells"][cell.changes.get(options.over)] = found["numbers"]
    if found["failed"]:
      row["failed"][cell.name] = found["failed"]
  baseline = next((cell.row(options.over) for cell in _baseline(config)), None)
  compared = rows[baseline]["cells"] if baseline in rows else {}
  halves = _half_widths([row["cells"] for row in rows.values()], compared)
  rows = [
    _finish_row(row, compared, halves, is_baseline=changes == baseline)
    for changes, row in rows.items()
  ]
  result = {
    "grid": options.grid,
    "baseline": options.baseline,
    "over": options.over,
    "complete": not missing,
    "missing": missing,
    "rows": rows,
    "best": _best(rows),
  }
  workdir.write_result(path, "sweep", result)
  if jax.process_index() == 0:
    _show(path, result)
  return result


_Numbers = Mapping[str, Sequence[float]]
"""What a cell found by name, each with its interval over images."""


def _finish_row(
  row: Mapping[str, Any],
  baseline: Mapping[Any, _Numbers],
  halves: Mapping[str, float],
  *,
  is_baseline: bool,
) -> dict[str, Any]:
  """The row of a table: means, and gains over the cells of the baseline, if there are any."""
  cells = row["cells"]
  return {
    **row, "cells": len(cells), "is_baseline": is_baseline, "means": _means([*cells.values()]),
    "gains": {} if is_baseline else _gains(cells, baseline, halves),
  }  # fmt: skip


def _means(cells: Sequence[_Numbers]) -> dict[str, Any]:
  """Mean, standard deviation and 95 % interval of each number; cells that failed have none.

  Of several cells it is Student's interval; of one, that over its images.
  """
  means: dict[str, Any] = {}
  for name in dict.fromkeys(name for cell in cells for name in cell):
    each = np.array([cell[name] for cell in cells if name in cell])
    means[name] = _mean(each[:, 0], each[0].tolist())
  return means


def _half_widths(
  rows: Sequence[Mapping[Any, _Numbers]], baseline: Mapping[Any, _Numbers]
) -> dict[str, float]:
  """By number, half the interval of a gain, of the rows that have it for each of several seeds."""
  halves = {}
  for name in dict.fromkeys(name for cell in baseline.values() for name in cell):
    seeds = [seed for seed, cell in baseline.items() if name in cell]
    whole = [row for row in rows if all(name in row.get(seed, {}) for seed in seeds)]
    if min(len(whole), len(seeds)) > 1:
      values = np.array([[row[seed][name][0] for seed in seeds] for row in whole])
      halves[name] = intervals.block_half_width(values)
  return halves


def _gains(
  cells: Mapping[Any, _Numbers], baseline: Mapping[Any, _Numbers], halves: Mapping[str, float]
) -> dict[str, Any]:
  """The differences of each cell to that of the baseline with the same seed.

  A row that lacks a seed has Student's interval. Of one pair there is none: that of the images is
  of no use, as both saw the same ones.
  """
  gains: dict[str, Any] = {}
  for name in dict.fromkeys(name for cell in cells.values() for name in cell):
    pairs = [(cells.get(seed, {}), cell) for seed, cell in baseline.items() if name in cell]
    both = [(ours[name][0], theirs[name][0]) for ours, theirs in pairs if name in ours]
    if both:
      differences = np.array([ours - theirs for ours, theirs in both])
      gains[name] = gain = _mean(differences, [float(differences[0]), None, None])
      if len(both) == len(pairs) and name in halves:
        gain |= {"low": gain["value"] - halves[name], "high": gain["value"] + halves[name]}
  return gains


def _mean(values: np.ndarray, alone: Sequence[float | None]) -> dict[str, Any]:
  """The mean of values with Student's interval; of a single one the value and interval given."""
  several = len(values) > 1
  value, low, high = intervals.student_interval(values) if several else alone
  deviation = float(values.std(ddof=1)) if several else None
  return {"value": value, "low": low, "high": high, "sd": deviation, "values": values.tolist()}


def _best(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """For each number the row that gains most over the baseline, and its gain."""
  names = dict.fromkeys(name for row in rows for name in row["gains"])
  best = {}
  for name in names:
    row = max(
      (row for row in rows if name in row["gains"]), key=lambda row: row["gains"][name]["value"]
    )
    best[name] = {"changes": row["changes"], "gain": row["gains"][name]}
  return best


def _show(path: pathlib.Path, result: Mapping[str, Any]) -> None:
  """Prints the table and draws the picture of what there is."""
  rows = [row for row in result["rows"] if row["means"]]
  names = list(dict.fromkeys(name for row in rows for name in row["means"]))
  shown = _shown_changes(result["rows"])
  keys = dict.fromkeys(key for changes in shown for key in changes)
  table = [
    {**{key: changes.get(key, "") for key in keys}, "cells": str(row["cells"]),
     **{name: _said(row["means"].get(name), row["gains"].get(name)) for name in names}}
    for changes, row in zip(shown, result["rows"], strict=True)
  ]  # fmt: skip
  if table:
    print(tables.markdown_table(table))
  for row in result["rows"]:
    for name, error in row["failed"].items():
      print(f"failed: {name}: {error}")
  for name, best in result["best"].items():
    told = ", ".join(f"{key}={text}" for key, text in best["changes"].items())
    print(f"best gain of {name}: {_said_gain(best['gain'])} by {told or 'the config as it is'}")
  if result["missing"]:
    missing = result["missing"]
    print(f"cells that are not finished: {len(missing)}, the first: {missing[0]}")
  print(f"numbers: {path / 'results' / 'sweep.json'}")
  if rows:
    _draw(path / "results" / "sweep.png", shown, result)
    print(f"picture: {path / 'results' / 'sweep.png'}")


def _draw(
  picture: pathlib.Path, shown: Sequence[Mapping[str, str]], result: Mapping[str, Any]
) -> None:
  """Draws the means of the rows, and the baseline as a line of its own.

  With a baseline, the bars are those of the gains: one beside the line is a gain or a loss.
  """
  base = next((row["means"] for row in result["rows"] if row["is_baseline"]), {})
  points, baseline = [], None
  for changes, row in zip(shown, result["rows"], strict=True):
    values = {name: _bar(name, row, base) for name in row["means"]}
    point = sweep_plots.Point(changes, values)
    if row["is_baseline"]:
      baseline = point
    elif values:
      points.append(point)
  sweep_plots.draw_sweep(picture, points, over=result["over"], baseline=baseline)


def _bar(
  name: str, row: Mapping[str, Any], base: Mapping[str, Mapping[str, Any]]
) -> intervals.Interval:
  """The mean of a row, with its interval or that of its gain over the baseline's mean, if any."""
  mean, gain = row["means"][name], row["gains"].get(name)
  if not gain:
    return intervals.Interval(mean["value"], mean["low"], mean["high"])
  if gain["low"] is None:
    return intervals.Interval(mean["value"], np.nan, np.nan)
  low, high = (base[name]["value"] + gain[bound] for bound in ("low", "high"))
  return intervals.Interval(mean["value"], min(low, mean["value"]), max(high, mean["value"]))


def _shown_changes(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
  """The changes of each row, paths without the parts that all values of their key share."""
  by_key: dict[str, dict[str, None]] = {}
  for row in rows:
    for key, text in row["changes"].items():
      by_key.setdefault(key, {})[text] = None
  short = {key: paths.without_common_parts(texts) for key, texts in by_key.items()}
  return [{key: short[key][text] for key, text in row["changes"].items()} for row in rows]


def _said(mean: Mapping[str, Any] | None, gain: Mapping[str, Any] | None = None) -> str:
  """A mean with the standard deviation over seeds, if there are several, and the gain.

  >>> _said({"value": 0.512, "sd": 0.0041}), _said({"value": 0.5, "sd": None}), _said(None)
  ('0.5120 ± 0.0041', '0.5000', '')
  >>> _said({"value": 0.512, "sd": None}, {"value": 0.012, "low": None})
  '0.5120 (+0.0120)'
  """
  if mean is None:
    return ""
  said = f"{mean['value']:.4f}" + (f" ± {mean['sd']:.4f}" if mean["sd"] is not None else "")
  return said + (f" ({gain['value']:+.4f})" if gain else "")


def _said_gain(gain: Mapping[str, Any]) -> str:
  """A gain with its interval, if there is one.

  >>> _said_gain({"value": 0.01, "low": -0.02, "high": 0.04})
  '+0.0100 [-0.0200, +0.0400]'
  """
  if gain["low"] is None:
    return f"{gain['value']:+.4f}"
  return f"{gain['value']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"


def cell_config(config: Any, cell: grid.Cell) -> Any:
  """The config of a cell's training; see `grid.cell_config`."""
  return grid.cell_config(config, cell, DEFAULTS)


def check(config: Any) -> None:
  """Raises ConfigError where a cell could not be trained, or a job can't follow."""
  pieces.read_share("sweep.shard", config.sweep.shard)
  for job in config.sweep.then:
    check_name("sweep.then", job, THEN)
  cells = all_cells(config)
  if config.sweep.over and config.sweep.over not in cells[-1].changes:
    over = config.sweep.over
    if over != DEFAULTS["over"]:
      raise ConfigError(f"config.sweep.over={over!r} is no key of the grid: take one, or none")
  for cell in cells:
    try:
      config_check.check(cell_config(config, cell))
    except ConfigError as error:
      raise ConfigError(f"the cell {cell.name} of config.sweep.grid: {error}") from error
