"""The launchers without their clusters: lint, structure, runs with stand-ins for their commands."""

import ast
import collections
import json
import math
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib

import pytest
import yaml
from quick_compilation import XLA_FLAGS

SCRIPTS = ("local.sh", "slurm.sbatch", "tpu_vm.sh", "certify_array.sbatch")
CONFIG = "configs/cifar10_trades_ddpm.py"
ARGUMENTS = (f"--config={CONFIG}", "--workdir=a folder", "--config.objective.eps=8/255")
COORDINATION = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
STOPPED = 143

# Stands in for python: one JSON line with what it was given, then what the variable ACT says.
PYTHON = f"""#!{sys.executable}
import json, os, signal, sys, time
names = ("JAX_PLATFORMS", "XLA_FLAGS") + {COORDINATION}
seen = {{name: os.environ.get(name) for name in names}}
print(json.dumps({{"argv": sys.argv[1:], "cwd": os.getcwd(), **seen}}), flush=True)
act = os.environ.get("ACT_" + (seen["JAX_PROCESS_ID"] or ""), os.environ.get("ACT", "0"))
if act == "wait":
  signal.signal(signal.SIGTERM, lambda *_: sys.exit({STOPPED}))
  print("ready", flush=True)
  time.sleep(60)
elif act == "deaf":
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  time.sleep(60)
elif act == "slow":  # its save takes longer than the grace that is given to survivors of a failure
  def save(*_):
    time.sleep(1.5)
    print("saved", flush=True)
    sys.exit({STOPPED})
  signal.signal(signal.SIGTERM, save)
  print("ready", flush=True)
  time.sleep(60)
else:
  sys.exit(int(act))
"""


@pytest.fixture
def launch(repository):
  """The folder of the launchers."""
  return repository / "launch"


@pytest.fixture
def bench(tmp_path):
  """A folder on the PATH with the stand-in for python, and an environment with a home."""
  folder = tmp_path / "bin"
  folder.mkdir()
  _program(folder / "python", PYTHON)
  (tmp_path / "home").mkdir()
  path = f"{folder}:{os.environ['PATH']}"
  keep = {"PATH": path, "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path), "GRACE": "1"}
  return folder, keep


def _program(path, text):
  """Writes an executable file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)


def _run(script, *arguments, env, cwd=None):
  """Runs a launcher to its end."""
  command = ["bash", str(script), *arguments]
  return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=90)


def _seen(output):
  """The JSON lines of the stand-ins for python, by the rank in front of them."""
  lines = re.findall(r"^(?:\[(\d+)\] )?(\{.*\})$", output, re.MULTILINE)
  return {int(rank or 0): json.loads(line) for rank, line in lines}


# Files


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_finds_nothing(launch, name):
  beside = pathlib.Path(sys.executable).with_name("shellcheck")
  shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
  assert shellcheck, "shellcheck is missing: pip install -e '.[test]'"
  command = [shellcheck, "--shell=bash", "--severity=style", str(launch / name)]
  result = subprocess.run(command, capture_output=True, text=True)
  assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_strict_executable_bash(launch, name):
  text = (launch / name).read_text()
  assert text.startswith("#!/usr/bin/env bash\n")
  assert re.search(r"^set -euo pipefail$", text, re.MULTILINE)
  assert os.access(launch / name, os.X_OK)
  subprocess.run(["bash", "-n", str(launch / name)], check=True)


def test_readme_speaks_of_every_file_and_its_commands_exist(launch, repository):
  text = (launch / "README.md").read_text()
  for path in launch.iterdir():
    if path.name != "README.md":
      assert re.search(rf"^## {re.escape(path.name)}", text, re.MULTILINE), path.name
  for name in (*COORDINATION, "--config.distributed=True", str(STOPPED)):
    assert name in text
  for path in re.findall(r"(?:launch|configs)/[\w.]+", text):
    assert (repository / path).is_file(), f"launch/README.md names {path}, which is not there"


@pytest.mark.parametrize("name", ["slurm.sbatch", "jobset.yaml", "README.md"])
def test_the_config_that_is_named_exists(launch, repository, name):
  assert CONFIG in (launch / name).read_text()
  assert (repository / CONFIG).is_file()


# local.sh


def test_local_runs_main_with_its_arguments(launch, bench, tmp_path):
  result = _run(launch / "local.sh", *ARGUMENTS, env=bench[1], cwd=tmp_path)
  assert result.returncode == 0, result.stderr
  assert _seen(result.stdout) == {
    0: {
      "argv": ["-m", "jax_robust.main", *ARGUMENTS],
      "cwd": str(tmp_path),
      **dict.fromkeys(("JAX_PLATFORMS", "XLA_FLAGS", *COORDINATION)),
    }
  }


def test_local_devices_are_virtual_and_on_the_cpu(launch, bench):
  env = bench[1] | {"XLA_FLAGS": "--xla_dump_to=somewhere"}
  seen = _seen(_run(launch / "local.sh", "--devices=8", *ARGUMENTS, env=env).stdout)[0]
  assert seen["JAX_PLATFORMS"] == "cpu"
  flags = ["--xla_dump_to=somewhere", "--xla_force_host_platform_device_count=8"]
  assert seen["XLA_FLAGS"].split() == flags
  assert seen["argv"] == ["-m", "jax_robust.main", *ARGUMENTS]


def test_local_processes_are_told_who_they_are(launch, bench):
  env = bench[1] | {"PORT": "23456"}
  result = _run(launch / "local.sh", "--processes=3", *ARGUMENTS, env=env)
  assert result.returncode == 0, result.stderr
  seen = _seen(result.stdout)
  assert sorted(seen) == [0, 1, 2]
  for rank, process in seen.items():
    assert [process[name] for name in COORDINATION] == ["localhost:23456", "3", str(rank)]
    assert process["argv"] == ["-m", "jax_robust.main", *ARGUMENTS, "--config.distributed=True"]
    assert process["JAX_PLATFORMS"] == "cpu"
    assert process["XLA_FLAGS"] == "--xla_force_host_platform_device_count=1"


def test_local_processes_meet_in_jax(launch, bench):
  meet = (
    "import os, jax; a, n, i = (os.environ[k] for k in"
    f" {COORDINATION}); jax.distributed.initialize(a, int(n), int(i));"
    " print('met', jax.process_index(), jax.process_count(), jax.device_count(), flush=True)"
  )
  python = f"#!/bin/sh\nexec {sys.executable} -c {shlex.quote(meet)}\n"
  _program(bench[0] / "python", python)
  result = _run(launch / "local.sh", "--processes=2", "--devices=2", *ARGUMENTS, env=bench[1])
  assert result.returncode == 0, result.stdout
  met = re.findall(r"met (.*)", result.stdout)
  assert sorted(met) == ["0 2 4", "1 2 4"]


def test_local_dry_run_prints_the_commands_and_runs_nothing(launch, bench):
  (bench[0] / "python").unlink()
  env = bench[1] | {"PORT": "23456", "PYTHON": "python"}
  result = _run(launch / "local.sh", "--dry-run", "--processes=2", *ARGUMENTS, env=env)
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
  result = _run(launch / "local.sh", "--processes=2", *ARGUMENTS, env=env)
  assert result.returncode == (0 if acts == {"ACT": "0"} else 3)
  assert time.monotonic() - start < 30  # the one that waits is ended, and would else wait for 60 s


def test_local_ends_a_process_that_ignores_sigterm_after_another_failed(launch, bench):
  start = time.monotonic()
  env = bench[1] | {"ACT_0": "deaf", "ACT_1": "4"}
  assert _run(launch / "local.sh", "--processes=2", *ARGUMENTS, env=env).returncode == 4
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
  result = _run(launch / "local.sh", *([wrong, *ARGUMENTS] if wrong else []), env=bench[1])
  assert result.returncode == 2
  assert "expected" in result.stderr and wrong in result.stderr


def test_local_help_is_its_header(launch, bench):
  result = _run(launch / "local.sh", "--help", env=bench[1])
  assert result.returncode == 0
  assert "--processes=P" in result.stdout and "set -" not in result.stdout


# slurm.sbatch


def _directives(launch, script="slurm.sbatch"):
  """The sbatch directives that SLURM would read: those before the first command."""
  text = (launch / script).read_text()
  head = text[: text.index("\nset -euo")]
  found = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", head, re.MULTILINE)
  assert len(found) == text.count("#SBATCH"), "a directive after the first command is ignored"
  assert len({name for name, _ in found}) == len(found)
  return dict(found)


def test_slurm_directives(launch):
  directives = _directives(launch)
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


def _slurm(launch, bench, *arguments, script="slurm.sbatch", act="0", state="RUNNING", **env):
  """Runs the script with stand-ins for srun, squeue, scontrol: the result and their calls."""
  folder, base = bench
  log = folder.parent / "calls"
  log.write_text("")
  _program(
    folder / "srun",
    f'#!/bin/bash\necho "srun $*" >> {log}\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
  )
  _program(folder / "squeue", f'#!/bin/bash\necho "squeue $*" >> {log}\necho {state}\n')
  _program(folder / "scontrol", f'#!/bin/bash\necho "scontrol $*" >> {log}\n')
  environment = base | {"SLURM_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "6", "ACT": act} | env
  result = _run(launch / script, *arguments, env=environment)
  return result, log.read_text().splitlines()


def test_slurm_runs_main_in_every_task(launch, bench):
  leftover = dict.fromkeys(COORDINATION, "1")
  result, calls = _slurm(launch, bench, *ARGUMENTS, **leftover)
  assert result.returncode == 0, result.stderr
  seen = _seen(result.stdout)[0]
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
  result, calls = _slurm(launch, bench, *ARGUMENTS, act=str(act), state=state)
  assert ("scontrol requeue 77" in calls) == requeued
  assert result.returncode == act
  assert any("--jobs=77" in call for call in calls) == (act == STOPPED)


def test_slurm_script_outlives_a_sigterm(launch, bench):
  _program(bench[0] / "python", f"#!/bin/bash\nkill -TERM $PPID\nsleep .2\nexit {STOPPED}\n")
  result, calls = _slurm(launch, bench, *ARGUMENTS)
  assert result.returncode == STOPPED and "scontrol requeue 77" in calls


def test_slurm_refuses_a_run_without_workdir(launch, bench):
  result, calls = _slurm(launch, bench, ARGUMENTS[0])
  assert result.returncode == 2 and calls == []
  assert "--workdir" in result.stderr


# tpu_vm.sh

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
  _program(folder / "gcloud", GCLOUD.replace("/usr/bin/env python3", sys.executable))
  _program(folder / "git", f'#!/bin/bash\necho "git $*" >> {folder.parent}/git\n')
  calls = folder.parent / "calls"

  def run(*arguments, **env):
    calls.write_text("")
    environment = base | {"CALLS": str(calls), "ZONE": "us-west4-a"} | env
    result = _run(launch / "tpu_vm.sh", *arguments, env=environment)
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
  assert '".[tpu]"' in install[6] and "--python 3.12" in install[6]
  subprocess.run(["bash", "-n", "-c", install[6].removeprefix("--command=")], check=True)


def test_tpu_setup_mounts_the_share(tpu, bench):
  assert not any("/mnt/shared" in word for call in tpu("setup")[1] for word in call)
  share = "10.0.0.2:/a share"
  _, (_, _, mount), env = tpu("setup", NFS=share)
  assert "--worker=all" in mount
  folder = bench[0]
  _program(folder / "mountpoint", "#!/bin/sh\nexit 1\n")
  _program(folder / "sudo", '#!/bin/sh\nprintf "%s|" "$@"\necho\n')
  script = next(word for word in mount if word.startswith("--command=")).removeprefix("--command=")
  run = ["bash", "-c", script]
  host = env | {"NFS": "not known there"}
  output = subprocess.run(run, env=host, capture_output=True, text=True, check=True).stdout
  assert f"mount|-t|nfs|{share}|/mnt/shared|" in output.splitlines()


def test_tpu_run_and_stop_on_a_host(tpu, bench):
  home = pathlib.Path(bench[1]["HOME"])
  _program(home / "jax_robust/.venv/bin/python", PYTHON)
  result, (call,), _ = tpu(*RUN, RUN_REMOTE="1", ACT="slow")
  assert result.returncode == 0, result.stderr
  assert "--worker=all" in call
  log = home / "jax_robust.log"
  deadline = time.monotonic() + 30
  while "ready" not in (log.read_text() if log.exists() else "") and time.monotonic() < deadline:
    time.sleep(0.05)
  seen = _seen(log.read_text())[0]
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


# jobset.yaml


@pytest.fixture
def documents(launch):
  """The documents of jobset.yaml by their label `part`."""
  found = list(yaml.safe_load_all((launch / "jobset.yaml").read_text()))
  named = {document["metadata"]["labels"]["part"]: document for document in found}
  assert len(named) == len(found)
  return named


# The fields that are used, with their types: an object is a dict, a list holds one example, a set
# the values allowed. Not the whole API: what is not here is refused, so that slips are found.
JOBSET = {
  "apiVersion": {"jobset.x-k8s.io/v1alpha2"},
  "kind": {"JobSet"},
  "metadata": {"name": str, "labels": dict, "annotations?": dict},
  "spec": {
    "network": {"enableDNSHostnames": {True}},
    "failurePolicy": {
      "maxRestarts": int,
      "rules": [
        {
          "name": str,
          "action": {"RestartJobSetAndIgnoreMaxRestarts"},
          "onJobFailureReasons": [{"PodFailurePolicy"}],
        }
      ],
    },
    "replicatedJobs": [
      {
        "name": str,
        "replicas": {1},
        "template": {
          "spec": {
            "completionMode": {"Indexed"},
            "parallelism": int,
            "completions": int,
            "backoffLimit": {0},
            "podFailurePolicy": {
              "rules": [
                {
                  "action": {"FailJob"},
                  "onPodConditions?": [{"type": {"DisruptionTarget"}, "status": {"True"}}],
                  "onExitCodes?": {"operator": {"In"}, "values": [{STOPPED}]},
                }
              ]
            },
            "template": {
              "spec": {
                "restartPolicy": {"Never"},
                "terminationGracePeriodSeconds": int,
                "nodeSelector?": dict,
                "securityContext": {"runAsNonRoot": {True}, "runAsUser": int, "fsGroup": int},
                "containers": [
                  {
                    "name": str,
                    "image": str,
                    "command": [str],
                    "env?": [
                      {"name": str, "value?": str, "valueFrom?": {"fieldRef": {"fieldPath": str}}}
                    ],
                    "ports": [{"containerPort": int, "name": str}],
                    "resources": {"requests": dict, "limits": dict},
                    "volumeMounts": [{"name": str, "mountPath": str}],
                  }
                ],
                "volumes": [
                  {
                    "name": str,
                    "persistentVolumeClaim?": {"claimName": str},
                    "emptyDir?": {"medium": {"Memory"}},
                  }
                ],
              }
            },
          }
        },
      }
    ],
  },
}


def _check(value, schema, where):
  """Holds a YAML value against the little schema above."""
  if isinstance(schema, dict):
    assert isinstance(value, dict), where
    names = {name.removesuffix("?"): name for name in schema}
    assert set(value) <= set(names), f"{where}: unknown {set(value) - set(names)}"
    assert {name for name in schema if not name.endswith("?")} <= set(value), where
    for name, inner in value.items():
      _check(inner, schema[names[name]], f"{where}.{name}")
  elif isinstance(schema, list):
    assert isinstance(value, list) and value, where
    for index, inner in enumerate(value):
      _check(inner, schema[0], f"{where}[{index}]")
  elif isinstance(schema, set):
    assert value in schema and type(value) in map(type, schema), f"{where}: {value!r}"
  else:
    assert type(value) is schema, f"{where}: {value!r}"


def _pods(document):
  """The job and the pod template of a JobSet with one replicated job."""
  (replicated,) = document["spec"]["replicatedJobs"]
  job = replicated["template"]["spec"]
  return replicated["name"], job, job["template"]["spec"]


def test_jobset_parts(documents):
  assert set(documents) == {"storage", "tpu", "gpu"}
  storage = documents["storage"]
  assert (storage["apiVersion"], storage["kind"]) == ("v1", "PersistentVolumeClaim")
  assert storage["spec"]["accessModes"] == ["ReadWriteMany"]
  assert set(storage["spec"]["resources"]["requests"]) == {"storage"}


@pytest.mark.parametrize("part", ["tpu", "gpu"])
def test_jobset_structure(documents, part):
  document = documents[part]
  _check(document, JOBSET, part)
  assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", document["metadata"]["name"])
  assert document["spec"]["failurePolicy"]["maxRestarts"] >= 1
  _, job, pod = _pods(document)
  assert job["parallelism"] == job["completions"] >= 1
  causes = collections.Counter(key for rule in job["podFailurePolicy"]["rules"] for key in rule)
  assert causes == {"action": 2, "onPodConditions": 1, "onExitCodes": 1}
  assert pod["terminationGracePeriodSeconds"] >= 60
  (container,) = pod["containers"]
  assert container["resources"]["requests"] == container["resources"]["limits"]


@pytest.mark.parametrize("part", ["tpu", "gpu"])
def test_jobset_runs_main_on_the_shared_volume(documents, repository, part):
  _, _, pod = _pods(documents[part])
  (container,) = pod["containers"]
  assert container["command"][:3] == ["python", "-m", "jax_robust.main"]
  flags = dict(flag.split("=", 1) for flag in container["command"][3:])
  assert set(flags) == {"--config", "--workdir", "--config.data_dir", "--config.distributed"}
  assert flags["--config.distributed"] == "True"
  assert flags["--config"] == CONFIG and (repository / CONFIG).is_file()
  volumes = {volume["name"]: volume for volume in pod["volumes"]}
  mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
  claim = mounts["/shared"]["persistentVolumeClaim"]["claimName"]
  assert claim == documents["storage"]["metadata"]["name"]
  assert flags["--workdir"].startswith("/shared/")
  assert flags["--config.data_dir"].startswith("/shared/")
  assert set(volumes) == {mount["name"] for mount in container["volumeMounts"]}
  assert ("/dev/shm" in mounts) == (part == "gpu")


def test_jobset_gpu_processes_are_told_who_they_are(documents):
  document = documents["gpu"]
  name, job, pod = _pods(document)
  (container,) = pod["containers"]
  env = {variable["name"]: variable for variable in container["env"]}
  assert tuple(env) == COORDINATION
  jobset = document["metadata"]["name"]
  host, port = env["JAX_COORDINATOR_ADDRESS"]["value"].split(":")
  assert host == f"{jobset}-{name}-0-0.{jobset}"
  assert int(port) in [entry["containerPort"] for entry in container["ports"]]
  assert env["JAX_NUM_PROCESSES"]["value"] == str(job["completions"])
  path = env["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
  assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
  assert list(container["resources"]["limits"]) == ["nvidia.com/gpu"]


def test_jobset_tpu_hosts_make_up_the_slice(documents):
  document = documents["tpu"]
  _, job, pod = _pods(document)
  (container,) = pod["containers"]
  topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
  assert "cloud.google.com/gke-tpu-accelerator" in pod["nodeSelector"]
  chips = math.prod(map(int, topology.split("x")))
  assert chips == job["parallelism"] * container["resources"]["limits"]["google.com/tpu"]
  assert "env" not in container  # GKE's own variables say who is who
  placement = document["metadata"]["annotations"]["alpha.jobset.sigs.k8s.io/exclusive-topology"]
  assert placement == "cloud.google.com/gke-nodepool"


# certify_array.sbatch and certify_jobset.yaml

CERTIFY = ("--config=RUN/config.json", "--config.smoothing.weights=RUN", "--workdir=a folder")


def _array(launch, bench, *arguments, task=None, tasks=16, act="0", state="RUNNING", **env):
  """Runs the script as task `task` of an array, or without one: the result and SLURM's calls."""
  array = {"ID": task, "COUNT": tasks, "MAX": tasks - 1}
  if task is not None:
    env = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in array.items()} | env
  return _slurm(
    launch, bench, *arguments, script="certify_array.sbatch", act=act, state=state, **env
  )


def test_certify_array_directives(launch):
  directives = _directives(launch, "certify_array.sbatch")
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
    seen = _seen(result.stdout)[0]
    number = pieces.get("PIECES", "16")
    assert seen["argv"] == [
      "-m", "jax_robust.main", *CERTIFY, "--config.job=certify",
      f"--config.smoothing.shard={task}/{number}", f"--workdir=a folder/pieces/{task}",
    ]  # fmt: skip
    assert [seen[name] for name in COORDINATION] == [None] * 3
    assert len(calls) == 1 and calls[0].startswith("srun --ntasks=1 --cpus-per-task=6 python -m")


def test_certify_array_merges_without_an_array(launch, bench):
  result, calls = _array(launch, bench, *CERTIFY)
  assert result.returncode == 0, result.stderr
  merge = ["--config.job=merge", "--config.smoothing.pieces=a folder/pieces/*"]
  assert _seen(result.stdout)[0]["argv"] == ["-m", "jax_robust.main", *CERTIFY, *merge]
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
  assert "--config.smoothing.shard=3/16" in _seen(result.stdout)[0]["argv"]


@pytest.mark.slow
def test_certify_array_certifies(launch, bench, tmp_path, repository):
  """With Python itself: two pieces and the merge, of a net of two steps."""
  _program(bench[0] / "python", f'#!/bin/bash\nexec {sys.executable} "$@"\n')
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


@pytest.fixture
def certify_documents(launch):
  """The documents of certify_jobset.yaml by their label `part`."""
  found = list(yaml.safe_load_all((launch / "certify_jobset.yaml").read_text()))
  return {document["metadata"]["labels"]["part"]: document for document in found}


def _flags(job):
  """The flags of the one container of a job's pods; the command before them is main's."""
  (container,) = job["template"]["spec"]["containers"]
  assert container["command"][:3] == ["python", "-m", "jax_robust.main"]
  return dict(flag.split("=", 1) for flag in container["command"][3:])


def test_certify_jobset_of_a_slice_is_that_of_training(certify_documents, documents):
  """But for the name and what it runs."""
  assert set(certify_documents) == {"pieces", "tpu"}
  document, training = certify_documents["tpu"], documents["tpu"]
  _check(document, JOBSET, "tpu")
  flags = _flags(_pods(document)[1])
  assert flags["--config.job"] == "certify" and flags["--config.distributed"] == "True"
  assert set(flags) == {
    "--config", "--config.job", "--config.smoothing.weights", "--config.data_dir", "--workdir",
    "--config.distributed",
  }  # fmt: skip
  for each in (document, training):
    pod = _pods(each)[2]
    pod["containers"][0]["command"] = pod["terminationGracePeriodSeconds"] = each["metadata"] = None
  assert document == training


def test_certify_jobset_pieces_and_their_merge(certify_documents):
  document = certify_documents["pieces"]
  assert document["spec"]["failurePolicy"] == {"maxRestarts": 0}
  pieces, merge = document["spec"]["replicatedJobs"]
  assert merge["dependsOn"] == [{"name": pieces["name"], "status": "Complete"}]
  pieces, merge = (each["template"]["spec"] for each in (pieces, merge))
  assert pieces["completionMode"] == "Indexed" and pieces["parallelism"] <= pieces["completions"]
  ours, theirs = _flags(pieces), _flags(merge)
  assert (ours["--config.job"], theirs["--config.job"]) == ("certify", "merge")
  index = "$(JOB_COMPLETION_INDEX)"
  assert ours["--config.smoothing.shard"] == f"{index}/{pieces['completions']}"
  assert theirs["--config.smoothing.pieces"] == f"{theirs['--workdir']}/pieces/*"
  assert ours["--workdir"] == f"{theirs['--workdir']}/pieces/{index}"
  assert (
    ours["--config"] == theirs["--config"] == ours["--config.smoothing.weights"] + "/config.json"
  )
  (variable,) = pieces["template"]["spec"]["containers"][0]["env"]
  path = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
  assert variable == {
    "name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": path}}
  }  # fmt: skip
  rules = pieces["podFailurePolicy"]["rules"]
  codes = {tuple(r["onExitCodes"]["values"]): r["action"] for r in rules if "onExitCodes" in r}
  assert codes == {(STOPPED,): "Ignore", (2,): "FailJob"}


def test_certify_jobset_uses_the_storage_of_training(certify_documents, documents):
  claim = documents["storage"]["metadata"]["name"]
  for document in certify_documents.values():
    for job in document["spec"]["replicatedJobs"]:
      pod = job["template"]["spec"]["template"]["spec"]
      (volume,), (container,) = pod["volumes"], pod["containers"]
      assert volume["persistentVolumeClaim"]["claimName"] == claim
      assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/shared"}]
      assert container["resources"]["requests"] == container["resources"]["limits"]
      flags = _flags(job["template"]["spec"])
      assert all(
        flags[name].startswith("/shared/") for name in ("--config", "--workdir") if name in flags
      )


@pytest.mark.parametrize("name", ["certify_array.sbatch", "certify_jobset.yaml"])
def test_certify_flags_are_those_of_a_config(launch, repository, name):
  """What the files set exists: main itself reads the flags."""
  text = (launch / name).read_text()
  keys = set(re.findall(r"--config\.([\w.]+)=", text))
  assert {"job", "smoothing.shard", "smoothing.pieces", "smoothing.weights"} <= keys
  config = f"--config={repository}/configs/mnist_smoothing.py"
  values = {"job": "certify", "smoothing.shard": "0/2", "distributed": "True"}
  flags = [f"--config.{key}={values.get(key, 'x')}" for key in sorted(keys)]
  from jax_robust import main

  assert main.main([config, *flags, "--print-config"]) == 0


# Dockerfile


def _instructions(launch):
  """The instructions of the Dockerfile in order: (name, value), lines joined, no comments."""
  lines = (launch / "Dockerfile").read_text().splitlines()
  text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
  joined = text.replace("\\\n", " ").splitlines()
  found = [line.split(maxsplit=1) for line in joined if line.strip()]
  assert {name for name, _ in found} <= {
    *("FROM", "ARG", "WORKDIR", "COPY", "RUN", "USER", "ENV", "ENTRYPOINT")
  }
  return found


def _project(repository):
  """The project table of pyproject.toml."""
  return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


def test_docker_base_is_a_supported_python(launch, repository):
  instructions = _instructions(launch)
  (base,) = [value for name, value in instructions if name == "FROM"]
  assert instructions[0] == ["FROM", base]
  version = re.fullmatch(r"python:(\d+\.\d+)-slim", base).group(1)
  project = _project(repository)
  lower = re.fullmatch(r">=(\d+)\.(\d+)", project["requires-python"]).groups()
  assert tuple(map(int, version.split("."))) >= tuple(map(int, lower))
  assert f"Programming Language :: Python :: {version}" in project["classifiers"]


def test_docker_copies_what_the_package_is_built_from(launch, repository):
  copied = []
  for name, value in _instructions(launch):
    if name == "COPY":
      *sources, target = value.split()
      copied += sources
      assert target in ("./", *sources)
  assert {"pyproject.toml", "jax_robust", "configs"} <= set(copied)
  project = _project(repository)
  assert {project["readme"], *project["license-files"]} <= set(copied)
  for source in copied:
    assert (repository / source).exists(), f"launch/Dockerfile copies {source}, which is not there"


@pytest.mark.parametrize("extra", ["cuda", "tpu", ""])
def test_docker_installs_the_extra(launch, repository, extra):
  instructions = _instructions(launch)
  names = [name for name, _ in instructions]
  default = dict(instructions)["ARG"].removeprefix("EXTRA=")
  extras = _project(repository)["optional-dependencies"]
  assert default in extras and (not extra or extra in extras)
  (install,) = [value for name, value in instructions if name == "RUN" and "pip" in value]
  assert names.index("ARG") > names.index("FROM")  # before FROM it would be empty in the RUN
  last_copy = max(index for index, name in enumerate(names) if name == "COPY")
  assert last_copy < instructions.index(["RUN", install]) < names.index("USER")
  expanded = subprocess.run(
    ["sh", "-c", install.replace("pip install", "echo")],
    env=os.environ | {"EXTRA": extra},
    capture_output=True,
    text=True,
    check=True,
  )
  assert expanded.stdout.split() == ["--no-cache-dir", f".[{extra}]" if extra else "."]


def test_docker_runs_main_as_an_unprivileged_user(launch, documents):
  instructions = _instructions(launch)
  values = dict(instructions)
  (user,) = [value for name, value in instructions if name == "USER"]
  (added,) = [value for name, value in instructions if name == "RUN" and "useradd" in value]
  assert int(user) > 0 and f"--uid {user} " in added
  for part in ("tpu", "gpu"):
    assert _pods(documents[part])[2]["securityContext"]["runAsUser"] == int(user)
  entry = ast.literal_eval(values["ENTRYPOINT"])  # the exec form, or SIGTERM ends in a shell
  assert entry == ["python", "-m", "jax_robust.main"]
  assert instructions[-1][0] == "ENTRYPOINT"
