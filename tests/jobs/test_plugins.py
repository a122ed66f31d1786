"""Plug-ins: what a module in another folder adds is trained, evaluated, and found again."""

import contextlib
import json
import pathlib
import sys
from unittest import mock

import jax.numpy as jnp
import pytest

import jax_robust
from jax_robust import attacks, job_table, main, models, objectives, plugins, trackers
from jax_robust import config as config_lib
from jax_robust.data import named
from jax_robust.errors import ConfigError
from jax_robust.evaluate import evaluators
from jax_robust.jobs import generate

FOLDER = pathlib.Path(__file__).parent.parent / "plug_in"


@pytest.fixture
def tables():
  """Whatever plug-ins add in this process is gone after the test."""
  every = (
    attacks.ATTACKS, objectives.OBJECTIVES, objectives.UPDATES, models.MODELS,
    evaluators.EVALUATORS, named.DATASETS, generate.METHODS, job_table.JOBS, trackers.TRACKERS,
  )  # fmt: skip
  with contextlib.ExitStack() as stack:
    for table in every:
      stack.enter_context(mock.patch.dict(table))
    yield
  for name in [name for name in sys.modules if name.startswith("robust_extras")]:
    del sys.modules[name]


@pytest.fixture
def run(command, tmp_path):
  """`run(job, *flags, workdir=)`: the command line in a process that knows no plug-in yet."""

  def run(job, *flags, config=FOLDER / "config.py", workdir="run"):
    flags = [f"--config.{flag}" for flag in (f"job={job}", *flags)]
    done = command([f"--config={config}", *flags, f"--workdir={tmp_path / workdir}"])
    assert done.code == 0, done.printed
    found = tmp_path / workdir / "results" / f"{job}.json"
    return json.loads(found.read_text()) if found.exists() else {}

  return run


@pytest.mark.thorough
def test_a_run_of_plug_ins_is_trained_and_reopened(run, tables, tmp_path, monkeypatch):
  assert run("train")["step"] == 8
  stored = tmp_path / "run" / "config.json"  # all that the later commands are given
  assert json.loads(stored.read_text())["imports_from"] == str(FOLDER)
  evaluated = run("evaluate", config=stored)
  assert evaluated["clean"] == 1.0 and set(evaluated["evals"]) == {"clean", "robust", "down"}
  assert [point["eps"] for point in evaluated["curve"]] == [0.0, 0.05, 0.1]
  lines = (tmp_path / "run" / "values.txt").read_text().split("\n")
  assert any(line.startswith("8 evaluate/down ") for line in lines)
  assert "8 results/evaluate/clean 1.0" in lines
  assert run("autoattack", "autoattack.version=apgd-ce", config=stored)["clean"] == 1.0
  assert run("weigh", "weigh.unit=10", config=stored)["parameters"] == (64 * 2 + 2) / 10
  run("export", config=stored)
  monkeypatch.setattr(sys, "path", list(sys.path))
  assert jax_robust.load(str(tmp_path / "run"))(jnp.zeros((3, 8, 8, 1))).shape == (3, 2)


def test_a_plug_in_makes_shards(run, tmp_path):
  run("generate", workdir="shards")
  manifest = json.loads((tmp_path / "shards" / "generated" / "manifest.json").read_text())
  assert manifest["num_examples"] == 20


def test_an_update_of_a_plug_in_steps_twice_a_batch(run, tmp_path):
  assert run("train", config=f"{FOLDER / 'config.py'}:objective=twice")["step"] == 8


def test_a_command_may_name_a_plug_in(tables, tmp_path, monkeypatch, capsys):
  (tmp_path / "one_more_attack.py").write_text(
    "from jax_robust import attacks\n"
    "def nothing(logits_fn, x, targets, rng, *, ball):\n"
    "  return x\n"
    "attacks.ATTACKS['nothing'] = nothing\n"
  )
  monkeypatch.syspath_prepend(str(tmp_path))
  argv = ["--config=quickstart:smoke", "--config.imports=one_more_attack", "--print-config"]
  assert main.main(argv) == 0
  assert json.loads(capsys.readouterr().out)["imports"] == ["one_more_attack"]
  assert "nothing" in attacks.ATTACKS


@pytest.mark.parametrize(
  "text, imports, message",
  [
    ("", ("no_such_module",), "No module named 'no_such_module'.*PYTHONPATH"),
    ("", ("no_such_package.part",), "No module named 'no_such_package'.*PYTHONPATH"),
    ("1 / 0", ("broken_plug_in",), "'broken_plug_in' can't be imported .ZeroDivisionError"),
    ("import nowhere_", ("broken_plug_in",), "No module named 'nowhere_'.$"),
    ("", "broken_plug_in", "expected a list of modules"),
    ("", (3,), "expected a list of modules"),
  ],
)
def test_a_plug_in_that_fails_is_named(tmp_path, monkeypatch, text, imports, message):
  (tmp_path / "broken_plug_in.py").write_text(text)
  monkeypatch.syspath_prepend(str(tmp_path))
  with pytest.raises(ConfigError, match=message):
    plugins.load(config_lib.from_data({"imports": imports}))


def test_an_installed_plug_in_needs_no_naming(tmp_path, monkeypatch):
  (tmp_path / "installed_plug_in.py").write_text("loaded = True\n")
  info = tmp_path / "installed_plug_in-1.0.dist-info"
  info.mkdir()
  (info / "METADATA").write_text("Metadata-Version: 2.1\nName: installed-plug-in\nVersion: 1.0\n")
  monkeypatch.syspath_prepend(str(tmp_path))
  try:
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nmine = installed_plug_in\n")
    plugins._load_installed.cache_clear()
    plugins.load({})
    assert sys.modules.pop("installed_plug_in").loaded
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nmine = installed_plug_out\n")
    plugins._load_installed.cache_clear()
    with pytest.raises(ConfigError, match="'mine' of the installed package installed-plug-in"):
      plugins.load({})
  finally:
    monkeypatch.undo()
    plugins._load_installed.cache_clear()


@pytest.mark.fast
def test_the_tracker_of_the_page_is_the_one_that_is_tested(repository):
  page = (repository / "docs" / "trackers.md").read_text()
  code = page.split("```python\n")[1].split("```")[0]
  assert (FOLDER / "robust_extras" / "tracker.py").read_text().endswith(code)
