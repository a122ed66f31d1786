"""Constructed sets: what every net is trained on, how answers come about, and what is refused."""

import json

import numpy as np
import pytest

from jax_robust import config as config_lib
from jax_robust import errors, jobs, studies
from jax_robust.data import labels, shards
from jax_robust.evaluate.image_plots import ImageRow, draw_image_rows
from jax_robust.evaluate.intervals import Interval
from jax_robust.studies import HELD, NOT_HELD, UNDECIDED, constructed_sets

SETS = ("d_robust", "d_rand", "d_det")


def make_config(**study):
  config = config_lib.load("study_constructed_sets:smoke")
  config.save_steps = 2
  config.study.update({"sets": SETS, **study})
  config.evals.robust.attack = {"name": "fgsm", "norm": "l2", "eps": 0.25}  # quick to compile
  return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """The workdir and the result of a smoke run with three of the sets."""
  folder = tmp_path_factory.mktemp("study") / "run"
  with pytest.warns(errors.RobustnessWarning, match="no image of made was given"):
    return folder, jobs.run(make_config(), folder)


def run_config(folder, name):
  return json.loads((folder / "runs" / name / "config.json").read_text())


@pytest.mark.thorough
def test_every_student_is_trained_in_the_standard_way_on_its_set(finished):
  folder, _ = finished
  robust, standard = run_config(folder, "robust_0"), run_config(folder, "standard_0")
  assert robust["objective"]["name"] == "adversarial" and robust["data"]["name"] == "made"
  assert standard["objective"] == {"name": "standard"} and standard["seed"] == robust["seed"] == 0
  for name in SETS:
    student = run_config(folder, f"{name}_0")
    assert student["objective"] == {"name": "standard"} and student["seed"] == 1000
    assert student["data"]["name"] == str(folder / "sets" / f"{name}_0")
    assert student["data"]["test_name"] == "made" and student["data"]["labels"] == ""
    assert student["schedule"]["learning_rate"] == (0.01 if name == "d_rand" else 0.1)
    assert student["model"]["mean"] == [0.0] and student["total_steps"] == 2


@pytest.mark.thorough
def test_each_set_is_made_by_the_teacher_that_it_is_named_for(finished):
  folder, _ = finished
  for name in SETS:
    generate = json.loads((folder / "sets" / f"{name}_0" / "config.json").read_text())["generate"]
    teacher = "robust_0" if name == "d_robust" else "standard_0"
    assert generate["net"] == str(folder / "runs" / teacher) and generate["method"] == name
    assert ("eps" in generate) == (name != "d_robust")


@pytest.mark.thorough
def test_students_of_mistakes_and_of_sets_see_as_many_images(finished):
  folder, result = finished
  early = run_config(folder, "early_0")
  assert early["seed"] == 2000 and early["total_epochs"] == 0.4 and "total_steps" not in early
  (count,) = result["ours"]["same_size"]["num_images"]
  true = np.arange(72) % 10
  for name in ("own_mistakes", "d_rand", "d_det"):
    student = run_config(folder, f"{name}_same_size_0")
    given, _ = labels.load_labels(student["data"]["labels"])
    assert np.sum(given != labels.LEFT_OUT) == count and student["total_steps"] == 2
    kept = given != labels.LEFT_OUT
    if name == "own_mistakes":
      assert student["data"]["name"] == "made" and np.all(given[kept] != true[kept])
      continue
    made = shards.open_shards(folder / "sets" / f"{name}_0" / "generated").read(np.arange(72))[1]
    np.testing.assert_array_equal(given[kept], made[kept])


@pytest.mark.thorough
def test_the_result_has_every_net_and_two_pictures(finished):
  folder, result = finished
  ours = result["ours"]
  assert ours["accuracy"].keys() == {"clean", "0.25", "0.5"}
  assert all(each.keys() == {"standard", "robust", *SETS} for each in ours["accuracy"].values())
  assert ours["sets"][0]["d_rand"].keys() >= {"reached", "reached_in_float", "distance"}
  assert ours["sets"][0]["d_robust"].keys() >= {"feature_distance"}
  assert {*ours["answers"]} == {
    "D_rand generalises to true labels", "D_det generalises to true labels",
    "mistakes need no perturbation",
  }  # fmt: skip
  for name in ("constructed_sets.png", "accuracy.png"):
    assert (folder / "results" / name).stat().st_size > 1000


@pytest.mark.thorough
def test_other_radii_are_measured_anew(finished):
  folder, _ = finished
  found = json.loads((folder / "runs" / "standard_0" / "results" / "evaluate.json").read_text())
  config = make_config()
  assert constructed_sets._is_of(found, config)
  config.evaluation.eps_list = (1.0,)
  assert not constructed_sets._is_of(found, config) and not constructed_sets._is_of({}, config)


ABOVE, BELOW, AROUND = Interval(0.6, 0.5, 0.7), Interval(0.02, 0.0, 0.05), Interval(0.3, 0.05, 0.6)


@pytest.mark.fast
@pytest.mark.parametrize(
  ("robust", "accuracies", "expected"),
  [
    ({"d_robust": ABOVE}, {}, (HELD, HELD, HELD, HELD)),
    ({"d_robust": BELOW}, {}, (NOT_HELD, NOT_HELD, HELD, HELD)),
    ({"d_robust": AROUND}, {}, (UNDECIDED, UNDECIDED, HELD, HELD)),
    ({"d_robust": ABOVE, "d_non_robust": AROUND}, {}, (UNDECIDED, UNDECIDED, HELD, HELD)),
    ({"d_robust": ABOVE}, {"d_non_robust": BELOW}, (HELD, NOT_HELD, HELD, HELD)),
    ({"d_robust": ABOVE}, {"d_rand": AROUND, "d_det": BELOW}, (HELD, HELD, UNDECIDED, NOT_HELD)),
  ],
)
def test_answers_follow_from_intervals(robust, accuracies, expected):
  names = ("standard", "robust", *constructed_sets.SETS)
  accuracy = {
    "clean": {**dict.fromkeys(names, ABOVE), **accuracies},
    "0.25": {**dict.fromkeys(names, BELOW), **robust}, "0.5": dict.fromkeys(names, BELOW),
  }  # fmt: skip
  answers = constructed_sets._answers({"accuracy": accuracy}, 10, "0.25")
  assert tuple(answers.values()) == expected


@pytest.mark.fast
def test_rows_of_different_lengths_are_refused(tmp_path):
  rows = {n: ImageRow(np.zeros((n, 2, 2, 1), np.uint8), np.zeros(n)) for n in (1, 2)}
  for bad in (rows, {}):
    with pytest.raises(ValueError, match="as many images"):
      draw_image_rows(tmp_path / "rows.png", bad)


@pytest.mark.parametrize(
  ("study", "message"),
  [
    ({"sets": ("d_ran",)}, "sets='d_ran': did you mean 'd_rand'"),
    ({"sets": ()}, "expected some of"),
    ({"num_seeds": 0}, "num_seeds=0"),
    ({"early_epochs": 0.0}, "early_epochs=0.0"),
    ({"students": {"d_dett": {}}}, "unknown key 'study.students.d_dett'"),
    ({"students": {"d_det": {"shedule": {}}}}, "d_det.shedule': did you mean 'schedule'"),
  ],
)
def test_bad_options_are_refused(tmp_path, study, message):
  with pytest.raises(errors.ConfigError, match=message):
    jobs.run(make_config(**study), tmp_path / "study")


def test_held_out_images_and_tests_without_an_attack_are_refused(tmp_path):
  config = make_config()
  config.data.num_heldout = 8
  with pytest.raises(errors.ConfigError, match="data.num_heldout=8"):
    jobs.run(config, tmp_path / "study")
  config = make_config()
  del config.evals["robust"]
  with pytest.raises(errors.ConfigError, match="config.evals has no attack"):
    jobs.run(config, tmp_path / "other")


def make_leakage_config(folder, **study):
  config = config_lib.load("study_feature_leakage:smoke")
  config.study.update({"made_by": str(folder), **study})
  return config


@pytest.mark.thorough
def test_leakage_is_measured_in_the_sets_of_a_study(finished, tmp_path):
  folder, _ = finished
  result = jobs.run(make_leakage_config(folder), tmp_path / "leakage")
  ours = result["ours"]
  assert ours.keys() >= {"linear classifier", "originals", "d_rand", "d_det"}
  assert np.shape(ours["robust usefulness"]) == (1, 10)
  assert {*ours["answers"].values()} <= {*studies.ANSWERS}


@pytest.mark.thorough
@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"made_by": ""}, "needs 'made_by'"),
    ({"radius": -1.0}, "eps=-1.0"),
  ],
)
def test_leakage_needs_a_study_and_a_radius(finished, tmp_path, change, message):
  with pytest.raises(errors.UserError, match=message):
    jobs.run(make_leakage_config(finished[0], **change), tmp_path / "leakage")


@pytest.mark.thorough
def test_leakage_needs_the_data_of_the_study_and_a_linear_net(finished, tmp_path):
  config = make_leakage_config(finished[0])
  config.data.name = "digits"
  with pytest.raises(errors.ConfigError, match=r"is of the data \['made', .* is of \['digits'"):
    jobs.run(config, tmp_path / "leakage")
  config = make_leakage_config(finished[0])
  config.model.hidden = (4,)
  with pytest.raises(errors.ConfigError, match="expected a linear one"):
    jobs.run(config, tmp_path / "other")
