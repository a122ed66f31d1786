"""Denoise, then classify: against a mixture whose every number is known, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jax_robust import smoothing
from jax_robust.nets.denoisers import NO_LABEL

SIGMA = 0.5
POINTS = jnp.array([[0.2, 0.5], [0.8, 0.5]])  # the only two images there are


def denoise(x, sigma, label):
  """The mean of the image, given the noisy one: exact for `POINTS`."""
  assert label.dtype == jnp.int32
  squares = jnp.sum((x[:, None] - POINTS[None]) ** 2, axis=-1)
  return jax.nn.softmax(-squares / (2 * sigma[:, None] ** 2), axis=-1) @ POINTS


def nearest(x):
  return -jnp.sum((x[:, None] - POINTS[None]) ** 2, axis=-1)


def test_a_perfect_denoiser_certifies_the_distance_to_the_boundary():
  model = smoothing.denoised(nearest, denoise, sigma=SIGMA)
  sampler = smoothing.Sampler(model, image_shape=(2,), batch_size=1000)
  found = smoothing.certify_images(
    sampler, POINTS, jax.random.key(0), sigma=SIGMA, n0=100, n=10_000, alpha=0.001
  )
  np.testing.assert_array_equal(found.label, [0, 1])
  assert (found.radius <= 0.3).all() and (found.radius > 0.27).all()
  share = scipy.stats.norm.cdf(0.3 / SIGMA)  # of the votes, since the boundary is a line
  for count in found.count:
    assert scipy.stats.binomtest(int(count), 10_000, share).pvalue > 0.001


def test_what_the_denoiser_is_told_and_the_classifier_sees():
  told = {}

  def record(x, sigma, label):
    told.update(sigma=sigma, label=label)
    return 3 * x

  x = jnp.array([[0.1, -0.2], [0.5, 0.2]])
  seen = smoothing.denoised(lambda x: x, record, sigma=0.25)(x)
  np.testing.assert_allclose(seen, [[0.3, 0.0], [1.0, 0.6]], rtol=1e-6)
  assert told["sigma"].tolist() == [0.25, 0.25] and told["label"].tolist() == [NO_LABEL] * 2


def test_a_randomised_classifier_gets_its_key():
  model = smoothing.denoised(lambda x, rng: x + jax.random.uniform(rng), denoise, sigma=SIGMA)
  key = jax.random.key(3)
  level, label = jnp.full(2, SIGMA), jnp.full(2, NO_LABEL, jnp.int32)
  expected = denoise(POINTS, level, label) + jax.random.uniform(key)
  np.testing.assert_allclose(model(POINTS, key), expected, rtol=1e-6)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((nearest, denoise, 0.0), "sigma=0.0"),
    ((nearest, denoise, 64.0), "did you mean 64"),
    ((nearest, "denoise", 0.5), "denoise_fn"),
    ((3, denoise, 0.5), "logits_fn"),
  ],
)
def test_refused(arguments, message):
  logits_fn, denoise_fn, sigma = arguments
  with pytest.raises((TypeError, ValueError), match=message):
    smoothing.denoised(logits_fn, denoise_fn, sigma=sigma)
