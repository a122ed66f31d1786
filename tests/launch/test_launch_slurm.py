"""slurm.sbatch, with stand-ins for srun, squeue and scontrol."""

import re

import pytest
from stand_ins import (
  ARGUMENTS,
  COORDINATION,
  STOPPED,
  directives_of,
  run_slurm,
  seen_by_python,
  write_program,
)

pytestmark = pytest.mark.fast


def test_slurm_directives(launch):
  directives = directives_of(launch)
  assert int(directives["nodes"]) >= 1
  assert int(directives["ntasks-per-node"]) == int(directives["gpus-per-node"]) >= 1
  assert int(directives["cpus-per-task"]) >= 1
  assert re.fullmatch(r"(\d+-)?\d\d:\d\d:\d\d", directives["time"])
  assert directives["open-mode"] == "append"  # a requeued job must not truncate its log
  assert "requeue" in directives and "%j" in directives["output"]
  name, seconds = directives["signal"].split("@")
  assert name == "TERM"  # without B: the tasks are signalled, not the script
  assert 60 <= int(seconds) <= 65535
  assert not {"gpus-per-task", "gpu-bind", "no-requeue", "gpus"} & set(directives)


def test_slurm_runs_main_in_every_task(launch, bench):
  leftover = dict.fromkeys(COORDINATION, "1")
  result, calls = run_slurm(launch, bench, *ARGUMENTS, **leftover)
  assert result.returncode == 0, result.stderr
  seen = seen_by_python(result.stdout)[0]
  assert seen["argv"] == ["-m", "jax_robust.main", *ARGUMENTS, "--config.distributed=True"]
  assert [seen[name] for name in COORDINATION] == [None] * 3
  command = "srun --cpus-per-task=6 --kill-on-bad-exit=0 python -m"
  assert len(calls) == 1 and calls[0].startswith(command)
  assert "--gpu" not in calls[0] and "--ntasks" not in calls[0]


@pytest.mark.parametrize(
  ("act", "state", "requeued"),
  [
    (STOPPED, "RUNNING", True),
    (STOPPED, "COMPLETING", False),
    (STOPPED, "CANCELLED", False),
    (1, "RUNNING", False),
    (0, "RUNNING", False),
  ],
)
def test_slurm_requeues_what_was_stopped_and_nothing_else(launch, bench, act, state, requeued):
  result, calls = run_slurm(launch, bench, *ARGUMENTS, act=str(act), state=state)
  assert ("scontrol requeue 77" in calls) == requeued
  assert result.returncode == act
  assert any("--jobs=77" in call for call in calls) == (act == STOPPED)


def test_slurm_script_outlives_a_sigterm(launch, bench):
  write_program(bench[0] / "python", f"#!/bin/bash\nkill -TERM $PPID\nsleep .2\nexit {STOPPED}\n")
  result, calls = run_slurm(launch, bench, *ARGUMENTS)
  assert result.returncode == STOPPED and "scontrol requeue 77" in calls


def test_slurm_refuses_a_run_without_workdir(launch, bench):
  result, calls = run_slurm(launch, bench, ARGUMENTS[0])
  assert result.returncode == 2 and calls == []
  assert "--workdir" in result.stderr
