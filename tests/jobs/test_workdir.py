"""The folder of a run: whose it is, who is in it, what it keeps."""

import json
import os

import pytest

from jax_robust import config as config_lib
from jax_robust.runs import command, starts, weights, workdir

pytestmark = pytest.mark.fast


def test_the_config_there_is_kept_and_reproduces_the_run(tiny, tmp_path):
  config = tiny(attack__eps=8 / 255)
  workdir.write_identity(tmp_path, config)
  again = config_lib.load(str(tmp_path / "config.json"))
  assert config_lib.to_data(again) == config_lib.to_data(config)
  assert again.select == ("robust", "max")
  workdir.write_identity(tmp_path, again)


def test_the_versions_are_noted(tiny, tmp_path):
  workdir.write_identity(tmp_path, tiny())
  noted = json.loads((tmp_path / "versions.json").read_text())
  assert {"jax", "flax", "orbax-checkpoint", "numpy"} <= noted["packages"].keys()
  assert noted["backend"] == "cpu" and noted["processes"] == 1 and len(noted["devices"]) >= 1


def test_another_config_is_refused_with_the_keys(tiny, tmp_path):
  workdir.write_identity(tmp_path, tiny())
  (tmp_path / "metrics.jsonl").touch()  # the run has begun
  before = (tmp_path / "config.json").read_text()
  other = tiny("steps=9", attack__eps=0.2)
  other.model.hidden = (8, 8)
  other.attack.start = "zero"
  with pytest.raises(workdir.WorkdirError) as caught:
    workdir.write_identity(tmp_path, other)
  message = str(caught.value)
  assert str(tmp_path) in message
  assert "attack.eps: 0.1 there, 0.2 here" in message
  assert "attack.start: 'absent' there, 'zero' here" in message
  assert "model.hidden: [8] there, [8, 8] here" in message
  assert "total_steps: 6 there, 9 here" in message
  assert message.count(" there, ") == 4
  assert "choose another --workdir" in message
  assert (tmp_path / "config.json").read_text() == before


@pytest.mark.parametrize(
  "changes",
  [
    {"data_dir": "/elsewhere"},
    {"trackers": ("mlflow",)},
    {"tracking": {"mlflow": {"experiment": "mine"}}},
    {"parallel": "pmap"},
    {"save_steps": 1},
    {"log_steps": 1},
    {"evaluation__eps_list": (0.1,)},
    {"evaluation__checkpoint": "latest"},
    {"generated__path": "moved"},
    {"autoattack__shard": "1/2"},
    {"smoothing__n": 7},
  ],
)
def test_what_does_not_change_the_result_may_change(tiny, tmp_path, changes):
  workdir.write_identity(tmp_path, tiny())
  config = tiny(**changes)
  workdir.write_identity(tmp_path, config)
  assert json.loads((tmp_path / "config.json").read_text()) == config_lib.to_data(config)


@pytest.mark.parametrize(
  "changes",
  [
    {"seed": 1},
    {"batch__backend": "tfdata"},
    {"select": ("clean", "max")},
    {"evaluate_steps": 1},
    {"init_from": "weights.npz"},
  ],
)
def test_what_changes_the_result_may_not(tiny, tmp_path, changes):
  workdir.write_identity(tmp_path, tiny())
  (tmp_path / "metrics.jsonl").touch()  # the run has begun
  (key,) = (key.replace("__", ".") for key in changes)
  with pytest.raises(workdir.WorkdirError, match=rf"\n  {key}: "):
    workdir.write_identity(tmp_path, tiny(**changes))


def test_a_run_that_never_began_makes_way(tiny, tmp_path):
  workdir.write_identity(tmp_path, tiny())
  (tmp_path / starts.FILE).write_text('{"start": "a", "job": "train"}\n')
  (tmp_path / "lock").touch()
  (tmp_path / "checkpoints" / "latest").mkdir(parents=True)
  workdir.write_identity(tmp_path, tiny(seed=1))
  assert workdir.read_config(tmp_path)["seed"] == 1


def test_a_look_at_the_result_does_not_replace_the_config(tiny, tmp_path):
  workdir.write_identity(tmp_path, tiny(job="generate"))
  workdir.write_identity(tmp_path, tiny())
  assert workdir.read_config(tmp_path)["job"] == "train"
  workdir.write_identity(tmp_path, tiny(job="evaluate", evaluation__eps_list=(0.5,)))
  assert workdir.read_config(tmp_path)["job"] == "train"
  assert workdir.read_config(tmp_path)["evaluation"]["eps_list"] == []


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_config_is_named(tiny, tmp_path, content):
  (tmp_path / "config.json").write_text(content)
  with pytest.raises(workdir.WorkdirError, match=r"config.json is no config of ours"):
    workdir.write_identity(tmp_path, tiny())


NOTES = (
  {"num_classes": "x"}, {"num_classes": -1}, {"num_classes": True}, {"class_names": 3},
  {"num_classes": 3, "class_names": ["a"]}, {"num_classes": 1, "class_names": [1]},
  {"image_shape": "x"}, {"image_shape": [0, 4, 3]}, {"image_shape": 4}, [], "x",
)  # fmt: skip


@pytest.mark.parametrize("note", NOTES, ids=str)
def test_what_images_are_is_said_rightly_or_refused(tmp_path, note):
  (tmp_path / "data.json").write_text(json.dumps(note))
  with pytest.raises(workdir.WorkdirError, match="data.json is damaged"):
    weights.noted_classes(tmp_path)
  (tmp_path / "data.json").unlink()
  (tmp_path / "manifest.json").write_text(json.dumps({"data": note}))
  with pytest.raises(workdir.WorkdirError, match="manifest.json is damaged"):
    weights.noted_classes(tmp_path)


def test_two_jobs_never_share_a_workdir(tmp_path):
  with workdir.claimed(str(tmp_path / "run")) as folder:
    assert folder == tmp_path / "run"
    with (
      pytest.raises(
        workdir.WorkdirError, match=rf"in use by another job \(process {os.getpid()} on "
      ),
      workdir.claimed(str(tmp_path / "run")),
    ):
      pass
  with workdir.claimed(str(tmp_path / "run")):
    pass


def test_a_path_that_cannot_be_a_folder_is_refused(tmp_path):
  (tmp_path / "file").write_text("")
  for place in ("file", "file/below"):
    with (
      pytest.raises(workdir.WorkdirError, match=r"can't be made .*choose another"),
      workdir.claimed(str(tmp_path / place)),
    ):
      pass


def test_looking_at_a_run_makes_no_folder(tiny, tmp_path):
  workdir.write_identity(tmp_path / "my_run", tiny())
  for place, message in [
    ("my_rum", rf"there is no workdir .*: did you mean '{tmp_path / 'my_run'}'\?"),
    ("", "is no workdir of a run: it has no config.json"),
  ]:
    with (
      pytest.raises(workdir.WorkdirError, match=message),
      workdir.claimed(str(tmp_path / place), create=False),
    ):
      pass
  assert os.listdir(tmp_path) == ["my_run"]


def test_a_result_names_its_kind_and_what_it_ran_with(tmp_path):
  found = {"belongs_to": "", "numbers": {"clean": [0.5, 0.4, 0.6]}, "failed": ""}
  with command.started_by(["--config=x y"]):
    workdir.write_result(tmp_path, "cell", found)
  result = json.loads((tmp_path / "results" / "cell.json").read_text())
  assert result.items() >= {**found, "kind": "cell", "version": 1}.items()
  assert "jax" in result["versions"]["packages"] and " cores of " in result["versions"]["hardware"]
  assert result["command"] == "python -m jax_robust.main '--config=x y'"


def test_a_result_of_another_form_is_written_and_warned_of(tmp_path):
  with pytest.warns(UserWarning, match="results/a.json: belongs_to is missing"):
    workdir.write_result(tmp_path, "a", {"numbers": {}, "failed": ""}, kind="cell")
  assert json.loads((tmp_path / "results" / "a.json").read_text())["numbers"] == {}
  with pytest.raises(ValueError, match="a result of kind 'own' has a field 'version' of its own"):
    workdir.write_result(tmp_path, "own", {"version": 3})
