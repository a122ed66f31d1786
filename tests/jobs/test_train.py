"""The training job, from the command line: what goes wrong is said, and nothing is lost by it."""

import contextlib
import functools
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess

import earlier
import numpy as np
import pytest
from rows import mostly_slow

from jax_robust.train import checkpoint, metrics


def newest(folder, kind="latest"):
  """The step and the arrays of the newest checkpoint."""
  reader = checkpoint.Checkpointer(folder / "checkpoints" / kind, read_only=True)
  arrays, info = reader.read(("params", "ema", "opt_state"))
  step = reader.latest_step()
  reader.close()
  return step, arrays, info


def test_a_run_leaves_what_it_should(trained):
  assert {"config.json", "versions.json", "metrics.jsonl", "checkpoints", "results"} <= set(
    os.listdir(trained)
  )
  result = json.loads((trained / "results" / "train.json").read_text())
  assert result["step"] == 80 and not result["preempted"]
  rows = metrics.read_metrics(trained / "metrics.jsonl")
  robust = {row["step"]: row["robust"] for row in rows if row["kind"] == "evaluate"}
  best = max(robust.values())
  first = min(step for step, value in robust.items() if value == best)
  assert result["best"] == {"step": first, "metric": "robust", "value": best}
  assert newest(trained, "best")[0] == first
  losses = [row["loss"] for row in rows if row["kind"] == "train"]
  assert np.isfinite(losses).all() and np.mean(losses[-5:]) < np.mean(losses[:5])


@pytest.mark.thorough
def test_its_config_json_reproduces_it(command, trained, left_behind, tmp_path):
  result = command([f"--config={trained / 'config.json'}", f"--workdir={tmp_path / 'run'}"])
  assert result.code == 0, result.printed
  assert left_behind(tmp_path / "run") == left_behind(trained)


def test_a_learning_rate_that_explodes_stops_without_a_traceback(command, run_flag, tmp_path):
  argv = [run_flag, f"--workdir={tmp_path}", "--config.schedule.learning_rate=1e30"]
  result = command(argv)
  assert result.code == 1
  assert "Traceback" not in result.printed
  assert "update 2 gave a non-finite" in result.printed
  assert "there is no checkpoint yet" in result.printed
  assert "lower the learning rate" in result.printed


def no_large_files():
  """From now on no file of this process may grow beyond 20 kB."""
  resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def fill(folder):
  """Takes all that is left of a disk."""
  with open(folder / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
    while True:
      file.write(bytes(1 << 12))


@pytest.fixture
def disk(tmp_path):
  """A disk of 4 MB."""
  place = tmp_path / "disk"
  place.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
  if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
    pytest.skip("mounting a disk of its own needs root")
  yield place
  subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.thorough
@pytest.mark.parametrize(
  "limit", mostly_slow(["a quota on files", "a full disk"], "a quota on files")
)
def test_a_full_disk_and_ctrl_c_lose_nothing(
  request, command, run_flag, trained, left_behind, tmp_path, limit
):
  folder, act = tmp_path / "run", no_large_files
  if limit == "a full disk":
    disk = request.getfixturevalue("disk")
    folder, act = disk / "run", functools.partial(fill, disk)
  argv = [run_flag, f"--workdir={folder}"]
  if limit == "a quota on files":  # once is enough: Ctrl-C first, on the way to the same end
    result = command(argv, (signal.SIGINT, "save", 3, 0.01))
    assert result.code == 130 and "Traceback" not in result.printed
    assert "interrupted" in result.printed.splitlines()[-1]
  result = command(argv, (act, "save", 3, 0))
  assert result.code == 1
  # TensorStore's threads may say on their own that nobody waits for them any longer.
  assert "/jax_robust/" not in result.printed, "no traceback of ours"
  (message,) = re.findall(
    r"^jax_robust: (.*(?:\n.*again to resume)?)$", result.printed, re.MULTILINE
  )
  assert "start the same command again to resume" in message
  assert newest(folder)[0] > 0
  (folder.parent / "filler").unlink(missing_ok=True)
  result = command(argv)
  assert result.code == 0 and "resuming from step" in result.printed
  assert left_behind(folder) == left_behind(trained)


def test_a_checkpoint_of_another_net_is_refused_by_name(command, copy):
  data = json.loads((copy / "config.json").read_text())
  data["model"]["hidden"] = [9]
  (copy / "config.json").write_text(json.dumps(data))
  earlier.forget_run(copy)  # which says so before the arrays do
  result = command([f"--config={copy / 'config.json'}", f"--workdir={copy}"])
  assert result.code == 2 and "Traceback" not in result.printed
  assert (
    "params/hidden_0/kernel: (432, 8) in the checkpoint, (432, 9) in the model" in result.printed
  )


@pytest.mark.thorough
def test_a_damaged_checkpoint_is_refused_with_the_way_out(
  command, run_flag, trained, left_behind, copy
):
  newest_folder = copy / "checkpoints" / "latest" / "80"
  shutil.rmtree(newest_folder / "state")
  argv = [run_flag, f"--workdir={copy}"]
  result = command(argv)
  assert result.code == 2 and "Traceback" not in result.printed
  assert f"{newest_folder} can't be read" in result.printed
  assert "go on from step 76" in result.printed
  shutil.rmtree(newest_folder)
  assert command(argv).code == 0
  assert left_behind(copy) == left_behind(trained)


def test_a_corrupt_line_of_metrics_is_named(command, run_flag, copy):
  lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
  lines[3] = lines[3][:20] + "\n"
  (copy / "metrics.jsonl").write_text("".join(lines))
  result = command([run_flag, f"--workdir={copy}"])
  assert result.code == 2 and "Traceback" not in result.printed
  assert "metrics.jsonl, line 4" in result.printed


def test_a_second_job_is_sent_away(command, run_flag, copy):
  from jax_robust.runs import workdir

  with workdir.claimed(str(copy)):
    for job in ("train", "evaluate", "export"):
      result = command([run_flag, f"--workdir={copy}", f"--config.job={job}"])
      assert result.code == 2
      assert f"in use by another job (process {os.getpid()} on " in result.printed


@pytest.mark.thorough
def test_weights_are_read_and_tensorboard_written_where_asked_for(
  command, run_flag, trained, tmp_path
):
  source, folder = tmp_path / "weights", tmp_path / "run"
  shutil.copytree(trained, source)
  argv = [run_flag, f"--workdir={folder}", f"--config.init_from={source}"]
  argv += ["--config.trackers=tensorboard"]
  end = (signal.SIGTERM, "save", 2, 0)
  assert command(argv, end).code == 143
  (file,) = (folder / "tensorboard").iterdir()
  assert b"evaluate/" not in file.read_bytes() and b"train/loss" in file.read_bytes()
  rows = metrics.read_metrics(folder / "metrics.jsonl")
  assert rows[0]["loss"] < metrics.read_metrics(trained / "metrics.jsonl")[0]["loss"]
  shutil.rmtree(source)  # only the first start reads them
  assert command(argv, end).code == 143
  assert newest(folder)[0] > newest_step_of(rows)


def newest_step_of(rows):
  """The last step of some rows."""
  return max(row["step"] for row in rows)


def test_a_job_that_only_looks_needs_a_run(command, run_flag, tmp_path):
  for job in ("evaluate", "export"):
    argv = [run_flag, f"--workdir={tmp_path / 'nowhere'}", f"--config.job={job}"]
    result = command(argv)
    assert result.code == 2 and "there is no workdir" in result.printed
  assert not pathlib.Path(tmp_path / "nowhere").exists()
