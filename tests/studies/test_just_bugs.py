"""Just bugs: which nets make the sets, which judge them, and what is reported."""

import json

import pytest

from jax_robust import config as config_lib
from jax_robust import errors, jobs, studies


def make_config(**study):
  config = config_lib.load("study_just_bugs:smoke")
  config.save_steps = 2
  config.study.update(study)
  return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """The workdir and the result of the smoke run."""
  folder = tmp_path_factory.mktemp("study") / "run"
  return folder, jobs.run(make_config(), folder)


@pytest.mark.thorough
def test_the_judge_had_no_part_in_the_sets(finished):
  folder, _ = finished

  def read(place):
    return json.loads((folder / place / "config.json").read_text())

  seeds = {name: read(f"runs/{name}_0")["seed"] for name in ("net", "judge", "other0", "d_bugs")}
  assert len({*seeds.values()}) == 4
  plain, bugs = (read(f"sets/{name}_0")["generate"] for name in ("d_det", "d_bugs"))
  assert bugs["others"] == [str(folder / "runs" / "other0_0")] and "others" not in plain
  for name in ("net", "eps", "num_steps", "step_size"):
    assert plain[name] == bugs[name]
  assert plain["net"] == str(folder / "runs" / "net_0")
  assert read("runs/d_bugs_0")["data"]["name"] == str(folder / "sets" / "d_bugs_0")


@pytest.mark.thorough
def test_the_result_has_every_number_beside_the_published_one(finished):
  folder, result = finished
  ours, published = result["ours"], result["published"]
  assert {name: each.keys() for name, each in ours.items() if name != "answers"} == {
    name: each.keys() for name, each in published.items()
  }
  assert {*ours["answers"].values()} <= {*studies.ANSWERS}
  on_true, on_next = (ours[f"student on (X, Y{shift})"]["PGD"]["value"] for shift in ("", " + 1"))
  assert 0 <= on_true + on_next <= 1
  assert (folder / "results" / "just_bugs.png").stat().st_size > 1000


@pytest.mark.parametrize(
  ("study", "message"), [({"num_others": 0}, "num_others=0"), ({"num_seeds": 0}, "num_seeds=0")]
)
def test_bad_options_are_refused(tmp_path, study, message):
  with pytest.raises(errors.ConfigError, match=message):
    jobs.run(make_config(**study), tmp_path / "study")


def test_held_out_images_are_refused(tmp_path):
  config = make_config()
  config.data.num_heldout = 8
  with pytest.raises(errors.ConfigError, match="data.num_heldout=8"):
    jobs.run(config, tmp_path / "study")
