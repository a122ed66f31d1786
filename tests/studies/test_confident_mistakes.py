"""Confident mistakes: which images are chosen, what nets see, what is refused."""

import numpy as np
import pytest

from jax_robust import config as config_lib
from jax_robust import errors, jobs
from jax_robust.data.sources import labels_of
from jax_robust.runs import build
from jax_robust.studies import confident_mistakes

pytestmark = pytest.mark.fast

# Probabilities of class 0 of ten images; the first two are the first net's.
OF_ZERO = np.array([0.5, 0.5, 0.9, 0.1, 0.8, 0.4, 0.3, 0.6, 0.95, 0.45])
TRUE = np.array([0, 1, 1, 0, 1, 1, 0, 0, 0, 1])
PROBS = np.stack([OF_ZERO, 1 - OF_ZERO], 1)
WRONG = [2, 3, 4, 6]  # p of the true class: .1, .1, .2, .3
RIGHT = [9, 5, 7, 8]  # .55, .6, .6, .95


@pytest.mark.parametrize(("share", "count"), [(0.3, 2), (0.5, 4)])
def test_the_most_confident_mistakes_are_chosen(share, count):
  found = confident_mistakes.choose(TRUE, PROBS, np.array([0, 1]), share=share, seed=0)
  assert found["mistakes"].tolist() == WRONG[:count]
  assert found["uncertain"].tolist() == RIGHT[:count]
  assert len(set(found["random"].tolist())) == count and found["random"].min() >= 2
  other = confident_mistakes.choose(TRUE, PROBS, np.array([0, 1]), share=share, seed=1)
  assert (other["random"] != found["random"]).any() or share == 0.5
  assert found["first_and_mistakes"].tolist() == [0, 1, *WRONG[:count]]


def test_few_mistakes_are_said_and_none_refused():
  with pytest.warns(errors.RobustnessWarning, match="4 mistakes, fewer than 90% of the 8 others"):
    found = confident_mistakes.choose(TRUE, PROBS, np.array([0, 1]), share=0.9, seed=0)
  assert all(len(found[name]) == 4 for name in ("mistakes", "random", "uncertain"))
  with pytest.raises(ValueError, match="makes no mistakes on the 8 other images"):
    confident_mistakes.choose(TRUE, np.eye(2)[TRUE], np.array([0, 1]), share=0.3, seed=0)


def make_config(**study):
  config = config_lib.load("study_confident_mistakes:smoke")
  config.study.update(study)
  return config


@pytest.fixture
def runs(monkeypatch):
  """Configs of the trainings by name; none is trained, and each net says class 1 of every image."""
  found = {}

  def train(config, place):
    found[place.name] = config

  def predict(config, place, source=None):
    source = source or build.load_test(config, None)
    logits = np.tile([0.0, 1.0], (source.num_examples, 1))
    return confident_mistakes.plan.Answers(logits, labels_of(source), source.class_names)

  monkeypatch.setattr(confident_mistakes.plan, "train", train)
  monkeypatch.setattr(confident_mistakes.plan, "predict", predict)
  return found


def test_nets_see_their_images_with_true_labels(tmp_path, runs):
  result = jobs.run(make_config(), tmp_path)
  assert (
    result["answer"] == "not held here" and result["ours"]["accuracy"]["random"]["value"] == 0.5
  )
  assert result["ours"]["accuracy"].keys() == confident_mistakes.SETS.keys()
  assert (tmp_path / "results" / "confident_mistakes.png").stat().st_size > 1000
  true, seen = labels_of(build.load_train(make_config())), {}
  for name in confident_mistakes.SETS:
    assert runs[f"{name}_0"].seed == (0 if name == "first" else 1000)
    source = build.load_train(runs[f"{name}_0"])
    given = labels_of(source)
    assert (given == (1 - true if name == "inverted" else true)[source.rows]).all()
    seen[name] = set(source.rows.tolist())
  assert seen["first"] == set(range(6)) and seen["mistakes"] == seen["inverted"]
  count = result["ours"]["chosen"][0]
  for name in ("mistakes", "random", "uncertain"):
    assert len(seen[name]) == count and not seen[name] & seen["first"]
    assert seen[f"first_and_{name}"] == seen["first"] | seen[name]


@pytest.mark.parametrize(
  ("study", "data", "message"),
  [
    ({"share": 0.0}, {}, r"share=0.0: expected a probability inside \(0, 1\)"),
    ({"share": 0.01}, {}, "share=0.01: of 14 images that is 0"),
    ({"num_seeds": 0}, {}, "num_seeds=0"),
    ({}, {"classes": ()}, "made has 10 classes: this study is about two"),
    ({}, {"label_noise": 0.2}, "begins with the true labels"),
  ],
)
def test_bad_options_are_refused(tmp_path, study, data, message):
  config = make_config(**study)
  config.data.update(data)
  with pytest.raises(errors.ConfigError, match=message):
    jobs.run(config, tmp_path / "study")
