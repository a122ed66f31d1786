"""MLflow: a run on a tracking server, or in its local store."""

import os
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jax_robust.errors import brought_by
from jax_robust.types import TrackedRun

_AT_ONCE = 1000
"""Values in one request, the most that a server takes."""

_PARAMS_AT_ONCE = 100

_LONGEST_PARAM = 6000
"""Characters of a value of the config."""

_IMPATIENCE = {
  "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
  "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
"""Where the environment says nothing else. MLflow's own defaults wait four minutes for a server."""


class MLflow:
  """A run of MLflow, with the config as parameters, metrics by step, and pictures as artifacts.

  MLflow's environment variables hold where an option is left out, such as MLFLOW_TRACKING_URI,
  MLFLOW_TRACKING_USERNAME, MLFLOW_EXPERIMENT_NAME and MLFLOW_HTTP_REQUEST_TIMEOUT.

  Args:
    run: the run.
    tracking_uri: address of the server, such as `http://localhost:5000`, or a local store, such as
      `sqlite:////home/me/mlflow.db`; empty for MLFLOW_TRACKING_URI, or else MLflow's own default.
    experiment: MLflow's experiment, made if it is not there; empty for MLFLOW_EXPERIMENT_NAME, or
      else `jax_robust`.
    run_name: MLflow's name of the run; empty for that of the workdir's folder.

  Raises:
    ImportError: MLflow is not installed.
  """

  takes_results = True

  def __init__(
    self, run: TrackedRun, *, tracking_uri: str = "", experiment: str = "", run_name: str = ""
  ):
    with brought_by("mlflow"):
      import mlflow
      from mlflow import entities, exceptions

    for name, value in _IMPATIENCE.items():
      os.environ.setdefault(name, value)
    self._entities, self._error = entities, exceptions.MlflowException
    self._client: Any = mlflow.MlflowClient(tracking_uri or None)
    self._experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "jax_robust"
    self._run, self._name = run, run_name or run.name
    self._last: dict[str, int] = {}

  def start(self) -> Mapping[str, str]:
    """Makes the run, or opens that of an earlier start on the same server."""
    place = {"tracking_uri": self._client.tracking_uri, "experiment": self._experiment}
    earlier = dict(self._run.identity)
    self._id = earlier.pop("run_id", "")
    if self._id and earlier == place:
      self._client.update_run(self._id, status="RUNNING")
      self._last = {
        name: self._last_step(name) for name in self._client.get_run(self._id).data.metrics
      }
    else:
      self._id = self._create()
    return {**place, "run_id": self._id}

  def _last_step(self, name: str) -> int:
    """The newest step that the server has of a metric."""
    return max(each.step for each in self._client.get_metric_history(self._id, name))

  def _create(self) -> str:
    """A new run with the config as its parameters."""
    made = self._client.create_run(self._experiment_id(), run_name=self._name)
    # A server refuses an empty value.
    config = {key: str(value)[:_LONGEST_PARAM] or "''" for key, value in self._run.config.items()}
    params = [self._entities.Param(key, value) for key, value in config.items()]
    for start in range(0, len(params), _PARAMS_AT_ONCE):
      self._client.log_batch(made.info.run_id, params=params[start : start + _PARAMS_AT_ONCE])
    return made.info.run_id

  def _experiment_id(self) -> str:
    """The experiment's number; other runs may be making it at this moment."""
    found = self._client.get_experiment_by_name(self._experiment)
    if found is None:
      try:
        return self._client.create_experiment(self._experiment)
      except self._error:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
          raise
    return found.experiment_id

  def write(self, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    """Sends the values of steps; what the server has of an earlier start stays as it is."""
    self._log(
      (name, value, step)
      for step, values in points
      for name, value in values.items()
      if step > self._last.get(name, -1)
    )

  def write_result(
    self, step: int, values: Mapping[str, float], files: Sequence[pathlib.Path]
  ) -> None:
    """Sends the numbers as metrics and the pictures as artifacts."""
    self._log((name, value, step) for name, value in values.items())
    for file in files:
      self._client.log_artifact(self._id, str(file), "results")

  def _log(self, values: Iterable[tuple[str, float, int]]) -> None:
    """Sends values by name and step, as many at once as a server takes."""
    now = int(time.time() * 1000)
    metrics = [self._entities.Metric(name, value, now, step) for name, value, step in values]
    for start in range(0, len(metrics), _AT_ONCE):
      self._client.log_batch(self._id, metrics=metrics[start : start + _AT_ONCE])

  def close(self, finished: bool) -> None:
    """Says that the run has ended, or was stopped before its end."""
    self._client.set_terminated(self._id, status="FINISHED" if finished else "KILLED")
