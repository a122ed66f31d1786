"""Weights & Biases without a network: the files of a killed and resumed run, read back."""

import json
import struct

import pytest
import tracked_run

wandb = pytest.importorskip("wandb")
pytestmark = pytest.mark.slow

_BLOCK, _HEADER, _BEGIN = 32768, 7, 7


def records(path):
  """The records of a .wandb file: LevelDB's log format behind a header of its own."""
  from wandb.proto import wandb_internal_pb2

  data, place, part = path.read_bytes(), _BEGIN, b""
  while place + _HEADER <= len(data):
    left = _BLOCK - place % _BLOCK
    if left < _HEADER:
      place += left
      continue
    _, length, kind = struct.unpack("<IHB", data[place : place + _HEADER])
    part += data[place + _HEADER : place + _HEADER + length]
    place += _HEADER + length
    if kind in (1, 4):  # a whole record, or the last part of one
      yield wandb_internal_pb2.Record.FromString(part)
      part = b""


def items(update):
  return {".".join(each.nested_key) or each.key: json.loads(each.value_json) for each in update}


def read(path):
  """The run's id and project, its history by step, and its summary."""
  run, history, summary = None, [], {}
  for record in records(path):
    match record.WhichOneof("record_type"):
      case "run":
        run = record.run
      case "history":
        history.append(items(record.history.item))
      case "summary":
        summary |= items(record.summary.update)
  return run, history, summary


def test_a_killed_run_is_whole_in_the_files_of_its_last_start(tmp_path):
  folder = tmp_path / "run"
  flags = ("trackers=wandb", "tracking.wandb.project=mine")
  environment = {"WANDB_MODE": "offline"}
  process = tracked_run.start(folder, *flags, environment=environment)
  tracked_run.kill_after(12, process, folder)
  assert tracked_run.run(folder, *flags, environment=environment) == 0
  first, last = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
  assert first.name == last.name
  run, history, summary = read(last)
  assert (run.project, run.display_name) == ("mine", "run")
  config = items(run.config.update)
  assert config["batch.size"] == 8 and config["objective.name"] == "trades"
  for kind, name in ("train", "loss"), ("evaluate", "robust"):
    key = f"{kind}/{name}"
    found = [(row["_step"], row[key]) for row in history if key in row]
    assert found == tracked_run.series(folder, kind, name)
  result = json.loads((folder / "results" / "train.json").read_text())
  assert summary["results/train/best/value"] == result["best"]["value"]


def test_online_nobody_is_logged_in(tmp_path):
  folder = tmp_path / "run"
  environment = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "WANDB_API_KEY": ""}
  assert tracked_run.run(folder, "trackers=wandb", environment=environment) == 2
  printed = (tmp_path / "printed.txt").read_text()
  assert "nobody is logged in" in printed and "mode=offline" in printed
  assert not (folder / "config.json").exists()
