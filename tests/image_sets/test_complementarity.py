"""Where nearest neighbours lie, of sets of which that is known."""

import numpy as np
import pytest
import rows

from jax_robust.image_sets import complementarity
from jax_robust.image_sets.complementarity import nearest_places, profile_distance, shares

pytestmark = pytest.mark.fast


def made(num, *, seed=0, offset=0.0):
  return np.random.default_rng(seed).normal(size=(num, 8)).astype(np.float32) + offset


def test_images_of_one_kind_are_even():
  """The exact expectation lies in each interval, which at this size is four points wide."""
  places = nearest_places(made(2000), made(2000, seed=1), made(2000, seed=2))
  found = shares(places.pool)
  assert sum(each.value for each in found.values()) == pytest.approx(1)
  for each in found.values():
    assert each.low < 2000 / 5999 < each.high and each.high - each.low < 0.05


def test_copies_are_theirs():
  train, test = made(60, seed=1), made(60, seed=2)
  for pool, number in ((train, 0), (test, 1)):
    places = nearest_places(pool + np.float32(1e-3), train, test)
    np.testing.assert_array_equal(places.pool, number)
    np.testing.assert_array_equal(places.row, np.arange(60))
    np.testing.assert_allclose(places.distance, np.sqrt(8) * 1e-3, rtol=1e-3)
  far = nearest_places(made(60, offset=100.0), train, test)
  np.testing.assert_array_equal(far.pool, 2)
  assert (far.row != np.arange(60)).all()


def test_of_equal_distances_train_counts_first():
  train = made(60, seed=1)
  np.testing.assert_array_equal(nearest_places(train.copy(), train, train.copy()).pool, 0)
  one = np.repeat(made(1), 3, 0)
  np.testing.assert_array_equal(nearest_places(one, made(3, seed=4), one.copy()).pool, 1)


def test_one_array_may_stand_for_all_pools():
  """Given as train too, a set still holds each query there, and only there."""
  train = made(60)
  places = nearest_places(train, train, made(60, seed=3))
  np.testing.assert_array_equal(places.distance, 0)
  np.testing.assert_array_equal(places.pool, 0)


def test_profile_distance_is_the_share_that_changes():
  one = {"train": 0.5, "test": 0.3, "self": 0.2}
  other = {"train": 0.2, "test": 0.3, "self": 0.5}
  assert profile_distance(one, other) == profile_distance(other, one) == pytest.approx(0.3)
  assert profile_distance(one, one) == 0
  assert list(one) == list(complementarity.POOLS)


def test_bad_input():
  good = {"candidates": made(4), "train": made(4, seed=1), "test": made(4, seed=2)}
  bad = {
    "sizes": ({"train": made(5)}, "pools of candidates 4, train 5, test 4 images: .* cut all"),
    "one image": (
      {name: made(1) for name in good},
      "pools of candidates 1, train 1, test 1 images: .* at least 2",
    ),
    "another net": ({"test": np.zeros((4, 3))}, "test has 3 features an image"),
  }
  rows.assert_all_refused(bad, lambda changes: nearest_places(**{**good, **changes}))
  even = dict.fromkeys(complementarity.POOLS, 1 / 3)
  rows.assert_all_refused(
    {
      "lacking": ({"train": 1.0}, "unknown key 'reference.test'"),
      "misspelt": ({**even, "slef": 0.0}, "unknown key 'profile.slef': did you mean 'self'"),
    },
    lambda profile: profile_distance(profile, even),
  )
