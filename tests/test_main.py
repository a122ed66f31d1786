"""The command line: what it understands, what it answers, and its exit codes."""

import json
import pathlib
import runpy
import sys

import pytest

from jax_robust import config as config_lib
from jax_robust import errors, job_table, jobs, main
from jax_robust.errors import DataFileError, WorkdirError
from jax_robust.train.checkpoint import (
  CheckpointDamagedError,
  CheckpointMismatchError,
  CheckpointWriteError,
)
from jax_robust.train.loop import NonFiniteError
from jax_robust.train.metrics import MetricsFileError

TINY = pathlib.Path(__file__).parent / "tiny_config.py"


@pytest.fixture(autouse=True)
def no_cache_of_the_user(monkeypatch, tmp_path):
  """Leaves JAX's compilation cache and the loggers as they are."""
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "xla"))
  monkeypatch.setattr(main, "_set_up_logging", lambda: None)


@pytest.fixture
def job(monkeypatch):
  """`job(function)` runs in place of every job; it takes (config, workdir)."""

  def replace(function):
    monkeypatch.setattr(jobs, "run", function)

  return replace


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_worth_reading(capsys, flag):
  assert main.main(["--config=x", flag]) == 0
  text = capsys.readouterr().out
  assert text.startswith("Train, attack and export robust image classifiers.")
  of_jobs, of_configs = text.split("\nConfigs that ship")
  for name in job_table.JOBS:
    (line,) = [line for line in of_jobs.splitlines() if line.startswith(f"  {name} ")]
    assert len(line.split()) > 4, "every job says what it does"
  for name in config_lib.shipped():
    (line,) = [line for line in of_configs.splitlines() if line.startswith(f"  {name} ")]
    assert len(line.split()) > 4, "and so does every config"
  for flag in ("--config=FILE[:ARG]", "--config.KEY=VALUE", "--workdir=DIR", "--print-config"):
    assert flag in text
  for code in ("0 done", "2 a mistake", "143 asked to stop"):
    assert code in text
  assert max(map(len, text.splitlines())) <= 100


def test_a_config_of_an_earlier_version_gets_what_was_added_since(capsys, tmp_path):
  data = config_lib.to_data(config_lib.load("quickstart"))
  del data["autoattack"], data["evaluation"]["precision"]
  (tmp_path / "config.json").write_text(json.dumps(data))
  flags = [f"--config={tmp_path / 'config.json'}", "--config.autoattack.chunk_size=7"]
  assert main.main([*flags, "--print-config"]) == 0
  shown = json.loads(capsys.readouterr().out)
  assert shown["autoattack"]["chunk_size"] == 7 and shown["autoattack"]["version"] == "standard"
  assert shown["evaluation"]["precision"] == "highest"


def test_nothing_at_all_shows_the_help_and_is_a_mistake(capsys):
  assert main.main([]) == 2
  assert "Jobs, as config.job names them" in capsys.readouterr().out


def test_a_job_gets_the_config_with_its_changes_and_the_workdir(job):
  seen = []
  job(lambda config, workdir: seen.append((config, workdir)) or {})
  argv = [
    f"--config={TINY}:steps=9", "--workdir=/some/where", "--config.attack.eps=8/255",
    "--config.total_epochs=2", "--config.model.hidden=3,4", "--config.trackers=tensorboard",
  ]  # fmt: skip
  assert main.main(argv) == 0
  ((config, workdir),) = seen
  assert workdir == "/some/where"
  assert config.attack.eps == 8 / 255
  assert config.total_epochs == 2.0 and "total_steps" not in config
  assert config.model.hidden == (3, 4) and config.trackers == ("tensorboard",)
  assert config.save_steps == 2


def test_print_config_shows_the_changes_and_runs_nothing(capsys, tmp_path):
  argv = [f"--config={TINY}", "--config.seed=5", "--config.attack.eps=1/4", "--print-config"]
  assert main.main([*argv, f"--workdir={tmp_path / 'run'}"]) == 0
  printed = json.loads(capsys.readouterr().out)
  assert printed["seed"] == 5 and printed["attack"]["eps"] == 0.25
  assert not (tmp_path / "run").exists()
  (tmp_path / "config.json").write_text(json.dumps(printed))
  assert main.main([f"--config={tmp_path / 'config.json'}", "--print-config"]) == 0
  assert json.loads(capsys.readouterr().out) == printed


MISTAKES = [
  (["--workdir=x"], "--config=FILE is missing"),
  (["--config={tiny}"], "--workdir=DIR is missing"),
  (["--config={tiny}", "--workdir"], "--workdir needs a value"),
  (["--config={tiny}", "--workdir=gs://bucket/run"], "mount the bucket"),
  (["--config"], "--config needs a value"),
  (["--config={tiny}", "--workdir=x", "--config.seed"], "--config.seed needs a value"),
  (["--config={tiny}", "--wrkdir=x"], "unknown flag --wrkdir: did you mean 'workdir'?"),
  (["--config={tiny}", "--workdir=x", "train"], "'train' is not a flag"),
  (["--config={tiny}", "--workdir=x", "--config.sed=1"], "'sed': did you mean 'seed'?"),
  (["--config={tiny}", "--workdir=x", "--config.seed=a"], "seed='a': expected a value of type int"),
  (["--config={tiny}", "--workdir=x", "--config.job=trian"], "job='trian': did you mean 'train'?"),
  (["--config={tiny}:stps=1", "--workdir=x"], "argument 'stps': did you mean 'steps'?"),
  (["--config=quikstart", "--workdir=x"], "did you mean 'quickstart'?"),
  (["--config={tiny}", "--workdir=x", "--config.attack.name=pdg"], "did you mean 'pgd'"),
  (["--config={tiny}", "--workdir=x", "--config.init_from=confg.py"], "did you mean 'config.py'?"),
  (["--config={tiny}", "--workdir=x", "--config.generated.path="], "original_share=0.5 asks for"),
]


@pytest.mark.parametrize("argv, message", MISTAKES, ids=[" ".join(each[0]) for each in MISTAKES])
def test_a_mistake_is_a_message_and_exit_code_2(capsys, monkeypatch, tmp_path, argv, message):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "config.py").write_text("")
  assert main.main([item.format(tiny=TINY) for item in argv]) == 2
  captured = capsys.readouterr()
  assert message in captured.err
  assert captured.err.startswith("jax_robust: ") and "Traceback" not in captured.err


@pytest.mark.parametrize(
  "error, code, message",
  [
    (errors.ConfigError("no such block"), 2, "no such block"),
    (WorkdirError("of another run"), 2, "of another run"),
    (DataFileError("x.npz", "is truncated", "Fetch it again."), 2, "x.npz: is truncated. Fetch it"),
    (CheckpointMismatchError("kernel: (1,)"), 2, "kernel: (1,)"),
    (CheckpointDamagedError("can't be read"), 2, "can't be read"),
    (MetricsFileError("line 3"), 2, "line 3"),
    (CheckpointWriteError("could not write"), 1, "could not write"),
    (NonFiniteError("update 3"), 1, "update 3"),
    (
      OSError(28, "No space left on device"),
      1,
      "free space under there and start the same command",
    ),
    (PermissionError(13, "Permission denied", "file"), 1, "Permission denied: 'file'"),
    (KeyboardInterrupt(), 130, "goes on from the last checkpoint"),
  ],
)
def test_an_error_that_says_what_to_do_has_no_traceback(capsys, job, error, code, message):
  def fail(config, workdir):
    raise error

  job(fail)
  assert main.main([f"--config={TINY}", "--workdir=there"]) == code
  captured = capsys.readouterr()
  assert message in captured.err and "Traceback" not in captured.err


def test_a_bug_keeps_its_traceback(job):
  def fail(config, workdir):
    raise RuntimeError("a bug")

  job(fail)
  with pytest.raises(RuntimeError, match="a bug"):
    main.main([f"--config={TINY}", "--workdir=there"])


def test_a_stopped_job_is_143(job):
  job(lambda config, workdir: {"preempted": True})
  assert main.main([f"--config={TINY}", "--workdir=there"]) == 143


def test_the_module_runs_and_exits_with_the_code(monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["jax_robust", "--config=quikstart", "--workdir=x"])
  monkeypatch.delitem(sys.modules, "jax_robust.main")
  with pytest.raises(SystemExit) as caught:
    runpy.run_module("jax_robust.main", run_name="__main__")
  assert caught.value.code == 2
  assert "did you mean 'quickstart'?" in capsys.readouterr().err


def test_the_compilation_cache_is_the_users_unless_jax_was_told(monkeypatch, tmp_path):
  import jax

  updates = {}
  monkeypatch.setattr(jax.config, "update", updates.__setitem__)
  main.use_compilation_cache()
  assert not updates
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  main.use_compilation_cache()
  assert updates == {"jax_compilation_cache_dir": str(tmp_path / "jax_robust" / "xla")}


@pytest.mark.parametrize(
  ("told", "cores", "devices"),
  [({}, 2, 2), ({}, 96, 8), ({"JAX_NUM_CPU_DEVICES": "1"}, 2, None),
   ({"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}, 2, None)],
)  # fmt: skip
def test_every_core_is_a_device_unless_jax_was_told(monkeypatch, told, cores, devices):
  import jax

  updates = {}
  monkeypatch.setattr(jax.config, "update", updates.__setitem__)
  monkeypatch.setattr(main.os, "sched_getaffinity", lambda _: range(cores), raising=False)
  monkeypatch.setenv("XLA_FLAGS", "")
  monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
  for name, value in told.items():
    monkeypatch.setenv(name, value)
  main.use_every_core()
  assert updates.get("jax_num_cpu_devices") == devices
