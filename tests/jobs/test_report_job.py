"""A report over a run that was really trained and evaluated, as a command and from Python."""

import json

from jax_robust import api
from jax_robust.runs import starts


def test_a_trained_and_evaluated_run_is_reported(command, run_flag, copy, tmp_path):
  done = command([run_flag, "--config.job=evaluate", f"--workdir={copy}"])
  assert done.code == 0, done.printed
  argv = ["--config=report_runs", f"--config.report.runs={copy.parent}/co*"]
  done = command([*argv, f"--workdir={tmp_path / 'REPORT'}"])
  assert done.code == 0 and "report.html (" in done.printed, done.printed
  page = (tmp_path / "REPORT" / "results" / "report.html").read_text()
  written = json.loads((tmp_path / "REPORT" / "results" / "report.json").read_text())
  evaluated = json.loads((copy / "results" / "evaluate.json").read_text())
  table = written["table"]
  assert (written["kind"], written["version"], written["problems"]) == ("report", 1, {})
  assert table["run"] == ["copy"] and table["status"] == ["finished"]
  assert table["clean"] == [evaluated["clean"]] and table["pgd-1"] == [evaluated["robust"]]
  (took,) = table["training time"]
  first = starts.read(copy)[0]
  assert 0 < took == first["seconds"] and first["command"] in table["command"]
  assert evaluated["weights"]["sha256"] in page and page.count("data:image/png") == 4
  assert evaluated["kind"] == "evaluate" and "--config.job=evaluate" in evaluated["command"]


def test_from_python_the_table_and_the_figures_come_back(trained, tmp_path):
  found = api.run("report_runs", tmp_path / "REPORT", {"report.runs": [str(trained)]})
  assert found.result["table"]["run"] == [trained.name]
  assert {"loss", "clean", "robust"} <= found.figures.keys()


def test_mistakes_are_sentences(command, tmp_path):
  for runs, message in {
    "": "report.runs is empty: name workdirs",
    f"{tmp_path}/nowhere/*": "report.runs: there is no workdir",
    str(tmp_path): "stands for no workdir, with a config.json",
  }.items():
    argv = ["--config=report_runs", f"--config.report.runs={runs}", f"--workdir={tmp_path / 'R'}"]
    done = command(argv)
    assert done.code == 2 and message in done.printed, done.printed
  assert not (tmp_path / "R").exists()
