"""The curves job: what trainings measured from one evaluation to the next, as a picture."""

import pathlib
from typing import Any

import jax

from jax_robust import paths
from jax_robust.errors import ConfigError
from jax_robust.evaluate import training_plots
from jax_robust.runs import workdir
from jax_robust.train import metrics


def curves(config: Any, path: pathlib.Path) -> dict[str, Any]:
  """Draws a run's accuracies, weights and features by epoch, beside those of other runs.

  The others are `curves.runs`, as `NAME=WORKDIR,...`. The picture is `results/curves.png`.
  """
  folders = {_name(path): path, **_others(config)}
  if len(folders) <= len(config.curves.runs):
    raise ConfigError(
      f"curves.runs: one is called {_name(path)!r}, as this run: write NAME=WORKDIR"
    )
  runs, kinds = {}, {}
  for name, folder in folders.items():
    run, theirs = _read(folder)
    runs[name] = run
    kinds |= theirs
  place = path / "results" / "curves.png"
  result = {
    "runs": {name: str(folder) for name, folder in folders.items()},
    "alarms": {name: _alarms(run) for name, run in runs.items()},
  }
  if jax.process_index() == 0:
    workdir.write_result(path, "curves", result)
    try:
      training_plots.draw_trainings(place, runs, kinds)
    except ValueError as error:
      raise ConfigError(f"{error}: see presets.exit_evals and presets.depth_evals") from error
    print(f"picture: {place}")
  return result


def _name(path: pathlib.Path) -> str:
  return paths.run_name(str(path.absolute()))


def _others(config) -> dict[str, pathlib.Path]:
  """The runs that the config names.

  Raises:
    ConfigError: two have one name.
  """
  found: dict[str, pathlib.Path] = {}
  for entry in config.curves.runs:
    name, folder = paths.split_name(entry)
    name = name or _name(pathlib.Path(folder))
    if name in found:
      raise ConfigError(f"curves.runs: two runs are called {name!r}: write NAME=WORKDIR")
    found[name] = pathlib.Path(folder)
  return found


def _read(folder: pathlib.Path) -> tuple[training_plots.Run, dict[str, str]]:
  """The rows of a run, and the evaluators of its entries of `evals`.

  Raises:
    WorkdirError: it is no run.
    ConfigError: it has no metrics yet.
  """
  workdir.check_is_run(folder)
  config, file = workdir.read_config(folder), folder / "metrics.jsonl"
  if not file.is_file():
    raise ConfigError(f"{folder} has no metrics.jsonl: train first")
  kinds = {name: entry.get("evaluator", "") for name, entry in config["evals"].items()}
  size = config.get("epoch_size", 0) or _num_train(folder)
  steps = size / config["batch"]["size"] if size else None
  return training_plots.Run(metrics.read_metrics(file), steps), kinds


def _num_train(folder: pathlib.Path) -> int:
  """How many images a run trains on, as noted; 0 in one of an earlier version."""
  note = folder / workdir.DATA
  return int(workdir.read_note(note).get("num_train", 0)) if note.is_file() else 0


def _alarms(run: training_plots.Run) -> list[dict[str, Any]]:
  """The rows of alarms."""
  return [dict(row) for row in run.rows if row.get("kind") == "alarm"]
