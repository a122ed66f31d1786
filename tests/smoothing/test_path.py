"""Confidence on the way from an image to another point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jax_robust import smoothing

KEY = jax.random.key(0)
X, ENDS = np.full((2, 4), 0.9, np.float32), np.full((2, 4), 0.1, np.float32)
LABELS = np.array([1, 0])


def two_classes(x):
  """Class 1 where the mean pixel is above 1/2."""
  return jnp.stack([0.5 - x.mean(1), x.mean(1) - 0.5], axis=1)


def path(**options):
  options = {"sigma": 0.5, "n": 2000, "positions": (0.0, 0.25, 0.5, 1.0), **options}
  ends, labels = options.pop("ends", ENDS), options.pop("labels", LABELS)
  return smoothing.confidence_path(two_classes, X, ends, labels, KEY, **options)


def test_it_is_the_probability_of_the_true_class():
  means = 0.9 - 0.8 * np.array([0.0, 0.25, 0.5, 1.0])
  expected = stats.norm.cdf((means - 0.5) / (0.5 / np.sqrt(4)))
  shares = path()
  np.testing.assert_allclose(shares[0], expected, atol=0.05)
  np.testing.assert_allclose(shares[1], 1 - expected, atol=0.05)


def test_first_position_is_the_image():
  sampler = smoothing.Sampler(two_classes, image_shape=(4,))
  found = smoothing.each_prediction(sampler, X, KEY, sigma=0.5, n=2000)
  expected = [votes[smoothing.PREDICTION, LABELS[place]] / 2000 for place, votes, _ in found]
  assert path(positions=(0.0,))[:, 0].tolist() == expected


def test_points_of_one_way_share_their_noise():
  """With noise that is drawn anew the shares would not fall step by step."""
  shares = path(n=200, positions=np.linspace(0, 1, 41))
  assert np.all(np.diff(shares[0]) <= 0) and np.all(np.diff(shares[1]) >= 0)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"ends": ENDS[:1]}, "expected one end and one label per image"),
    ({"labels": LABELS[:1]}, "expected one end and one label per image"),
    ({"labels": np.array([0, 2])}, "outside 0 to 1"),
    ({"positions": (0.0, 1.5)}, "expected numbers in"),
    ({"sigma": 0.0}, "sigma=0.0"),
  ],
)
def test_bad_input(options, message):
  with pytest.raises(ValueError, match=message):
    path(**options)
