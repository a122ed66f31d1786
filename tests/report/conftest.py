"""Workdirs and a report over them."""

import made_runs
import pytest

from jax_robust import config as config_lib
from jax_robust import jobs


@pytest.fixture
def runs(tmp_path):
  """The folder of the workdirs."""
  return tmp_path / "RUNS"


@pytest.fixture
def report(tmp_path):
  """`report(*patterns, place="REPORT", **options) -> (result, page)`."""

  def report(*patterns, place="REPORT", **options):
    config = config_lib.load("report_runs")
    patterns = tuple(str(tmp_path / each) for each in patterns or ("RUNS/*",))
    config.report.update({"runs": patterns, **options})
    result = jobs.run(config, tmp_path / place)
    return result, (tmp_path / place / "results" / "report.html").read_text()

  return report


@pytest.fixture
def several(runs):
  """Six runs: two that are finished, and one each of what may be wrong."""
  made_runs.make_run(runs / "beta1", objective__beta=1.0)
  best = made_runs.make_run(runs / "beta6", clean=0.48, robust=0.3, objective__beta=6.0)
  made_runs.write_result(best, "autoattack", made_runs.autoattack(0.46, 0.22, warnings=["too few"]))
  certified = made_runs.certification(0.7431)
  made_runs.write_result(best, "certify_lenet_sigma0.25", certified, kind="certify")
  unfinished = {"train": False, "robust": None}
  ended = {"ended": "preempted", "seconds": 5.0}
  made_runs.make_run(runs / "preempted", **unfinished, start=ended)
  ended = {"ended": "NonFiniteError: update 3 gave", "seconds": 5.0}
  made_runs.make_run(runs / "failed", **unfinished, rows=False, start=ended)
  made_runs.make_run(runs / "killed", **unfinished, start={})
  alarmed = made_runs.make_run(runs / "alarmed", robust=0.01)
  with (alarmed / "metrics.jsonl").open("a") as file:
    file.write('{"step": 20, "kind": "alarm", "drop/0": 0.5}\n')
  return runs
