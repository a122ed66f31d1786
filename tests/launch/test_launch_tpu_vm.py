"""tpu_vm.sh, with a stand-in for gcloud that can play the host's shell."""

import json
import pathlib
import subprocess
import sys
import time

import pytest
from stand_ins import ARGUMENTS, PYTHON, run_script, seen_by_python, write_program

# Stands in for gcloud: notes its arguments; plays the hosts' shell when RUN_REMOTE is set.
GCLOUD = """#!/usr/bin/env python3
import json, os, subprocess, sys
with open(os.environ["CALLS"], "a") as file:
  print(json.dumps(sys.argv[1:]), file=file)
for argument in sys.argv:
  if argument.startswith("--command=") and os.environ.get("RUN_REMOTE"):
    sys.exit(subprocess.run(["bash", "-c", argument.split("=", 1)[1]]).returncode)
"""


@pytest.fixture
def tpu(launch, bench):
  """Runs tpu_vm.sh with a stand-in for gcloud: the result, its calls, the environment."""
  folder, base = bench
  write_program(folder / "gcloud", GCLOUD.replace("/usr/bin/env python3", sys.executable))
  write_program(folder / "git", f'#!/bin/bash\necho "git $*" >> {folder.parent}/git\n')
  calls = folder.parent / "calls"

  def run(*arguments, **env):
    calls.write_text("")
    environment = base | {"CALLS": str(calls), "ZONE": "us-west4-a"} | env
    result = run_script(launch / "tpu_vm.sh", *arguments, env=environment)
    return result, [json.loads(line) for line in calls.read_text().splitlines()], environment

  return run


RUN = ("run", *ARGUMENTS)
VERBS = [("create",), ("setup",), RUN, ("logs",), ("status",), ("stop",), ("delete",)]


@pytest.mark.parametrize("arguments", VERBS, ids=lambda arguments: arguments[0])
def test_tpu_dry_run_prints_what_would_run(tpu, arguments):
  result, calls, env = tpu(*arguments, DRY_RUN="1")
  assert result.returncode == 0, result.stderr
  assert calls == []
  assert not pathlib.Path(env["CALLS"]).with_name("git").exists()
  # The printed lines, given to a shell, call gcloud exactly as the script itself does.
  subprocess.run(["bash", "-c", result.stdout], env=env, check=True)
  printed = [json.loads(line) for line in pathlib.Path(env["CALLS"]).read_text().splitlines()]
  assert printed == tpu(*arguments)[1] != []
  for call in printed:
    assert call[:3] == ["compute", "tpus", "tpu-vm"]
    assert "--zone=us-west4-a" in call
    assert any(word == "jax-robust" or word.startswith("jax-robust:") for word in call)


def test_tpu_create_asks_for_what_was_set(tpu):
  settings = {"TPU_NAME": "mine", "ACCELERATOR_TYPE": "v6e-8", "RUNTIME_VERSION": "v2-alpha-tpuv6e"}
  call = tpu("create", PROJECT="p", SPOT="1", **settings)[1]
  flags = "--accelerator-type=v6e-8 --version=v2-alpha-tpuv6e --spot --zone=us-west4-a --project=p"
  assert call == [["compute", "tpus", "tpu-vm", "create", "mine", *flags.split()]]
  assert "--spot" not in tpu("create")[1][0]


def test_tpu_setup_installs_this_checkout_on_all_hosts(tpu, repository):
  _, (copy, install), env = tpu("setup")
  archive = f"{env['TMPDIR']}/jax_robust.tar.gz"
  git = pathlib.Path(env["CALLS"]).with_name("git").read_text()
  assert git == f"git -C {repository} archive --format=tar.gz --output={archive} HEAD\n"
  assert copy[3:7] == ["scp", archive, "jax-robust:jax_robust.tar.gz", "--worker=all"]
  assert install[3:6] == ["ssh", "jax-robust", "--worker=all"]
  assert '".[train,tpu]"' in install[6] and "--python 3.12" in install[6]
  subprocess.run(["bash", "-n", "-c", install[6].removeprefix("--command=")], check=True)


def test_tpu_setup_mounts_the_share(tpu, bench):
  assert not any("/mnt/shared" in word for call in tpu("setup")[1] for word in call)
  share = "10.0.0.2:/a share"
  _, (_, _, mount), env = tpu("setup", NFS=share)
  assert "--worker=all" in mount
  folder = bench[0]
  write_program(folder / "mountpoint", "#!/bin/sh\nexit 1\n")
  write_program(folder / "sudo", '#!/bin/sh\nprintf "%s|" "$@"\necho\n')
  script = next(word for word in mount if word.startswith("--command=")).removeprefix("--command=")
  run = ["bash", "-c", script]
  host = env | {"NFS": "not known there"}
  output = subprocess.run(run, env=host, capture_output=True, text=True, check=True).stdout
  assert f"mount|-t|nfs|{share}|/mnt/shared|" in output.splitlines()


@pytest.mark.thorough
def test_tpu_run_and_stop_on_a_host(tpu, bench):
  home = pathlib.Path(bench[1]["HOME"])
  write_program(home / "jax_robust/.venv/bin/python", PYTHON)
  result, (call,), _ = tpu(*RUN, RUN_REMOTE="1", ACT="slow")
  assert result.returncode == 0, result.stderr
  assert "--worker=all" in call
  log = home / "jax_robust.log"
  deadline = time.monotonic() + 30
  while "ready" not in (log.read_text() if log.exists() else "") and time.monotonic() < deadline:
    time.sleep(0.05)
  seen = seen_by_python(log.read_text())[0]
  assert seen["argv"] == ["-m", "jax_robust.main", *ARGUMENTS, "--config.distributed=True"]
  assert seen["cwd"] == str(home / "jax_robust")

  assert tpu("status", RUN_REMOTE="1")[0].stdout.splitlines()[-1] == "running"
  again = tpu(*RUN, RUN_REMOTE="1")[0]
  assert again.returncode == 1 and "running already" in again.stderr
  assert tpu("stop", RUN_REMOTE="1")[0].returncode == 0
  while (state := tpu("status", RUN_REMOTE="1")[0].stdout.split()[-1]) == "running":
    assert time.monotonic() < deadline
  assert state == "stopped"
  assert log.read_text().endswith("saved\n")  # it was asked to leave, not killed


def test_tpu_delete_does_not_ask(tpu):
  call = ["compute", "tpus", "tpu-vm", "delete", "jax-robust", "--quiet", "--zone=us-west4-a"]
  assert tpu("delete")[1] == [call]


@pytest.mark.parametrize(
  ("arguments", "zone", "named"),
  [
    (("run", ARGUMENTS[0]), "z", "--workdir"),
    (("run", ARGUMENTS[0], "--workdir=gs://bucket/run"), "z", "gs://bucket/run"),
    (("destroy",), "z", "destroy"),
    ((), "z", "create"),
    (("create",), "", "ZONE"),
  ],
)
def test_tpu_refuses_before_it_calls_gcloud(tpu, arguments, zone, named):
  result, calls, _ = tpu(*arguments, ZONE=zone)
  assert result.returncode != 0 and calls == []
  assert named in result.stderr
