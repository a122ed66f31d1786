"""What a tracker is sent: all of it once, whatever it does, and without making anybody wait."""

import json
import threading
import time

import pytest

from jax_robust.errors import TrackerWarning, WorkdirError
from jax_robust.runs.tracking import Trackers
from jax_robust.trackers.ledger import FILE, Ledger
from jax_robust.trackers.sender import Sender

pytestmark = pytest.mark.fast

ROWS = [
  {"step": step, "kind": kind, "loss": step / 8}
  for step in (2, 4)
  for kind in ("train", "evaluate")
]


class Recorder:
  """Notes what it is sent."""

  takes_results = True

  def __init__(self, run_id="7"):
    self.run_id, self.points, self.results, self.closed = run_id, [], [], None

  def start(self):
    return {"run_id": self.run_id}

  def write(self, points):
    self.points += points

  def write_result(self, step, values, files):
    self.results.append((step, values, [file.name for file in files]))

  def close(self, finished):
    self.closed = finished


class Failing(Recorder):
  """Fails in one of its methods, from the n-th call on; notes how often it is called."""

  def __init__(self, method, after=0):
    super().__init__()
    self.calls = 0
    working = getattr(self, method)

    def fail(*args):
      self.calls += 1
      if self.calls > after:
        raise ConnectionError("nobody there\nat all")
      return working(*args)

    setattr(self, method, fail)


def make(folder, tracker):
  """Trackers with this one alone."""
  return Trackers(folder, [Sender("mine", tracker, Ledger(folder))])


def send(folder, tracker, rows, *, finished=True):
  """Sends rows, each alone, and ends."""
  trackers = make(folder, tracker)
  for row in rows:
    trackers.write([row])
  trackers.close(finished)
  return trackers


def test_everything_arrives_in_its_order(tmp_path):
  tracker = Recorder()
  trackers = send(tmp_path, tracker, ROWS, finished=False)
  assert tracker.points == [(row["step"], {f"{row['kind']}/loss": row["loss"]}) for row in ROWS]
  assert tracker.closed is False and not trackers.failures


@pytest.mark.parametrize("num_sent", range(len(ROWS) + 1))
def test_a_later_start_sends_what_is_missing_once(tmp_path, num_sent):
  first, second = Recorder(), Recorder()
  send(tmp_path, first, ROWS[:num_sent])
  trackers = make(tmp_path, second)
  trackers.write(ROWS[:2])  # the rows that a resumed run keeps
  trackers.write(ROWS[:2])  # as the result of a job may send them again
  trackers.write(ROWS[2:])
  trackers.close(True)
  assert [*first.points, *second.points] == [
    (row["step"], {f"{row['kind']}/loss": row["loss"]}) for row in ROWS
  ]


def test_another_run_there_gets_all(tmp_path):
  send(tmp_path, Recorder("7"), ROWS)
  tracker = Recorder("8")
  send(tmp_path, tracker, ROWS)
  assert len(tracker.points) == len(ROWS)
  assert json.loads((tmp_path / FILE).read_text())["mine"] == {
    "step": 4, "kinds": ["train", "evaluate"], "identity": {"run_id": "8"}
  }  # fmt: skip


@pytest.mark.parametrize("method, after", [("start", 0), ("write", 0), ("write", 1), ("close", 0)])
def test_a_tracker_that_fails_is_named_once_and_left_alone(tmp_path, capsys, method, after):
  tracker = Failing(method, after)
  trackers = make(tmp_path, tracker)
  with pytest.warns(
    TrackerWarning, match="tracker mine .*ConnectionError: nobody there.;?.*track"
  ) as said:
    for row in ROWS:
      trackers.write([row])
      time.sleep(0.01)
    trackers.close(True)
  assert len(said) == 1 and capsys.readouterr().err.count("warning: tracker mine") == 1
  assert len(trackers.failures) == 1 and tracker.calls == after + 1
  again = Recorder()
  send(tmp_path, again, ROWS)
  assert [*tracker.points, *again.points] == [
    (row["step"], {f"{row['kind']}/loss": row["loss"]}) for row in ROWS
  ]


def test_a_tracker_that_hangs_makes_nobody_wait(tmp_path):
  tracker, free = Recorder(), threading.Event()
  tracker.start = free.wait
  trackers = make(tmp_path, tracker)
  began = time.monotonic()
  trackers.write(ROWS)
  with pytest.warns(TrackerWarning, match="did not take everything in time"):
    trackers.close(True, seconds=0.1)
  assert time.monotonic() - began < 5.0
  free.set()


def test_results_go_to_those_that_take_them(tmp_path):
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
  taker, other = Recorder(), Recorder()
  other.takes_results = False
  ledger = Ledger(tmp_path)
  trackers = Trackers(tmp_path, [Sender("taker", taker, ledger), Sender("other", other, ledger)])
  result = {"clean": 0.5, "evals": {"robust": 1}, "versions": {"x": 1}, "ok": True, "list": [1]}
  trackers.write_result("evaluate", result, [tmp_path / "a.png"])
  trackers.close(True)
  values = {"results/evaluate/clean": 0.5, "results/evaluate/evals/robust": 1.0}
  assert taker.results == [(4, values, ["a.png"])] and len(taker.points) == len(ROWS)
  assert not other.results and other.closed is None  # it has not even been started


@pytest.mark.parametrize(
  "text", ["", "{", "[]", '{"mine": {}}', '{"mine": {"step": "1"}}', '{"mine": 3}']
)
def test_a_damaged_ledger_is_named(tmp_path, text):
  (tmp_path / FILE).write_text(text)
  with pytest.raises(WorkdirError, match="trackers.json is damaged .*delete it"):
    Ledger(tmp_path)


def test_a_workdir_that_is_gone_is_not_made_again(tmp_path):
  folder = tmp_path / "run"
  folder.mkdir()
  trackers = make(folder, Recorder())
  folder.rmdir()
  with pytest.warns(TrackerWarning, match="FolderGoneError"):
    trackers.write(ROWS)
    trackers.close(True)
  assert not folder.exists()
