"""Digits through images of clothes: what the trainings are given, and what is reported."""

import json

import numpy as np
import pytest

from jax_robust import config as config_lib
from jax_robust import errors, jobs
from jax_robust.data import labels
from jax_robust.data.sources import array_source
from jax_robust.studies import other_images

pytestmark = pytest.mark.filterwarnings("ignore:no image of made was given")


def make_config(**study):
  config = config_lib.load("study_other_images:smoke")
  config.save_steps = 2
  config.study.update(study)
  return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """The workdir and the result of the smoke run."""
  folder = tmp_path_factory.mktemp("study") / "run"
  with pytest.warns(errors.RobustnessWarning):
    return folder, jobs.run(make_config(), folder)


def run_config(folder, name):
  return json.loads((folder / "runs" / name / "config.json").read_text())


@pytest.mark.thorough
def test_students_see_the_other_images_with_the_teachers_labels(finished):
  folder, result = finished
  teacher, none, matched = (
    run_config(folder, name) for name in ("teacher_0", "student_0_none", "student_0_matched")
  )
  for student in (none, matched):
    assert student["data"]["test_name"] == teacher["data"]["name"]
    assert student["seed"] != teacher["seed"] and student["job"] == "train"
  assert none["data"]["labels"].endswith("labels/teacher_0.npz")
  assert matched["data"]["labels"].endswith("labels/teacher_0_matched.npz")
  given, _ = labels.load_labels(none["data"]["labels"])
  assert np.bincount(given, minlength=10).tolist() == result["ours"]["labels_given"][0]
  assert none["model"]["mean"] == [0.0] and matched["model"]["mean"] == teacher["model"]["mean"]


@pytest.mark.thorough
def test_the_result_has_every_mode_and_a_picture(finished):
  folder, result = finished
  assert result["ours"]["student"].keys() == {"none", "matched"}
  assert {*result["ours"]["nearest_to_published"].values()} <= {"none", "matched"}
  assert (folder / "results" / "other_images.png").stat().st_size > 1000


@pytest.mark.thorough
def test_a_second_start_trains_nothing(finished, capsys):
  folder, result = finished
  again = jobs.run(make_config(), folder)
  assert again["ours"] == result["ours"] and "images/s" not in capsys.readouterr().out


def test_moments_are_those_of_all_pixels():
  images = np.random.default_rng(0).integers(0, 256, (9, 3, 2, 3), np.uint8)
  found = other_images.moments_of(array_source(images, np.zeros(9, int), num_classes=2))
  np.testing.assert_allclose(found.mean, (images / 255).mean((0, 1, 2)))
  np.testing.assert_allclose(found.std, (images / 255).std((0, 1, 2)))


@pytest.mark.parametrize(
  ("study", "message"),
  [
    ({"modes": ("matchd",)}, "did you mean 'matched'"),
    ({"modes": ()}, "expected some of"),
    ({"num_seeds": 0}, "num_seeds=0"),
    ({"images": "digits"}, r"images='digits' has image_shape \(8, 8, 1\), made has \(12, 12, 3\)"),
    ({"images": "mnits"}, "did you mean 'mnist'"),
  ],
)
def test_bad_options_are_refused(tmp_path, study, message):
  with pytest.raises(errors.ConfigError, match=message):
    jobs.run(make_config(**study), tmp_path / "study")
