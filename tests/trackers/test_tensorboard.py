"""TensorBoard's event files, read as TensorBoard reads them."""

import struct

import pytest

from jax_robust.runs.tracking import Trackers
from jax_robust.trackers.ledger import Ledger
from jax_robust.trackers.sender import Sender
from jax_robust.trackers.tensorboard import TensorBoard
from jax_robust.types import TrackedRun

pytest.importorskip("tensorboardX")


def write(folder, steps, identity):
  """One start of a run that writes a value at each of these steps."""
  board = TensorBoard(TrackedRun(folder, folder.name, {}, identity))
  assert board.start() == {"folder": "tensorboard"}
  board.write(
    [(step, {"evaluate/clean": step / 8, "evaluate/robust": step / 16}) for step in steps]
  )
  board.close(True)


def read_events(folder):
  """(step, scalars) of every event, in the order of the files; a session's start has no scalars."""
  from tensorboardX.proto import event_pb2

  events = []
  for path in sorted(
    folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns
  ):
    data = path.read_bytes()
    while data:
      (length,) = struct.unpack("<Q", data[:8])
      event = event_pb2.Event.FromString(data[12 : 12 + length])
      data = data[16 + length :]
      if not event.file_version:
        events.append((event.step, {each.tag: each.simple_value for each in event.summary.value}))
  return events


def test_what_kept_no_account_is_forgotten_and_what_did_goes_on(tmp_path, monkeypatch):
  starts = [((1, 2), {}), ((1, 2, 3), {}), ((4,), {"folder": "tensorboard"})]
  for pid, (steps, identity) in enumerate(starts):
    monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
    write(tmp_path, steps, identity)

  def scalars(step):
    return (step, {"evaluate/clean": step / 8, "evaluate/robust": step / 16})

  assert read_events(tmp_path / "tensorboard") == [
    (0, {}), scalars(1), scalars(2),
    (0, {}), scalars(1), scalars(2), scalars(3),
    scalars(4),
  ]  # fmt: skip


def test_tensorboard_itself_reads_the_files(tmp_path):
  accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
  write(tmp_path, (7, 8), {})
  rows = [{"step": step, "kind": "train", "loss": step / 4} for step in (1, 2, 3)]
  for some in (rows[:2], rows):  # a run, killed and resumed
    ledger = Ledger(tmp_path)
    run = TrackedRun(tmp_path, "run", {}, ledger.read("tensorboard").get("identity", {}))
    trackers = Trackers(tmp_path, [Sender("tensorboard", TensorBoard(run), ledger)])
    trackers.write(some)
    trackers.close(True)
  events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
  events.Reload()
  found = {name: [(each.step, each.value) for each in events.Scalars(name)]
           for name in events.Tags()["scalars"]}  # fmt: skip
  assert found.pop("train/loss") == [(1, 0.25), (2, 0.5), (3, 0.75)]
  assert not any(found.values())
