"""The two-dimensional illustration: its data, what it keeps, and what it finds."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import config as config_lib
from jax_robust import errors, jobs
from jax_robust.studies import two_dimensional

FIGURE = """
.5488 .7152 0 .6028 .5449 1 .4376 .8918 0 .9637 .3834 0 .0710 .0871 0 .0202 .8326 1 .7782 .8700 0
.9786 .7992 1 .1183 .6399 0 .1434 .9447 1 .2646 .7742 0 .3595 .4370 0 .6976 .0602 0 .9884 .1020 0
.6531 .2533 0 .1966 .3687 1 .2828 .1202 1 .8811 .5813 1 .4239 .6064 0 .0192 .3016 0 .5174 .1321 1
.8221 .1898 1 .7242 .3990 0 .4493 .3045 1 .7401 .6805 0 .6002 .9632 1 .9197 .9608 1 .4275 .0009 0
.0708 .4705 0 .8688 .0050 0 .2537 .5530 0 .3078 .9987 1
"""  # x, y and label of the points in the published figure


def test_the_points_are_those_of_the_figure():
  points, labels = two_dimensional.figure_points()
  figure = np.array(FIGURE.split(), float).reshape(32, 3)
  np.testing.assert_allclose(points, figure[:, :2], atol=5e-5)
  assert labels.tolist() == figure[:, 2].tolist()


def test_labels_are_permuted_among_the_kept_points():
  labels, kept = jnp.array([0, 1, 1, 0, 1, 0]), jnp.array([True, False, True, True, True, False])
  drawn = [two_dimensional._permuted(jax.random.key(i), labels, kept) for i in range(20)]
  assert all(sorted(each[kept].tolist()) == [0, 0, 1, 1] for each in drawn)
  assert len({tuple(each[kept].tolist()) for each in drawn}) > 3


@pytest.fixture(scope="module")
def seed():
  """What one seed gives after few steps, for two radii."""
  points, labels = two_dimensional.figure_points()
  found = jax.jit(
    lambda seed: two_dimensional._run_seed(
      seed, points=jnp.asarray(points, jnp.float32), labels=jnp.asarray(labels),
      radii=jnp.array([0.06, 0.12]), num_steps=300, learning_rate=1e-2, hidden=(50, 50),
    )
  )(0)  # fmt: skip
  return points, labels, jax.device_get(found)


@pytest.mark.thorough
def test_every_label_of_the_second_net_is_wrong(seed):
  points, labels, found = seed
  assert (found["first_correct"] == 32).all() and (found["num_adversarial"] > 5).all()
  for kept, given, moved, radius in zip(
    found["kept"], found["given"], found["adversarial"], (0.06, 0.12), strict=True
  ):
    assert (given[kept] != labels[kept]).all()
    np.testing.assert_allclose(np.abs(moved - points)[kept], radius, atol=1e-6)


@pytest.mark.thorough
def test_the_second_net_sees_nothing_but_the_kept_points(seed):
  """A net trained on them alone, without the rows that are masked, says the same everywhere."""
  _, _, found = seed
  kept, given = found["kept"][1], found["given"][1]
  net = two_dimensional.models.create(
    "mlp", num_classes=2, hidden=(50, 50), initial_weights="torch"
  )
  key = jax.random.split(jax.random.key(0), 3)[2]
  images = jnp.asarray(found["adversarial"][1][kept])[:, None, None]
  targets = jax.nn.one_hot(given[kept], 2) * kept.sum() / 32  # the mean is over 32 rows there
  params = two_dimensional._train(net, key, images, targets, num_steps=300, learning_rate=1e-2)
  says = two_dimensional._predict(net, params, two_dimensional._grid())
  assert np.mean(says.reshape(101, 101) == found["student_says"][1]) > 0.98


@pytest.mark.slow
def test_forty_seeds_are_as_the_reference(tmp_path):
  """The reference program, with PyTorch's nets: 19.0 and 24.3 of 32, controls about 15."""
  config = config_lib.load("study_two_dimensional")
  ours = jobs.run(config, tmp_path)["ours"]
  assert ours["0.06"]["student_correct"]["value"] == pytest.approx(19.0, abs=1.5)
  assert ours["0.12"]["student_correct"]["value"] == pytest.approx(24.3, abs=1.5)
  assert all(each["control_correct"]["value"] == pytest.approx(15, abs=2) for each in ours.values())


@pytest.mark.thorough
def test_the_job_writes_what_it_found(tmp_path, capsys):
  config = config_lib.load("study_two_dimensional:smoke")
  result = jobs.run(config, tmp_path / "study")
  written = json.loads((tmp_path / "study" / "results" / "study.json").read_text())
  assert {name: written[name] for name in result} == json.loads(json.dumps(result))
  assert written["ours"].keys() == {"0.06", "0.12"} and written["num_seeds"] == 2
  assert written["published"] and written["hardware"] and written["seconds"] > 0
  assert (tmp_path / "study" / "results" / "two_dimensional_0.12.png").stat().st_size > 1000
  assert written["answer"] in capsys.readouterr().out


BAD = {
  "no such study": ({"name": "two_dimensionl"}, "did you mean 'two_dimensional'"),
  "no name": ({}, "config.study is empty"),
  "misspelt": ({"name": "two_dimensional", "radius": 0.1}, "did you mean 'radii'"),
  "radius 0": ({"name": "two_dimensional", "radii": (0.0,)}, r"radii=\(0.0,\): expected"),
  "no radius": ({"name": "two_dimensional", "radii": ()}, r"radii=\(\): expected"),
  "learning rate": ({"name": "two_dimensional", "learning_rate": -1e-3}, "learning_rate=-0.001"),
  "no images": (
    {"name": "other_images", "images": ""},
    r"other_images' needs 'images': set --conf",
  ),
  "no seed": ({"name": "two_dimensional", "num_seeds": 0}, "num_seeds=0"),
}


@pytest.mark.parametrize("options, message", BAD.values(), ids=BAD)
def test_bad_options_are_refused(tmp_path, options, message):
  config = config_lib.load("study_two_dimensional:smoke")
  config.study = options
  with pytest.raises(errors.ConfigError, match=message):
    jobs.run(config, tmp_path / "study")
