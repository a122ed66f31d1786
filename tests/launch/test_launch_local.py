"""local.sh: processes, devices, signals and failures."""

import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
from stand_ins import ARGUMENTS, COORDINATION, STOPPED, run_script, seen_by_python, write_program


def test_local_runs_main_with_its_arguments(launch, bench, tmp_path):
  result = run_script(launch / "local.sh", *ARGUMENTS, env=bench[1], cwd=tmp_path)
  assert result.returncode == 0, result.stderr
  assert seen_by_python(result.stdout) == {
    0: {
      "argv": ["-m", "jax_robust.main", *ARGUMENTS],
      "cwd": str(tmp_path),
      **dict.fromkeys(("JAX_PLATFORMS", "XLA_FLAGS", *COORDINATION)),
    }
  }


def test_local_devices_are_virtual_and_on_the_cpu(launch, bench):
  env = bench[1] | {"XLA_FLAGS": "--xla_dump_to=somewhere"}
  seen = seen_by_python(run_script(launch / "local.sh", "--devices=8", *ARGUMENTS, env=env).stdout)[
    0
  ]
  assert seen["JAX_PLATFORMS"] == "cpu"
  flags = ["--xla_dump_to=somewhere", "--xla_force_host_platform_device_count=8"]
  assert seen["XLA_FLAGS"].split() == flags
  assert seen["argv"] == ["-m", "jax_robust.main", *ARGUMENTS]


def test_local_processes_are_told_who_they_are(launch, bench):
  env = bench[1] | {"PORT": "23456"}
  result = run_script(launch / "local.sh", "--processes=3", *ARGUMENTS, env=env)
  assert result.returncode == 0, result.stderr
  seen = seen_by_python(result.stdout)
  assert sorted(seen) == [0, 1, 2]
  for rank, process in seen.items():
    assert [process[name] for name in COORDINATION] == ["localhost:23456", "3", str(rank)]
    assert process["argv"] == ["-m", "jax_robust.main", *ARGUMENTS, "--config.distributed=True"]
    assert process["JAX_PLATFORMS"] == "cpu"
    assert process["XLA_FLAGS"] == "--xla_force_host_platform_device_count=1"


@pytest.mark.thorough
def test_local_processes_meet_in_jax(launch, bench):
  meet = (
    "import os, jax; a, n, i = (os.environ[k] for k in"
    f" {COORDINATION}); jax.distributed.initialize(a, int(n), int(i));"
    " print('met', jax.process_index(), jax.process_count(), jax.device_count(), flush=True)"
  )
  python = f"#!/bin/sh\nexec {sys.executable} -c {shlex.quote(meet)}\n"
  write_program(bench[0] / "python", python)
  result = run_script(launch / "local.sh", "--processes=2", "--devices=2", *ARGUMENTS, env=bench[1])
  assert result.returncode == 0, result.stdout
  met = re.findall(r"met (.*)", result.stdout)
  assert sorted(met) == ["0 2 4", "1 2 4"]


def test_local_dry_run_prints_the_commands_and_runs_nothing(launch, bench):
  (bench[0] / "python").unlink()
  env = bench[1] | {"PORT": "23456", "PYTHON": "python"}
  result = run_script(launch / "local.sh", "--dry-run", "--processes=2", *ARGUMENTS, env=env)
  assert result.returncode == 0, result.stderr
  commands = [shlex.split(line) for line in result.stdout.splitlines()]
  tail = ["python", "-m", "jax_robust.main", *ARGUMENTS, "--config.distributed=True"]
  assert [command[-len(tail) :] for command in commands] == [tail, tail]
  for rank, command in enumerate(commands):
    assert command[0] == "env"
    assert {f"JAX_PROCESS_ID={rank}", "JAX_NUM_PROCESSES=2"} <= set(command)


@pytest.mark.parametrize("acts", [{"ACT": "0"}, {"ACT": "3"}, {"ACT_0": "wait", "ACT_1": "3"}])
def test_local_fails_as_its_processes_do(launch, bench, acts):
  env = bench[1] | acts
  start = time.monotonic()
  result = run_script(launch / "local.sh", "--processes=2", *ARGUMENTS, env=env)
  assert result.returncode == (0 if acts == {"ACT": "0"} else 3)
  assert time.monotonic() - start < 30  # the one that waits is ended, and would else wait for 60 s


def test_local_ends_a_process_that_ignores_sigterm_after_another_failed(launch, bench):
  start = time.monotonic()
  env = bench[1] | {"ACT_0": "deaf", "ACT_1": "4"}
  assert run_script(launch / "local.sh", "--processes=2", *ARGUMENTS, env=env).returncode == 4
  assert time.monotonic() - start < 30


@pytest.mark.parametrize(
  ("processes", "number"), [(1, signal.SIGTERM), (2, signal.SIGTERM), (2, signal.SIGINT)]
)
def test_local_forwards_signals_and_lets_every_process_save(launch, bench, processes, number):
  env = bench[1] | {"ACT_": "wait", "ACT_0": "wait", "ACT_1": "slow"}
  command = ["bash", str(launch / "local.sh"), f"--processes={processes}", *ARGUMENTS]
  with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
    ready = 0
    while ready < processes:
      ready += process.stdout.readline().endswith("ready\n")
    process.send_signal(number)
    rest = process.stdout.read()
  assert process.returncode == STOPPED
  assert ("[1] saved" in rest) == (processes == 2)


@pytest.mark.parametrize("wrong", ["--processes=0", "--devices=two", ""])
def test_local_refuses_nonsense(launch, bench, wrong):
  result = run_script(launch / "local.sh", *([wrong, *ARGUMENTS] if wrong else []), env=bench[1])
  assert result.returncode == 2
  assert "expected" in result.stderr and wrong in result.stderr


def test_local_help_is_its_header(launch, bench):
  result = run_script(launch / "local.sh", "--help", env=bench[1])
  assert result.returncode == 0
  assert "--processes=P" in result.stdout and "set -" not in result.stdout
