"""The metrics file, and the figures of the progress line."""

import json

import pytest

from jax_robust.train import metrics

ROWS = [{"step": step, "kind": "train", "loss": 1.0 / step} for step in (2, 4, 6)]


@pytest.fixture
def file(tmp_path):
  """A metrics file with three rows."""
  path = tmp_path / "metrics.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
  return path


@pytest.mark.parametrize("torn", ['{"step": 8, "ki', "{", '{"step": 8}', "\x00\x00"])
def test_a_torn_last_line_is_left_out(file, torn):
  with file.open("a") as opened:
    opened.write(torn)
  assert metrics.read_metrics(file) == ROWS
  writer = metrics.MetricsWriter(file.parent, resume_step=6)
  writer.write(8, "train", {"loss": 0.125})
  writer.close()
  assert metrics.read_metrics(file) == [*ROWS, {"step": 8, "kind": "train", "loss": 0.125}]


@pytest.mark.parametrize(
  "line", [b"{", b"[1]", b'{"kind": "train"}', b'{"step": "4"}', b"\xff\xfe", b""]
)
def test_a_line_that_is_no_row_is_named(file, line):
  lines = file.read_bytes().split(b"\n")
  lines.insert(1, line)
  file.write_bytes(b"\n".join(lines))
  with pytest.raises(metrics.MetricsFileError, match=r"metrics.jsonl, line 2: .*Repair or delete"):
    metrics.MetricsWriter(file.parent, resume_step=4)
  assert file.read_bytes() == b"\n".join(lines)


@pytest.mark.parametrize("step, kept", [(0, 0), (1, 0), (2, 1), (5, 2), (6, 3), (9, 3)])
def test_resuming_drops_the_rows_after_the_checkpoint(file, step, kept):
  metrics.MetricsWriter(file.parent, resume_step=step).close()
  assert metrics.read_metrics(file) == ROWS[:kept]


def test_a_row_is_on_the_disk_as_soon_as_it_is_written(tmp_path):
  writer = metrics.MetricsWriter(tmp_path)
  writer.write(1, "train", {"loss": 2.5})
  assert metrics.read_metrics(tmp_path / "metrics.jsonl")[0]["loss"] == 2.5
  writer.close()
  metrics.NullWriter().write(1, "train", {"loss": 2.5})
  metrics.NullWriter().close()


def test_others_are_told_of_the_kept_rows_and_of_each_that_is_written(file):
  told = []
  writer = metrics.MetricsWriter(file.parent, resume_step=4, also=told.append)
  writer.write(5, "evaluate", {"clean": 1})
  writer.close()
  assert told == [ROWS[:2], [{"step": 5, "kind": "evaluate", "clean": 1.0}]]


def test_figures_of_a_lap():
  now = [100.0]
  progress = metrics.Pace(10, 50, batch_size=4, clock=lambda: now[0])
  now[0] += 2.0
  progress.waited(0.5)
  with progress.paused():
    now[0] += 1000.0
  now[0] += 3.0
  assert progress.lap(20) == {
    "time/images_per_second": 8.0,
    "time/eta_seconds": 15.0,
    "time/data_wait_share": 0.1,
  }
  now[0] += 1.0
  assert progress.lap(30) == {
    "time/images_per_second": 40.0,
    "time/eta_seconds": 2.0,
    "time/data_wait_share": 0.0,
  }


def test_a_failing_evaluation_does_not_count_either():
  now = [0.0]
  progress = metrics.Pace(0, 10, batch_size=1, clock=lambda: now[0])
  with pytest.raises(RuntimeError), progress.paused():
    now[0] += 50.0
    raise RuntimeError
  now[0] += 1.0
  assert progress.lap(1)["time/images_per_second"] == 1.0


def test_no_time_at_all_gives_finite_figures():
  progress = metrics.Pace(0, 1, batch_size=1, clock=lambda: 0.0)
  assert all(value < float("inf") for value in progress.lap(0).values())


def test_the_line_of_an_endless_run_still_prints():
  values = {"time/images_per_second": 0.0, "time/eta_seconds": float("inf"),
            "time/data_wait_share": 1.0, "loss": 0.5}  # fmt: skip
  assert metrics.training_line(1, 2, values).endswith("eta 0:00:00  data wait 100%  loss 0.5")
