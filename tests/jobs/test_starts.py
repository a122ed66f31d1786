"""What is noted of every start of a job: its command, what it ran with, its end and its seconds."""

import json

import pytest

from jax_robust.errors import WorkdirError
from jax_robust.runs import command, starts

pytestmark = pytest.mark.fast

VERSIONS = {"date": "2026-11-27", "hardware": "made"}


def test_a_start_is_two_lines_and_one_row(tmp_path):
  with command.started_by(["--config=x y"]), starts.noted(tmp_path, "train", VERSIONS):
    (row,) = starts.read(tmp_path)
    assert row.items() >= {"job": "train", **VERSIONS}.items() and "ended" not in row
  (row,) = starts.read(tmp_path)
  assert row["ended"] == starts.DONE and 0 <= row["seconds"] < 10
  assert row["command"] == "python -m jax_robust.main '--config=x y'"
  with starts.noted(tmp_path, "evaluate", VERSIONS):
    pass
  assert [row["job"] for row in starts.read(tmp_path)] == ["train", "evaluate"]
  assert command.typed() == starts.read(tmp_path)[1]["command"] == ""


@pytest.mark.parametrize(
  "error, ended",
  [
    (ValueError("two\nlines"), "ValueError: two"),
    (KeyboardInterrupt(), "KeyboardInterrupt"),
    (SystemExit(143), "SystemExit: 143"),
  ],
)
def test_an_error_is_noted_and_goes_on(tmp_path, error, ended):
  with pytest.raises(type(error)), starts.noted(tmp_path, "train", VERSIONS):
    raise error
  assert starts.read(tmp_path)[0]["ended"] == ended


def test_a_job_says_itself_that_it_was_told_to_stop(tmp_path):
  with starts.noted(tmp_path, "train", VERSIONS) as told:
    told["ended"] = starts.PREEMPTED
  assert starts.read(tmp_path)[0]["ended"] == starts.PREEMPTED


def test_starts_that_share_a_workdir_do_not_mix(tmp_path):
  with starts.noted(tmp_path, "sweep", {}), starts.noted(tmp_path, "sweep", {}):
    pass
  assert [row["ended"] for row in starts.read(tmp_path)] == [starts.DONE] * 2


def test_only_the_first_process_notes(tmp_path, monkeypatch):
  monkeypatch.setattr(starts.jax, "process_index", lambda: 1)
  with starts.noted(tmp_path, "train", VERSIONS):
    pass
  assert starts.read(tmp_path) == [] and not (tmp_path / starts.FILE).exists()


def test_a_link_is_not_written_through(tmp_path):
  (tmp_path / "mine").write_text("mine")
  (tmp_path / starts.FILE).symlink_to(tmp_path / "mine")
  message = "starts.jsonl is a symbolic link, which is never written through: delete it"
  with pytest.raises(WorkdirError, match=message), starts.noted(tmp_path, "train", VERSIONS):
    pass
  assert (tmp_path / "mine").read_text() == "mine"


def test_nothing_is_written_where_the_folder_was_replaced(tmp_path):
  folder = tmp_path / "run"
  folder.mkdir()
  with starts.noted(folder, "train", VERSIONS):
    folder.rename(tmp_path / "moved")
    folder.mkdir()
  assert not list(folder.iterdir()) and "ended" in starts.read(tmp_path / "moved")[0]


@pytest.mark.parametrize(
  "rows, seconds",
  [
    ([], None),
    ([{"job": "evaluate", "ended": "done", "seconds": 1.0}], None),
    ([{"job": "train", "ended": "preempted", "seconds": 2.0}], (2.0, True)),
    ([{"job": "train"}, {"job": "train", "ended": "done", "seconds": 3.0}], (3.0, False)),
  ],
)
def test_the_seconds_of_a_job_are_those_of_all_its_starts(rows, seconds):
  assert starts.seconds_of(rows, "train") == seconds


def test_a_torn_line_is_left_out(tmp_path):
  text = json.dumps({"start": "a", "job": "train"}) + '\n{"start": "b", "job'
  (tmp_path / starts.FILE).write_text(text)
  assert [row["start"] for row in starts.read(tmp_path)] == ["a"]
