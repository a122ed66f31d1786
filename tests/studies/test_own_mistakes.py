"""Learning from a net's own mistakes: what students are given, what is refused and reported."""

import json

import numpy as np
import pytest

from jax_robust import config as config_lib
from jax_robust import errors, jobs
from jax_robust.data import labels, named
from jax_robust.data.labels import LEFT_OUT
from jax_robust.data.sources import labels_of
from jax_robust.runs import build
from jax_robust.studies import own_mistakes

pytestmark = [
  pytest.mark.thorough,
  pytest.mark.filterwarnings("ignore:no image of made was given"),
]


def make_config(**study):
  config = config_lib.load("study_own_mistakes:smoke")
  config.save_steps = 2
  config.study.update(study)
  return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """The workdir and the result of the smoke run."""
  folder = tmp_path_factory.mktemp("study") / "run"
  return folder, jobs.run(make_config(), folder)


def run_config(folder, name):
  return json.loads((folder / "runs" / name / "config.json").read_text())


def labels_in(folder, name):
  return labels.load_labels(folder / "labels" / f"{name}_0.npz")[0]


def test_no_student_sees_a_correct_label(finished):
  folder, result = finished
  true, given = labels_of(named.made("train")), labels_in(folder, "soft")
  mistakes, uniform = labels_in(folder, "student"), labels_in(folder, "uniform")
  assert ((mistakes == LEFT_OUT) == (given == true)).all()
  assert (mistakes[mistakes != LEFT_OUT] == given[given != true]).all()
  assert ((uniform == LEFT_OUT) == (mistakes == LEFT_OUT)).all() and (uniform != true).all()
  seen = config_lib.from_data(run_config(folder, "student_0"))
  student = build.load_train(seen)
  assert (labels_of(student) != true[student.rows]).all()
  assert student.num_examples == result["ours"]["mistakes"][0] == np.sum(given != true)


def test_permuted_labels_are_as_frequent(finished):
  folder, result = finished
  mistakes, permuted = labels_in(folder, "student"), labels_in(folder, "permuted")
  assert ((permuted == LEFT_OUT) == (mistakes == LEFT_OUT)).all() and (permuted != mistakes).any()
  counts = [np.bincount(each[each >= 0], minlength=10).tolist() for each in (mistakes, permuted)]
  assert counts[0] == counts[1] == result["ours"]["labels_of_mistakes"][0]


def test_students_differ_in_labels_alone(finished):
  folder, result = finished
  teacher, other = run_config(folder, "teacher_0"), run_config(folder, "teacher_1")
  assert (teacher["seed"], other["seed"], teacher["job"]) == (0, 1, "train")
  students = [run_config(folder, f"{name}_0") for name in own_mistakes.STUDENTS]
  files = [student["data"].pop("labels").split("labels/")[1] for student in students]
  assert files == [f"{name}_0.npz" for name in own_mistakes.STUDENTS]
  epochs = [student.pop("total_epochs") for student in students]
  assert all(student == students[0] for student in students)
  assert students[0]["seed"] not in (0, 1)
  num = result["ours"]["mistakes"][0]
  assert epochs == [1.0, 1.0, 1.0, pytest.approx(num / 72)]  # 'soft' sees all 72 images


def test_a_student_learns_the_teachers_probabilities(finished):
  folder, _ = finished
  source = build.load_train(config_lib.from_data(run_config(folder, "soft_0")))
  given = source.columns["probabilities"](np.arange(72))
  assert given.argmax(1).tolist() == labels_in(folder, "soft").tolist()
  assert (given.max(1) < 1).all() and given.sum(1) == pytest.approx(1, abs=1e-5)


def test_the_result_has_controls_agreement_and_pictures(finished):
  folder, result = finished
  ours = result["ours"]
  assert ours["accuracy"].keys() == {"teacher", *own_mistakes.STUDENTS}
  assert ours["agreement with the teacher"].keys() == {
    "another teacher",
    *own_mistakes.STUDENTS,
  }
  for name in ("own_mistakes", "own_mistakes_labels"):
    assert (folder / "results" / f"{name}.png").stat().st_size > 1000


def test_a_file_with_a_correct_label_is_refused():
  with pytest.raises(ValueError, match="labels.npz gives image 1 and 0 others their true label"):
    own_mistakes.check_all_wrong(np.array([1, 1, LEFT_OUT]), np.array([0, 1, 2]), "labels.npz")


def test_a_teacher_without_mistakes_is_refused(tmp_path, monkeypatch):
  true = labels_of(named.made("train"))
  says = own_mistakes.plan.Answers(np.eye(10)[true], true, ())
  monkeypatch.setattr(own_mistakes.plan, "train", lambda config, place: None)
  monkeypatch.setattr(own_mistakes.plan, "predict", lambda config, place, source=None: says)
  with pytest.raises(errors.ConfigError, match="makes no mistakes here; .* for a shorter time"):
    jobs.run(make_config(), tmp_path / "study")


@pytest.mark.parametrize(
  ("study", "data", "message"),
  [
    ({"num_seeds": 0}, {}, "num_seeds=0"),
    ({"student_epochs": 0.0}, {}, "student_epochs=0.0"),
    ({"student_epoch": 1.0}, {}, "did you mean 'student_epochs'"),
    ({}, {"label_noise": 0.1}, "data.label_noise=0.1: this study begins with the true labels"),
  ],
)
def test_bad_options_are_refused(tmp_path, study, data, message):
  config = make_config(**study)
  config.data.update(data)
  with pytest.raises(errors.ConfigError, match=message):
    jobs.run(config, tmp_path / "study")
