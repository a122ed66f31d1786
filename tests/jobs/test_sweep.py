"""A grid of trainings: its cells, what they share, what stops one and not the others, the table."""

import json
import signal

import pytest

from jax_robust import jobs
from jax_robust.errors import ConfigError
from jax_robust.evaluate import sweep_plots
from jax_robust.evaluate.intervals import Interval, student_interval
from jax_robust.jobs import sweep
from jax_robust.runs import grid, workdir
from jax_robust.train.loop import NonFiniteError

GRID = "seed=0,1;objective.beta=1,6"


@pytest.fixture
def make(tiny):
  """`make(grid, **changes)`: a sweep of trainings of two steps."""

  def make(grid=GRID, **changes):
    changes = {f"sweep__{key}": value for key, value in changes.items()}
    return tiny("steps=2,save=2,evaluate=2", job="sweep", sweep__grid=grid, **changes)

  return make


@pytest.fixture
def runs(monkeypatch):
  """Trainings that take no time: a job writes what it found, and the test says what that is."""
  calls = []

  def run(config, place):
    calls.append((config.job, place.name))
    with workdir.claimed(str(place)):
      if config.job == "train":
        if config.objective.get("beta") == 66:
          raise NonFiniteError("the loss is NaN")
        return {"preempted": len(calls) == run.stop_at}
    value = 0.1 * config.seed + 0.01 * config.objective.get("beta", 0)
    return {"evals": ("clean",), "clean": value, "clean_interval": (value - 0.1, value + 0.1)}

  run.stop_at = 0
  monkeypatch.setattr(sweep.jobs, "run", run)
  run.calls = calls
  return run


@pytest.mark.thorough
def test_real_cells_are_trained_shared_and_put_together(command, run_flag, tmp_path):
  """Two starts with a share each in one workdir, one of them killed; then all in one table."""
  flags = [run_flag, "--config.total_steps=4", "--config.job=sweep", f"--workdir={tmp_path}"]
  flags += ["--config.sweep.grid=seed=0,1;objective.beta=6"]
  done = command([*flags, "--config.sweep.shard=1/2"], (signal.SIGKILL, "row", 1, 0))
  assert done.code == -9
  done = command([*flags, "--config.sweep.shard=0/2"])
  assert done.code == 0 and "cells that are not finished: 1, the first: seed=1" in done.printed, (
    done.printed
  )
  done = command(flags)
  assert done.code == 0 and "cell seed=0,objective.beta=6\n" not in done.printed
  result = json.loads((tmp_path / "results" / "sweep.json").read_text())
  (row,) = result["rows"]
  assert result["complete"] and row["changes"] == {"objective.beta": "6"}
  cells = [tmp_path / "cells" / f"seed={seed},objective.beta=6" for seed in (0, 1)]
  files = [cell / "results" / "evaluate.json" for cell in cells]
  values = [json.loads(file.read_text())["robust"] for file in files]
  assert row["means"]["robust"]["values"] == values
  assert (tmp_path / "results" / "sweep.png").stat().st_size > 10_000


def test_means_are_over_seeds_with_students_interval(make, runs, tmp_path):
  result = sweep.sweep(make("seed=0,1,2;objective.beta=1,6"), tmp_path)
  row = result["rows"][1]
  wanted = student_interval(sweep.np.array([0.06, 0.16, 0.26]))
  assert row["changes"] == {"objective.beta": "6"} and row["cells"] == 3
  mean = row["means"]["clean"]
  assert [mean[name] for name in ("value", "low", "high")] == pytest.approx(list(wanted))
  assert mean["sd"] == pytest.approx(0.1)
  assert sweep._said(mean) == "0.1600 ± 0.1000"


def test_of_one_seed_the_interval_is_that_of_the_images(make, runs, tmp_path):
  (row,) = sweep.sweep(make("objective.beta=6"), tmp_path)["rows"]
  assert row["means"]["clean"]["low"] == pytest.approx(-0.04)
  assert row["means"]["clean"]["sd"] is None


def test_rows_gain_over_the_baseline_seed_by_seed(make, runs, tmp_path, capsys):
  config = make("seed=0,1;objective.beta=1,6", baseline="objective.beta=4")
  result = sweep.sweep(config, tmp_path)
  base, low, high = result["rows"]
  assert base["changes"] == {"objective.beta": "4"} and base["gains"] == {} and base["cells"] == 2
  assert low["gains"]["clean"]["value"] == pytest.approx(-0.03)
  assert high["gains"]["clean"]["values"] == pytest.approx([0.02, 0.02])
  assert result["best"]["clean"]["changes"] == {"objective.beta": "6"}
  assert [name for job, name in runs.calls if job == "train"][:2] == [
    "seed=0,objective.beta=4", "seed=1,objective.beta=4"
  ]  # fmt: skip
  printed = capsys.readouterr().out
  assert "0.1100 ± 0.0707 (+0.0200)" in printed and "best gain of clean: +0.0200 [" in printed


def test_the_scatter_of_a_gain_is_that_of_all_rows(make, runs, tmp_path, monkeypatch):
  def numbers(config, *args, **kwargs):
    found = runs(config, *args, **kwargs)
    if "clean" in found and config.seed == 1 and config.objective.beta == 6:
      found["clean"] += 0.02
    return found

  monkeypatch.setattr(sweep.jobs, "run", numbers)
  config = make("seed=0,1;objective.beta=1,6", baseline="objective.beta=4")
  _, low, high = sweep.sweep(config, tmp_path)["rows"]
  table = [[0.04, 0.14], [0.01, 0.11], [0.06, 0.18]]
  half = sweep.intervals.block_half_width(sweep.np.array(table))
  for row, value in ((low, -0.03), (high, 0.03)):
    gain = row["gains"]["clean"]
    found = [gain[name] for name in ("value", "low", "high")]
    assert found == pytest.approx([value, value - half, value + half])
  bar = sweep._bar("clean", low, {"clean": {"value": 0.09}})
  assert bar == pytest.approx((0.06, 0.06 - half, 0.06 + half))


def test_a_row_without_all_seeds_has_students_interval(make, runs, tmp_path):
  pairs = {0: {"clean": (0.2, 0, 1)}, 1: {"clean": (0.3, 0, 1)}, 2: {"clean": (0.2, 0, 1)}}
  less = {seed: pairs[seed] for seed in (0, 2)}
  assert sweep._half_widths([pairs, less], pairs) == {}
  gain = sweep._gains({0: {"clean": (0.3, 0, 1)}, 1: {"clean": (0.5, 0, 1)}}, pairs, {"clean": 9.0})
  assert gain["clean"]["high"] == pytest.approx(student_interval(sweep.np.array([0.1, 0.2])).high)


def test_of_one_pair_a_gain_has_no_interval(make, runs, tmp_path, capsys):
  result = sweep.sweep(make("objective.beta=1", baseline="objective.beta=4"), tmp_path)
  gain = result["rows"][1]["gains"]["clean"]
  assert gain["low"] is None and gain["value"] == pytest.approx(-0.03)
  assert "best gain of clean: -0.0300 by objective.beta=1" in capsys.readouterr().out
  bar = sweep._bar("clean", result["rows"][1], {"clean": {"value": 0.04}})
  assert bar.value == pytest.approx(0.01)
  assert sweep.np.isnan(bar[1:]).all()  # not the interval of its images


def test_a_baseline_that_is_in_the_grid_is_trained_once(make, runs, tmp_path):
  result = sweep.sweep(make("seed=0;objective.beta=1,4", baseline="objective.beta=4"), tmp_path)
  assert [name for job, name in runs.calls if job == "train"] == [
    "seed=0,objective.beta=4", "seed=0,objective.beta=1"
  ]  # fmt: skip
  assert [row["gains"] != {} for row in result["rows"]] == [False, True]


def test_rows_whose_baseline_failed_have_no_gains(make, runs, tmp_path):
  result = sweep.sweep(make("objective.beta=1", baseline="objective.beta=66"), tmp_path)
  assert result["rows"][1]["gains"] == {} and result["best"] == {}


def test_what_is_finished_is_not_done_again_and_what_changes_is(make, runs, tmp_path):
  sweep.sweep(make("seed=0,1"), tmp_path)
  runs.calls.clear()
  sweep.sweep(make("seed=0,1,2"), tmp_path)
  assert runs.calls == [("train", "seed=2"), ("evaluate", "seed=2")]
  runs.calls.clear()
  config = make("seed=0,1,2")
  config.evaluation.num_examples = 8
  sweep.sweep(config, tmp_path)
  assert len(runs.calls) == 6


def test_blocks_that_no_job_of_a_cell_reads_do_not_make_it_another(make, runs, tmp_path):
  sweep.sweep(make("seed=0"), tmp_path)
  runs.calls.clear()
  config = make("seed=0")
  config.autoattack.version = "plus"
  del config.complementarity  # as in a config of a version that did not have the job
  sweep.sweep(config, tmp_path)
  assert not runs.calls
  with config.unlocked():
    config.sweep.then = ("evaluate", "autoattack")
  first, config.autoattack.version = sweep._digest(config, config.sweep.then), "standard"
  assert sweep._digest(config, config.sweep.then) != first


def test_a_cell_that_diverges_is_noted_and_the_others_go_on(make, runs, tmp_path, capsys):
  config = make("objective.beta=66,6")
  result = sweep.sweep(config, tmp_path)
  assert result["complete"] and result["rows"][0]["failed"] == {
    "objective.beta=66": "the loss is NaN"
  }
  assert result["rows"][0]["means"] == {} and result["rows"][1]["means"]
  assert "failed: objective.beta=66: the loss is NaN" in capsys.readouterr().out
  runs.calls.clear()
  sweep.sweep(config, tmp_path)
  assert runs.calls == []


def test_a_stop_ends_the_sweep(make, runs, tmp_path):
  runs.stop_at = 3
  assert sweep.sweep(make("seed=0,1,2"), tmp_path) == {"preempted": True}
  assert [name for _, name in runs.calls] == ["seed=0", "seed=0", "seed=1"]


@pytest.mark.parametrize(
  "grid, changes, message",
  [
    ("", {}, "sweep.grid is empty: write KEY=VALUE"),
    (" ; ", {}, "sweep.grid is empty"),
    ("seed", {}, "'seed' has no value"),
    ("seed=;objective.beta=1", {}, "'seed=' has no value"),
    ("seed=0,1;seed=2", {}, "'seed=2' has a key or a value twice"),
    ("seed=1,1", {}, "'seed=1,1' has a key or a value twice"),
    ("sed=0,1", {}, "the cell sed=0 of config.sweep.grid: unknown config key 'sed': did you"),
    ("seed=0,x", {}, "the cell seed=x of .*seed='x': expected a value of type int"),
    ("seed=0,-1", {}, "the cell seed=-1 of .*config.seed=-1: expected a whole number"),
    ("objective.beta=1", {"over": "beta"}, "sweep.over='beta' is no key of the grid"),
    ("seed=0", {"then": ("evalute",)}, "sweep.then='evalute': did you mean 'evaluate'"),
    ("seed=0", {"baseline": "seed=1"}, "sweep.baseline: seed=1: .*leave out 'seed', over which"),
    (
      "seed=0",
      {"baseline": "objective.beta=1,2"},
      "beta=1,2: write KEY=VALUE;KEY=VALUE, one value",
    ),
    ("seed=0", {"baseline": "bta=1"}, "the cell seed=0,bta=1 of .*unknown config key 'bta'"),
    ("seed=0", {"shard": "2/2"}, "sweep.shard='2/2': expected I/N"),
  ],
)
def test_a_mistake_is_found_before_a_cell_is_trained(make, tmp_path, grid, changes, message):
  with pytest.raises(ConfigError, match=message):
    jobs.run(make(grid, **changes), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_names_of_cells_are_names_of_folders_and_differ():
  cells = grid.read_grid("attack.eps=8/255,8_255;data.name=/a b,/a_b")
  names = [cell.name for cell in cells]
  assert len({*names}) == 4 and not any("/" in name or " " in name for name in names)
  assert grid.read_grid("model.channels=" + "9" * 300)[0].name.startswith("model.channels=9")
  assert len(grid.read_grid("model.channels=" + "9" * 300)[0].name) < 200


@pytest.mark.parametrize(
  "changes, key",
  [
    ([{"lr": "1/2", "name": "a"}, {"lr": "2", "name": "b"}, {"lr": "2", "name": "c"}], "lr"),
    ([{"name": "a", "kind": "x"}, {"name": "b", "kind": "x"}], "name"),
    ([{}], ""),
  ],
)
def test_numbers_are_the_abscissa(tmp_path, changes, key):
  points = [sweep_plots.Point(each, {"clean": Interval(0.5, 0.4, 0.6)}) for each in changes]
  assert sweep_plots._abscissa(points) == key
  sweep_plots.draw_sweep(tmp_path / "x.png", points, over="seed", baseline=points[0])
  assert (tmp_path / "x.png").stat().st_size > 5000


def test_certified_radii_are_in_the_table():
  average = {"value": 0.5, "standard_error": 0.1, "low": 0.4, "high": 0.6}
  found = {"certify_mlp_sigma0.25": {"complete": True, "average_certified_radius": average}}
  unfinished = {"certify_mlp_sigma1": {"complete": False}}
  numbers = sweep._numbers_of("certify", {**found, **unfinished})
  assert numbers == {"acr mlp_sigma0.25": [0.5, 0.4, 0.6]}
