"""The job that sends a run to its trackers: what they lack of its metrics, and all its results."""

import pathlib
from typing import Any

from jax_robust.errors import ConfigError, WorkdirError
from jax_robust.runs import workdir
from jax_robust.runs.tracking import Trackers
from jax_robust.train import metrics

SECONDS = 600.0
"""How long to wait until all is sent."""


def check(config: Any) -> None:
  """Raises ConfigError where there is nothing to send to."""
  if not config.trackers:
    raise ConfigError("config.trackers is empty: name trackers to send to, as mlflow,wandb")


def track(config: Any, path: pathlib.Path, trackers: Trackers) -> dict[str, Any]:
  """Sends the metrics and results of a run to `config.trackers`, as far as they are not there."""
  file = path / "metrics.jsonl"
  rows = metrics.read_metrics(file) if file.exists() else []
  trackers.write(rows)
  results = sorted((path / "results").glob("*.json"))
  for each in results:
    trackers.write_result(each.stem, workdir.read_note(each))
  trackers.write_result("pictures", {}, sorted((path / "results").glob("*.png")))
  trackers.close(finished=True, seconds=SECONDS)
  if trackers.failures:
    raise WorkdirError("\n".join(trackers.failures))
  metrics.report(f"{len(rows)} rows and {len(results)} results are at {', '.join(config.trackers)}")
  return {"rows": len(rows), "results": [each.stem for each in results]}
