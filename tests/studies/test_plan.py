"""What studies share: configs of trainings, answers by intervals, and being told to stop."""

import types

import numpy as np
import pytest

from jax_robust import config as config_lib
from jax_robust import jobs
from jax_robust.data import named
from jax_robust.data.sources import digits
from jax_robust.evaluate.intervals import Interval, binomial_interval, student_interval
from jax_robust.studies import HELD, NOT_HELD, UNDECIDED, plan

pytestmark = pytest.mark.fast


def test_a_training_differs_from_the_study_as_told():
  config = config_lib.load("study_own_mistakes")
  run = plan.changed(config, data={"name": "digits"}, seed=7, total_steps=5)
  assert (run.job, run.seed, run.data.name, run.total_steps) == ("train", 7, "digits", 5)
  assert "study" not in run and "total_epochs" not in run
  assert config.data.name == "cifar10" and config.total_epochs == 2.0


def test_answers_are_by_intervals():
  low, middle, high = Interval(0.1, 0.05, 0.2), Interval(0.3, 0.15, 0.45), Interval(0.5, 0.4, 0.6)
  assert plan.compare(high, low) == HELD
  assert plan.compare(high, low, middle) == UNDECIDED
  assert plan.compare(low, middle) == NOT_HELD


def test_several_questions_are_held_where_all_are():
  assert plan.all_of([HELD, HELD]) == HELD
  assert plan.all_of([HELD, UNDECIDED]) == UNDECIDED
  assert plan.all_of([UNDECIDED, NOT_HELD, HELD]) == NOT_HELD


def test_one_seed_has_the_interval_of_its_images():
  assert plan.over_seeds([0.25], 100) == binomial_interval(25, 100)
  assert plan.over_seeds([0.25, 0.35], 100) == student_interval(np.array([0.25, 0.35]))


def test_nets_agree_where_they_say_the_same():
  first, second = (
    plan.Answers(np.eye(3)[labels], np.array([0, 1, 2, 0]), ())
    for labels in ([0, 1, 1, 1], [0, 2, 1, 0])
  )
  assert (first.accuracy, second.accuracy, first.agreement(second)) == (0.5, 0.5, 0.5)
  assert first.probabilities.shape == (4, 3) and first.probabilities.sum(1) == pytest.approx(1)


def test_images_of_another_shape_are_refused(monkeypatch, tmp_path):
  subject = types.SimpleNamespace(source=named.made("test"))
  monkeypatch.setattr(plan.nets, "open_model", lambda config, place: subject)
  with pytest.raises(ValueError, match=r"digits test has image_shape \(8, 8, 1\).*\(12, 12, 3\)"):
    plan.predict(config_lib.load("study_own_mistakes"), tmp_path, digits("test"))


@pytest.mark.parametrize("name", ["own_mistakes", "other_images"])
def test_a_study_that_is_told_to_stop_says_so(tmp_path, monkeypatch, name):
  monkeypatch.setattr(jobs, "run", lambda config, place, run=jobs.run: (
    {"preempted": True} if config.job == "train" else run(config, place)
  ))  # fmt: skip
  folder = tmp_path / "study"
  assert jobs.run(config_lib.load(f"study_{name}:smoke"), folder) == {"preempted": True}
  assert not (folder / "results" / "study.json").exists()
