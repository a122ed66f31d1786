"""What the command line can do: a module a job, each with a function `(config, path) -> result`."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jax_robust import bars, job_table, plugins
from jax_robust import config as config_lib
from jax_robust.errors import ConfigError, check_name
from jax_robust.runs import check, init_from, starts, tracking, workdir
from jax_robust.train import metrics


def run(config: Any, folder: str | os.PathLike, **given: Any) -> Mapping[str, Any]:
  """Runs the job that a config names, as the command line does.

  Every job begins alike: the config is completed by the weights that it starts from, and checked,
  the workdir locked, and `config.json` written, or compared with what is there.

  Args:
    config: from `config.load` or `presets`; `config.job` names the job.
    folder: the workdir; it is made unless the job needs that of a run.
    **given: what the caller has built already, such as a `Training` for the job `train`.

  Returns:
    What the job's function returns: its main numbers.

  Raises:
    UserError: a mistake in the config, the data or the workdir; the message says what to do.
  """
  plugins.load(config)
  config = config_lib.with_paths(config)
  name = config.get("job") or ""
  check_name("config.job", name, job_table.JOBS, error=ConfigError)
  job = job_table.JOBS[name]
  config = init_from.complete(config, pathlib.Path(folder))
  check.check(config)
  if job.check and (checked := job_table.load(job.check)(config)) is not None:
    given["checked"] = checked
  _say_unread(config, job)
  has_weights = bool(config.init_from or config.smoothing.weights)
  create = has_weights or not job.of_a_run
  with workdir.claimed(str(folder), create=create, shared=job.shared) as path:
    config = workdir.keep_draw(path, config)
    with (
      bars.closed_at_end(),
      tracking.opened(config, path, _wanted(config, job)) as trackers,
    ):
      if not job.keeps_config:
        workdir.write_identity(path, config)
      with starts.noted(path, name, workdir.versions()) as told:
        result = _call(job, config, path, trackers, given)
        if result.get("preempted"):
          told["ended"] = starts.PREEMPTED
      trackers.close(finished=not result.get("preempted"))
    workdir.add_warnings(path, name, trackers.failures)
    return result


def _say_unread(config, job: job_table.Job) -> None:
  """Says which keys of the job's block were changed, and are only read by other jobs."""
  given = [key for key in job.unread if config[job.block][key] != job.defaults[key]]
  if given:
    keys = ", ".join(f"{job.block}.{key}" for key in given)
    metrics.report(f"not read by the job {config.job!r}: {keys}")


def _call(job, config, path: pathlib.Path, trackers, given: dict[str, Any]) -> Mapping[str, Any]:
  """Runs a job's function; what it returns and draws goes to the trackers."""
  if job.opens:
    given["subject"] = job_table.load(job.opens)(config, path)
  if job.tracks:
    given["trackers"] = trackers
  before = workdir.pictures(path)
  result = job_table.load(job.function)(config, path, **given)
  if not job.tracks:
    drawn = sorted(workdir.pictures(path) - before)
    trackers.write_result(config.job, result, [file for file, _ in drawn])
  return result


def _wanted(config: Any, job: job_table.Job) -> Sequence[str]:
  """The trackers of a job. Those who share a workdir at once would write over each other."""
  return () if job.shared else config.trackers
