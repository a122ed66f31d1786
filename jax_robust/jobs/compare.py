"""The comparison job: several trainings that differ in a few blocks, evaluated side by side."""

import pathlib
from typing import Any

import jax

from jax_robust import jobs
from jax_robust.errors import ConfigError, check_options
from jax_robust.evaluate import tables
from jax_robust.jobs import evaluate, generate
from jax_robust.runs import check, workdir
from jax_robust.runs.nets import open_model
from jax_robust.runs.training import make_training


def compare(config: Any, path: pathlib.Path) -> dict[str, Any]:
  """Trains each of config.runs, whose blocks replace the config's; evaluates them in one table."""
  shards = config.generated.path
  if config.get("generate") and not shards:
    generate.generate(config, path)
    shards = str(path / generate.SHARDS)
  # The run that changes nothing is what the others are compared with, and the headline.
  names = sorted(config.runs, key=lambda name: len(config.runs[name]))
  runs = {name: run_config(config, name, shards) for name in names}
  trainings = {name: make_training(run) for name, run in runs.items()}
  measured = {}
  for name, run in runs.items():
    place = path / "runs" / name
    if jobs.run(run, place, training=trainings[name])["preempted"]:
      return {"preempted": True}
    measured[name] = evaluate.measure(run, open_model(run, place))
  result = {
    **next(iter(measured.values())).result,
    "runs": {name: each.result for name, each in measured.items()},
  }
  if jax.process_index() == 0:  # first what can't fail for want of memory or disk
    print(tables.markdown_table([evaluate.row_of(name, each) for name, each in measured.items()]))
  workdir.write_result(path, "compare", result)
  if jax.process_index() == 0:
    print(f"numbers: {path / 'results' / 'compare.json'}")
    evaluate.draw(path / "results" / "compare.png", measured)
    print(f"picture: {path / 'results' / 'compare.png'}")
  return result


def check_runs(config: Any) -> None:
  """Raises ConfigError where there is no run, or one that could not be trained."""
  if not config.get("runs"):
    raise ConfigError("config.runs is empty: the job 'compare' needs runs, as {name: {block: …}}")
  for name in config.runs:
    check.check(run_config(config, name, config.generated.path or generate.SHARDS))


def run_config(config: Any, name: str, shards: str) -> Any:
  """The config of one run: the whole one, with what the run changes.

  A block with a name is another function's and replaces the config's; the keys of a block without
  one are changed one by one.
  """
  run = config.copy_and_resolve_references()
  with run.unlocked(), run.ignore_type():
    run.job = "train"
    run.generated.path = shards
    for key, value in config.runs[name].items():
      _change(run, key, value, where=f"runs.{name}")
    del run["runs"]
    if "generate" in run:
      del run["generate"]
    if run.batch.original_share == 1:
      run.generated.path = ""
  return run


def _change(block: Any, key: str, value: Any, *, where: str) -> None:
  """Sets a key of a block that is there, going into a block that keeps its function."""
  check_options(where, [key], block.keys())
  if hasattr(value, "items") and "name" not in value:
    for inner, each in value.items():
      _change(block[key], inner, each, where=f"{where}.{key}")
  else:
    block[key] = value
