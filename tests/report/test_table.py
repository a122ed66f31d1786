"""The table of a report: what it takes from workdirs, and what it says of those that went wrong."""

import json

import made_runs
import pytest

from jax_robust.errors import ConfigError, WorkdirError
from jax_robust.report import differences, reading, table
from jax_robust.runs import workdir


def test_a_row_has_what_a_run_was_and_found(several, report):
  rows = report()[0]["table"]
  assert len({len(column) for column in rows.values()}) == 1
  place = rows["run"].index("beta6")
  row = {name: column[place] for name, column in rows.items()}
  wanted = {
    "status": "finished", "method": "trades", "data": "made", "model": "mlp", "seed": 0,
    "norm": "linf", "eps": 0.1, "clean": 0.48, "pgd-10": 0.3, "pgd-10 low": 0.25,
    "after apgd-ce": pytest.approx(0.32), "AutoAttack": 0.22, "AutoAttack high": 0.32,
    "ACR at σ 0.25": 0.7431, "training time": 75.0, "warnings": 1,
    "hardware": "2 cores of a <made> processor", "versions": "jax_robust 0.1.0, jax 0.10.2",
    "date": "2026-11-27T12:00:00+00:00", "command": "made --workdir=beta6",
  }  # fmt: skip
  assert {name: row[name] for name in wanted} == wanted
  assert "sigma" not in rows, "a column that no run fills is left out"
  assert rows["AutoAttack"][rows["run"].index("beta1")] is None


def test_a_data_frame_takes_the_table(several, report):
  pandas = pytest.importorskip("pandas")
  frame = pandas.DataFrame(report()[0]["table"]).set_index("run")
  assert frame["clean"]["beta1"] == 0.5 and frame["AutoAttack"].count() == 1


def test_runs_that_did_not_end_well_say_so(several, report):
  rows = report()[0]["table"]
  assert dict(zip(rows["run"], rows["status"], strict=True)) == {
    "alarmed": "alarm of overfitting at step 20",
    "beta1": "finished",
    "beta6": "finished",
    "failed": "failed at step 0 of 20: NonFiniteError",
    "killed": "unfinished, at step 20 of 20",
    "preempted": "preempted at step 20 of 20",
  }


def test_the_same_net_is_told_from_others(runs, report):
  """AutoAttack of other weights than those that were evaluated is warned of."""
  folder = made_runs.make_run(runs / "one")
  made_runs.write_result(folder, "autoattack", made_runs.autoattack(0.4, 0.2, sha256="d" * 64))
  assert "its results are of different weights: autoattack of dddddddddddd…" in report()[1]


def test_another_radius_has_a_column_of_its_own(runs, report):
  folder = made_runs.make_run(runs / "one")
  made_runs.write_result(folder, "autoattack", made_runs.autoattack(0.4, 0.2, eps=8 / 255))
  rows = report()[0]["table"]
  assert rows["AutoAttack at linf 8/255"] == [0.2] and "AutoAttack" not in rows


def test_an_evaluation_that_is_not_complete_says_so(runs, report):
  folder = made_runs.make_run(runs / "one")
  made_runs.write_result(folder, "autoattack", made_runs.autoattack(0.4, 0.2, complete=False))
  (folder / "results" / "certify_x").mkdir()
  (folder / "results" / "certify_x" / "identity.json").write_text("{}")
  (status,) = report()[0]["table"]["status"]
  assert status == "certify_x is not finished; autoattack is not finished"


def test_weights_from_elsewhere_have_no_method(runs, report):
  folder = made_runs.make_run(
    runs / "one", job="evaluate", init_from="x.npz", rows=False, train=False
  )
  (folder / "starts.jsonl").unlink()
  rows = report()[0]["table"]
  assert "method" not in rows and rows["status"] == ["finished"] and rows["model"] == ["mlp"]
  again = "python -m jax_robust.main --config=one/config.json --workdir=NEW"
  assert rows["command"] == [again]


BROKEN = {
  "no config": (lambda run: (run / "config.json").unlink(), "is no workdir of a run"),
  "no JSON": (lambda run: (run / "config.json").write_text("{"), "config.json is no JSON file"),
  "no config of ours": (lambda run: (run / "config.json").write_text("{}"), "is no config of ours"),
}
DAMAGED = {
  "a corrupt result": (
    lambda run: (run / "results" / "evaluate.json").write_text("[" * 10**5),
    "results/evaluate.json is damaged",
  ),
  "a newer result": (
    lambda run: made_runs.write_result(run, "evaluate", {"other": 1}, version=9),
    "results/evaluate.json is of version 9 of its kind, and this program reads 1: update it",
  ),
  "a result of another form": (
    lambda run: made_runs.write_result(run, "evaluate", {"clean": "good"}),
    "results/evaluate.json is not as its kind says: evals is missing",
  ),
  "torn metrics": (
    lambda run: (run / "metrics.jsonl").write_text("{}\n{}\n"), "metrics.jsonl, line 1: expected",
  ),
  "a picture that is none": (
    lambda run: (run / "results" / "x.png").write_text("<svg/>"), "results/x.png is no PNG",
  ),
  "corrupt versions": (
    lambda run: (run / "versions.json").write_text("7"), "versions.json is damaged",
  ),
}  # fmt: skip


@pytest.mark.parametrize("case", [*BROKEN, *DAMAGED])
def test_what_is_broken_is_named_and_the_rest_reported(runs, report, case, capsys):
  made_runs.make_run(runs / "good")
  break_it, message = {**BROKEN, **DAMAGED}[case]
  break_it(made_runs.make_run(runs / "bad"))
  result, page = report()
  (line,) = result["problems"]["bad"]
  assert message in line and str(runs) not in line
  assert f"bad: {line}" in capsys.readouterr().err
  assert "Could not be read" in page and message in page
  assert result["table"]["run"] == (["good"] if case in BROKEN else ["bad", "good"])
  assert result["table"]["clean"][-1] == 0.5


def test_torn_starts_and_foreign_files_do_no_harm(runs, report):
  folder = made_runs.make_run(runs / "one")
  with (folder / "starts.jsonl").open("a") as file:
    file.write('[]\n{"start": "b", "ended": "done"}\nnull\n{"start": "c", "job"')
  made_runs.write_result(folder, "own", {"anything": [{}]}, kind="of_a_plug_in")
  (runs / "notes").mkdir()
  (runs / "readme.txt").write_text("")
  result, page = report()
  assert not result["problems"] and result["table"]["run"] == ["one"]
  assert "<h3>own</h3>" not in page or "anything" not in page


def test_results_of_an_earlier_version_are_read(runs, report):
  folder = made_runs.make_run(runs / "one", robust=None)
  found = made_runs.evaluation(0.5, 0.25)
  del found["num_lost"]  # which came later
  made_runs.write_result(folder, "evaluate", found, version=0)
  made_runs.write_result(folder, "certify_x", made_runs.certification(0.5), version=0)
  result, page = report()
  assert result["table"]["pgd-10"] == [0.25] and result["table"]["ACR at σ 0.25"] == [0.5]
  assert page.count(" of an earlier version") == 2 and not result["problems"]


def test_trainings_of_a_sweep_and_a_comparison_are_rows(runs, report):
  sweep = made_runs.make_run(runs / "sweep", job="sweep", robust=None, rows=False, train=False)
  for seed in (0, 1):
    made_runs.make_run(sweep / "cells" / f"seed={seed}", seed=seed)
  row = {"changes": {}, "cells": 2, "failed": {}, "means": {}}
  found = {"grid": "seed=0,1", "over": "seed", "complete": True, "missing": [], "rows": [row]}
  made_runs.write_result(sweep, "sweep", found)
  both = made_runs.make_run(runs / "both", job="compare", robust=None, rows=False, train=False)
  made_runs.make_run(both / "runs" / "a", robust=None)
  found = made_runs.evaluation(0.6, 0.4)
  made_runs.write_result(both, "compare", {**found, "runs": {"a": found}})
  rows, page = report()
  rows = rows["table"]
  names = ["both/runs/a", "sweep/cells/seed=0", "sweep/cells/seed=1"]
  assert rows["run"] == names and rows["pgd-10"] == [0.4, 0.25, 0.25]
  assert "seed=0,1" in page and "<summary>sweep<" in page
  assert report("RUNS/sweep/cells/*")[0]["table"]["run"] == ["seed=0", "seed=1"]


def test_a_report_is_no_run_of_its_own(several, report):
  first = report(place="RUNS/REPORT")
  assert report(place="RUNS/REPORT") == first
  assert "REPORT" not in first[0]["table"]["run"]
  assert report(place="RUNS/SECOND")[0]["table"] == first[0]["table"]


def test_a_run_that_two_patterns_name_is_one_row(several, report):
  assert report("RUNS/beta*", "RUNS/../RUNS/beta6")[0]["table"]["run"] == ["beta1", "beta6"]


@pytest.mark.parametrize(
  "patterns, message",
  [
    ((), "report.runs is empty: name workdirs"),
    (("RUNS/x*",), "report.runs: there is no workdir '.*x[*]'"),
    (("RUNS/beta7",), "there is no workdir '.*beta7': did you mean '.*/beta1'"),
    (("RUNS",), "stands for no workdir: did you mean '.*RUNS/[*]'"),
    (("EMPTY",), "stands for no workdir, with a config.json"),
    (("RUNS/beta1", "EMPTY/*"), "stands for no workdir, with a config.json"),
  ],
)
def test_patterns_that_stand_for_no_run_are_refused(runs, tmp_path, patterns, message):
  made_runs.make_run(runs / "beta1")
  (tmp_path / "EMPTY" / "folder").mkdir(parents=True)
  with pytest.raises(ConfigError, match=message):
    reading.find([str(tmp_path / each) for each in patterns])


def test_a_report_of_its_own_workdir_alone_has_nothing_to_tell(runs):
  folder = made_runs.make_run(runs / "beta1")
  with pytest.raises(WorkdirError, match="but the report's own, which is left out: name another"):
    reading.read_all([folder], folder)
  assert reading.names_of([]) == []


def test_where_nothing_can_be_read_there_is_no_page(runs, report, tmp_path):
  (made_runs.make_run(runs / "bad") / "config.json").write_text("{")
  with pytest.raises(WorkdirError, match="no workdir that can be read\n  bad: .*is no JSON file"):
    report()
  assert not (tmp_path / "REPORT" / "results").exists()


def test_no_plug_in_of_a_run_is_imported(runs, report):
  made_runs.make_run(runs / "one", imports=["no_such_module"], attack__name="of_a_plug_in")
  assert report()[0]["table"]["run"] == ["one"]


def test_runs_are_called_by_the_keys_in_which_they_differ(runs):
  for beta, seed in ((1.0, 0), (6.0, 0), (6.0, 1)):
    made_runs.make_run(runs / f"r{beta:g}{seed}", objective__beta=beta, seed=seed)
  folders = sorted(runs.iterdir())
  records = [reading.read(each, each.name) for each in folders]
  assert differences.differing_keys(records) == ["objective.beta", "seed"]
  assert differences.labels_of(records) == ["beta=1, seed=0", "beta=6, seed=0", "beta=6, seed=1"]
  assert differences.labels_of(records[:1]) == ["r10"]
  # Two runs of the same config are told apart by their names.
  again = [*records, records[0]._replace(name="again")]
  assert differences.labels_of(again) == ["r10", "r60", "r61", "again"]


def test_of_a_killed_start_the_time_is_the_least(runs):
  folder = made_runs.make_run(runs / "one", start={})
  with (folder / "starts.jsonl").open("a") as file:
    for row in ({"start": "b", "job": "train"}, {"start": "b", "ended": "done", "seconds": 30.0}):
      file.write(json.dumps(row) + "\n")
  row = table.row_of(reading.read(folder, "one"))
  assert row["training time"] == table.Cell(30.0, table.SECONDS, text="at least")
  assert workdir.read_note(folder / "versions.json") == made_runs.VERSIONS
