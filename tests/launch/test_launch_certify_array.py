"""certify_array.sbatch: pieces of a certification as tasks of an array, and their merge."""

import os
import re
import subprocess
import sys

import pytest
from quick_compilation import XLA_FLAGS
from stand_ins import (
  COORDINATION,
  STOPPED,
  directives_of,
  run_slurm,
  seen_by_python,
  write_program,
)

CERTIFY = ("--config=RUN/config.json", "--config.smoothing.weights=RUN", "--workdir=a folder")


def _array(launch, bench, *arguments, task=None, tasks=16, act="0", state="RUNNING", **env):
  """Runs the script as task `task` of an array, or without one: the result and SLURM's calls."""
  array = {"ID": task, "COUNT": tasks, "MAX": tasks - 1}
  if task is not None:
    env = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in array.items()} | env
  return run_slurm(
    launch, bench, *arguments, script="certify_array.sbatch", act=act, state=state, **env
  )


def test_certify_array_directives(launch):
  directives = directives_of(launch, "certify_array.sbatch")
  assert directives["nodes"] == directives["ntasks"] == "1"
  assert "array" not in directives  # without one the same script merges
  assert directives["open-mode"] == "append" and "requeue" in directives
  assert "%A" in directives["output"] and "%a" in directives["output"]
  assert re.fullmatch(r"TERM@\d+", directives["signal"])


@pytest.mark.parametrize("pieces", [{}, {"PIECES": "20"}])
def test_certify_array_gives_each_task_its_share(launch, bench, pieces):
  for task in (0, 15):
    leftover = dict.fromkeys(COORDINATION, "1")
    result, calls = _array(launch, bench, *CERTIFY, task=task, **leftover, **pieces)
    assert result.returncode == 0, result.stderr
    seen = seen_by_python(result.stdout)[0]
    number = pieces.get("PIECES", "16")
    assert seen["argv"] == [
      "-m", "jax_robust.main", *CERTIFY[:2], "--config.job=certify",
      f"--config.smoothing.shard={task}/{number}", f"--workdir=a folder/pieces/{task}",
    ]  # fmt: skip
    assert [seen[name] for name in COORDINATION] == [None] * 3
    assert len(calls) == 1 and calls[0].startswith("srun --ntasks=1 --cpus-per-task=6 python -m")


def test_certify_array_merges_without_an_array(launch, bench):
  result, calls = _array(launch, bench, *CERTIFY)
  assert result.returncode == 0, result.stderr
  merge = ["--config.job=merge", "--config.smoothing.pieces=a folder/pieces/*"]
  assert seen_by_python(result.stdout)[0]["argv"] == ["-m", "jax_robust.main", *CERTIFY, *merge]
  assert calls == []


@pytest.mark.parametrize(
  ("act", "state", "requeued"),
  [(STOPPED, "RUNNING", True), (STOPPED, "CANCELLED", False), (1, "RUNNING", False)],
)
def test_certify_array_requeues_a_piece_that_was_stopped(launch, bench, act, state, requeued):
  result, calls = _array(launch, bench, *CERTIFY, task=3, act=str(act), state=state)
  assert result.returncode == act
  assert ("scontrol requeue 77" in calls) == requeued


@pytest.mark.parametrize("task", [None, 3])
def test_certify_array_refuses_a_run_without_workdir(launch, bench, task):
  result, calls = _array(launch, bench, *CERTIFY[:2], task=task)
  assert result.returncode == 2 and calls == []
  assert "--workdir" in result.stderr


def test_certify_array_refuses_gaps(launch, bench):
  """Tasks 3 and 7 alone are no shares of 2."""
  gaps = {"SLURM_ARRAY_TASK_MAX": "7"}
  result, calls = _array(launch, bench, *CERTIFY, task=3, tasks=2, **gaps)
  assert result.returncode == 2 and calls == [] and "PIECES" in result.stderr
  result, _ = _array(launch, bench, *CERTIFY, task=3, tasks=2, PIECES="16", **gaps)
  assert "--config.smoothing.shard=3/16" in seen_by_python(result.stdout)[0]["argv"]


@pytest.mark.slow
def test_certify_array_certifies(launch, bench, tmp_path, repository):
  """With Python itself: two pieces and the merge, of a net of two steps."""
  write_program(bench[0] / "python", f'#!/bin/bash\nexec {sys.executable} "$@"\n')
  env = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(repository)}
  env["XLA_FLAGS"] = XLA_FLAGS
  env["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "cache")
  main = [sys.executable, "-m", "jax_robust.main"]
  train = [f"--config={repository}/configs/mnist_smoothing.py:method=gaussian,smoke"]
  train.append(f"--workdir={tmp_path / 'run'}")
  subprocess.run([*main, *train], env=os.environ | env, check=True, capture_output=True)
  arguments = [f"--config={tmp_path}/run/config.json", f"--config.smoothing.weights={tmp_path}/run"]
  arguments += [f"--workdir={tmp_path / 'out'}", "--config.smoothing.n=100"]
  arguments.append("--config.smoothing.max=5")
  for task in (0, 1, None):
    result, _ = _array(launch, bench, *arguments, task=task, tasks=2, **env)
    assert result.returncode == 0, result.stderr
  log = (tmp_path / "out/results/certify_run_sigma1/certify.tsv").read_text().splitlines()
  rows = [line.split("\t")[0] for line in log if not line.startswith("#")]
  assert rows == ["idx", "0", "1", "2", "3", "4"]
