"""Checkpoints, `data.json` and `config.json` of one workdir are of one run, or are refused."""

import json
import pathlib
import shutil

import earlier
import pytest

from jax_robust import jobs
from jax_robust.errors import WorkdirError
from jax_robust.runs import belonging, weights, workdir
from jax_robust.train import checkpoint


@pytest.fixture(scope="module")
def make(tiny):
  """`make(job, **changes)`: the config of a training of two steps, or of a job on it."""

  def config(job="train", **changes):
    made = tiny("steps=2,save=2,evaluate=2", evaluation__num_examples=4, **changes)
    made.job = job
    return made

  return config


@pytest.fixture(scope="module")
def runs(make, tmp_path_factory):
  """Two workdirs that differ in the seed alone: look, don't touch."""
  folder = tmp_path_factory.mktemp("runs")
  for seed in range(2):
    jobs.run(make(seed=seed), folder / str(seed))
  return folder


@pytest.fixture
def run(runs, tmp_path):
  """A copy of the first."""
  return pathlib.Path(shutil.copytree(runs / "0", tmp_path / "run"))


def change_json(path, change):
  """Writes a JSON file again, changed in place."""
  data = json.loads(path.read_text())
  change(data)
  path.write_text(json.dumps(data))


def change_note(**values):
  return lambda run, other: change_json(run / "data.json", lambda note: note.update(values))


def change_config(block, **values):
  return lambda run, other: change_json(
    run / "config.json", lambda config: config[block].update(values)
  )


def copy_checkpoints(*kinds):
  """Puts the other run's checkpoints in place of the run's own."""

  def change(run, other):
    for kind in kinds:
      shutil.rmtree(run / "checkpoints" / kind)
      shutil.copytree(other / "checkpoints" / kind, run / "checkpoints" / kind)

  return change


MIXED = {
  "checkpoints": (copy_checkpoints("latest", "best"), "seed: 1 there, 0 here"),
  "best": (copy_checkpoints("best"), "seed: 1 there, 0 here"),
  "no data.json": (
    lambda run, other: (run / "data.json").unlink(), r"has no data\.json.*start the training again",
  ),
  "a class less": (change_note(num_classes=9), "data.json: num_classes is another there"),
  "smaller images": (change_note(image_shape=[6, 6, 3]), "image_shape is another there"),
  "another net": (
    change_config("model", activation="swish"), "model.activation: 'absent' there, 'swish' here",
  ),
  "another loss": (change_config("objective", beta=1.0), "objective.beta: 6.0 there, 1.0 here"),
}  # fmt: skip


@pytest.mark.parametrize("change, message", MIXED.values(), ids=MIXED)
def test_parts_of_another_run_are_refused(runs, run, change, message):
  assert weights.run_weights(run, which="best")
  change(run, runs / "1")
  with pytest.raises(WorkdirError, match=f"(?s){message}"):
    weights.run_weights(run, which="best")


@pytest.mark.parametrize("kind", checkpoint.KINDS)
def test_a_training_does_not_go_on_from_the_checkpoints_of_another(make, runs, run, kind):
  copy_checkpoints(kind)(run, runs / "1")
  (run / "data.json").unlink()  # so that writing it anew would show
  with pytest.raises(WorkdirError, match="(?s)are those of another run than this one:.*seed: 1"):
    jobs.run(make(), run)
  assert not (run / "data.json").exists()


def test_a_lost_note_is_written_anew_by_the_training_for_the_same_data_only(make, run, monkeypatch):
  noted = (run / "data.json").read_bytes()
  (run / "data.json").unlink()
  with pytest.raises(WorkdirError, match=r"has no data\.json"):
    jobs.run(make("evaluate"), run)
  with monkeypatch.context() as patch:
    patch.setattr(workdir, "describe_data", lambda *_, **__: {"num_classes": 9})
    with pytest.raises(WorkdirError, match="data.json: num_classes is another there"):
      jobs.run(make(), run)
  assert not (run / "data.json").exists()
  jobs.run(make(), run)
  assert (run / "data.json").read_bytes() == noted


def test_data_may_have_moved(make, run):
  """What is a path in both configs is not compared: what `data.json` says of the images is."""
  there = workdir.up_to_date({**workdir.read_config(run), "generated": {"path": "made"}})
  moved = {**there, "data": {**there["data"], "name": "/new/pets"}}
  there["data"]["name"] = "/old/pets"
  note = json.loads((run / "data.json").read_text())
  belonging.check_run(belonging.describe(there, note), moved, note, run)
  with pytest.raises(WorkdirError, match="data.name: '/old/pets' there, 'mnist' here"):
    moved["data"]["name"] = "mnist"
    belonging.check_run(belonging.describe(there, note), moved, note, run)


def test_runs_of_earlier_versions_are_read_and_what_is_missing_is_said(run, capsys):
  earlier.forget_run(run)
  assert weights.run_weights(run, which="best")
  assert "has no data.json" not in capsys.readouterr().err
  (run / "data.json").unlink()
  assert weights.run_weights(run, which="best")
  assert "has no data.json, as runs of earlier versions" in capsys.readouterr().err
