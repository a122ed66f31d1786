"""Runs with trackers: killed, resumed, and with a tracker that dies; the run itself is the same."""

import functools
import json
import pathlib
import signal
import sys

import pytest

from jax_robust import main, plugins
from jax_robust.train import metrics

EXTRAS = pathlib.Path(__file__).parent.parent / "plug_in"
FINDS_EXTRAS = functools.partial(plugins.search, EXTRAS)

DYING = """
from robust_extras.tracker import Lines
from jax_robust import trackers

class Dying(Lines):
  def write(self, points):
    if self.path.exists():
      raise ConnectionError("it is gone")
    super().write(points[:1])

trackers.TRACKERS["lines"] = {name}
"""


def expected_lines(folder, job="train"):
  """What a tracker is to have of a run: each value of each row, and the numbers of a result."""
  lines = []
  for row in metrics.read_metrics(folder / "metrics.jsonl"):
    step, kind = row.pop("step"), row.pop("kind")
    lines += [f"{step} {kind}/{name} {value}" for name, value in row.items()]
  result = json.loads((folder / "results" / f"{job}.json").read_text())
  lines += [f"80 results/train/step {float(result['step'])}"]
  lines += [
    f"80 results/train/best/{name} {float(result['best'][name])}" for name in ("step", "value")
  ]
  return lines


def without_time(lines):
  """Rates of one start are not those of another."""
  return sorted(line for line in lines if "/time/" not in line)


def check_lines(lines, folder, num_kills=0):
  """Every line is there; what was being sent in the moment of a kill may be there twice."""
  found, wanted = without_time(lines), without_time(expected_lines(folder))
  assert sorted({*found}) == wanted
  assert len(found) - len(wanted) <= 30 * num_kills  # a send is a row or two


@pytest.fixture
def argv(run_flag, tmp_path):
  """The command line of the run of 80 steps, with the tracker of the plug-in."""
  folder = tmp_path / "run"
  more = ("imports=robust_extras.tracker", "trackers=lines")
  return [run_flag, f"--workdir={folder}", *(f"--config.{each}" for each in more)], folder


@pytest.mark.thorough
def test_a_killed_run_goes_on_in_its_tracker_where_it_was(command, argv, trained, left_behind):
  argv, folder = argv
  for end in ("row", 5), ("save", 3), ("row", 7):
    assert command(argv, (signal.SIGKILL, *end, 0.02), FINDS_EXTRAS).code == -signal.SIGKILL
  assert command(argv, None, FINDS_EXTRAS).code == 0
  assert left_behind(folder) == left_behind(trained)
  check_lines((folder / "lines.txt").read_text().split("\n")[:-1], folder, num_kills=3)
  before = (folder / "lines.txt").read_text()
  later = [f"--config={folder}/config.json", f"--workdir={folder}", "--config.job=track"]
  assert command(later, None, FINDS_EXTRAS).code == 0
  added = (folder / "lines.txt").read_text().removeprefix(before).split("\n")[:-1]
  assert added and all(" results/" in line for line in added)


@pytest.mark.thorough
def test_a_tracker_that_dies_changes_nothing_and_gets_the_rest_later(
  command, argv, trained, left_behind, tmp_path
):
  argv, folder = argv
  modules = tmp_path / "modules"
  modules.mkdir()
  (modules / "dying_tracker.py").write_text(DYING.format(name="Dying"))
  (modules / "robust_extras").symlink_to(EXTRAS / "robust_extras")
  finds = functools.partial(plugins.search, modules)
  done = command([*argv[:-2], "--config.imports=dying_tracker", argv[-1]], None, finds)
  assert done.code == 0 and left_behind(folder) == left_behind(trained)
  assert done.printed.count("warning: tracker lines gets nothing more") == 1
  assert done.printed.count("TrackerWarning") == 1
  (warning,) = json.loads((folder / "results" / "train.json").read_text())["warnings"]
  assert "ConnectionError: it is gone" in warning and "--config.job=track" in warning
  later = [f"--config={folder}/config.json", f"--workdir={folder}", "--config.job=track"]
  failed = command(later, None, finds)
  assert failed.code == 2 and "ConnectionError: it is gone" in failed.printed
  (modules / "dying_tracker.py").write_text(DYING.format(name="Lines"))
  assert command(later, None, finds).code == 0
  lines = (folder / "lines.txt").read_text().split("\n")[:-1]
  assert without_time(lines) == without_time(expected_lines(folder))


@pytest.mark.parametrize(
  "flags, message",
  [
    (["trackers=mlfow"], "config.trackers='mlfow': did you mean 'mlflow'?"),
    (["tracking.mlfow.experiment=x"], "unknown config key 'tracking.mlfow': did you mean"),
    (["tracking.mlflow.experimnt=x"], "did you mean 'tracking.mlflow.experiment'?"),
    (["trackers=wandb", "tracking.wandb.mode=offlin"], "mode='offlin': did you mean 'offline'?"),
    (["tensorboard=true"], "config key 'tensorboard' is now 'trackers'"),
    (["trackers=", "job=track"], "config.trackers is empty: name trackers to send to"),
  ],
)
def test_a_mistake_is_a_sentence(capsys, monkeypatch, copy, flags, message):
  monkeypatch.setattr(main, "_set_up_logging", lambda: None)
  argv = [f"--config={copy}/config.json", f"--workdir={copy}"]
  assert main.main([*argv, *(f"--config.{flag}" for flag in flags)]) == 2
  assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_named_with_its_extra(capsys, monkeypatch, copy, name):
  monkeypatch.setattr(main, "_set_up_logging", lambda: None)
  monkeypatch.setitem(sys.modules, name, None)
  argv = [f"--config={copy}/config.json", f"--workdir={copy}", f"--config.trackers={name}"]
  assert main.main([*argv, "--config.job=track"]) == 2
  printed = capsys.readouterr().err
  assert f"config.trackers: {name!r} needs a package" in printed
  assert f"pip install 'jax_robust[{name}]'" in printed
