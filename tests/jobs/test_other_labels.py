"""Trainings on the labels of a file, on wrong ones, and tested on another set."""

import json

import numpy as np
import pytest

from jax_robust import errors, jobs
from jax_robust.data.labels import LEFT_OUT
from jax_robust.data.sources import labels_of
from jax_robust.runs import build


def test_a_config_trains_on_the_labels_of_a_file(tiny, tmp_path):
  given = np.arange(72) % 10
  given[40:] = LEFT_OUT
  np.save(tmp_path / "labels.npy", given)
  config = tiny(
    "steps=2,save=2,evaluate=2,log=2", data__labels=str(tmp_path / "labels.npy"),
    data__label_noise=0.25, batch__original_share=1.0, generated__path="",
  )  # fmt: skip
  whole = build.load_train(config)
  assert whole.num_examples == 40 and np.sum(labels_of(whole) != given[:40]) == 10
  jobs.run(config, tmp_path / "run")
  noted = json.loads((tmp_path / "run" / "data.json").read_text())
  assert noted["num_train"] == 32
  np.save(tmp_path / "labels.npy", np.where(given == LEFT_OUT, given, (given + 1) % 10))
  with pytest.raises(errors.WorkdirError, match="labels_sha256"):
    jobs.run(config, tmp_path / "run")


@pytest.mark.thorough
def test_one_hot_probabilities_train_as_labels_do(tiny, tmp_path, left_behind):
  given = np.arange(72) % 10
  given[40:] = LEFT_OUT
  probs = np.where(given[:, None] == LEFT_OUT, np.nan, np.eye(10)[given])
  np.save(tmp_path / "labels.npy", given)
  np.savez(tmp_path / "labels.npz", probabilities=probs)
  changes = {"objective": {"name": "standard"}, "batch__original_share": 1.0, "generated__path": ""}
  found = []
  for name in ("labels.npy", "labels.npz"):
    run = tiny("steps=2,save=2,evaluate=2", data__labels=str(tmp_path / name), **changes)
    jobs.run(run, tmp_path / name[-3:])
    found.append(left_behind(tmp_path / name[-3:]))
  assert found[0] == found[1]
  np.savez(tmp_path / "labels.npz", probabilities=np.roll(probs, 1, axis=1))
  with pytest.raises(errors.WorkdirError, match="labels_sha256"):
    jobs.run(run, tmp_path / "npz")
  for refused, message in (
    ({"objective": {"name": "macer", "sigma": 0.25}}, "objective.name='macer' needs labels"),
    ({"data__label_noise": 0.5}, "only labels can be replaced"),
  ):
    with pytest.raises(errors.ConfigError, match=message):
      jobs.run(tiny(data__labels=run.data.labels, **{**changes, **refused}), tmp_path / "refused")


def test_another_set_is_tested_on(tiny):
  config = tiny(data__name="digits", data__test_name="made", data__num_heldout=0)
  assert build.load_test(config, None).name == "made"
  assert build.load_train(config).name == "digits train"


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"data__label_noise": 1.5}, "config.data.label_noise=1.5: expected a share"),
    ({"data__test_name": "mnits"}, "did you mean 'mnist'"),
    (
      {"data__name": "digits", "data__test_name": "made"},
      r"made has image_shape \(12, 12, 3\), digits train.* has \(8, 8, 1\)",
    ),
    ({"data__labels": "nowhere.npy"}, "nowhere.npy: there is no such file"),
  ],
)
def test_bad_keys_are_refused(tiny, tmp_path, changes, message):
  config = tiny(batch__original_share=1.0, generated__path="", **changes)
  with pytest.raises(errors.UserError, match=message):
    jobs.run(config, tmp_path / "run")
