"""The comparison job: several trainings that differ in a few blocks, evaluated side by side."""

from typing import Any

import jax

from jax_robust.config import ConfigError
from jax_robust.evaluate import report
from jax_robust.jobs import evaluate, generate, workdir
from jax_robust.jobs.train import train


def compare(config: Any, folder: str) -> dict[str, Any]:
  """Trains each of config.runs (blocks that replace the config's), evaluates all, draws one picture."""
  if not config.get("runs"):
    raise ConfigError("config.runs is empty: the job 'compare' needs runs, as {name: {block: …}}")
  with workdir.claimed(folder) as path:
    workdir.write_identity(path, config)
    shards = config.generated.path
    if config.get("generate") and not shards:
      shards = str(path / "generated")
      generate.write_shards(config, shards)
    measured = {}
    for name in config.runs:
      run = run_config(config, name, shards)
      place = path / "runs" / name
      if train(run, str(place))["preempted"]:
        return {"preempted": True}
      measured[name] = evaluate.evaluate_weights(run, place)
    result = {
      **next(iter(measured.values())).result,
      "runs": {name: each.result for name, each in measured.items()},
    }
    workdir.write_result(path, "compare", result)
    if jax.process_index() == 0:
      evaluate.draw(path / "results" / "compare.png", config, measured)
      print(report.table([evaluate.row_of(name, each) for name, each in measured.items()]))
      print(f"numbers: {path / 'results' / 'compare.json'}")
      print(f"picture: {path / 'results' / 'compare.png'}")
    return result


def run_config(config: Any, name: str, shards: str) -> Any:
  """The config of one run: the whole one, with the blocks that the run replaces."""
  run = config.copy_and_resolve_references()
  with run.unlocked(), run.ignore_type():
    run.job = "train"
    run.generated.path = shards
    for key, value in config.runs[name].items():
      if key not in config:
        raise ConfigError(f"runs.{name}.{key}: the config has no block of that name to replace")
      run[key] = value
    del run["runs"]
    if "generate" in run:
      del run["generate"]
    if run.batch.original_share == 1:
      run.generated.path = ""
  return run
