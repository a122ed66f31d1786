"""The error of a denoiser, where it is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust.evaluate.denoising import denoising_error

X = jax.random.uniform(jax.random.key(0), (6, 8, 8, 2))
LABELS = np.arange(6) % 3


def error(denoise, keys=7, **options):
  return denoising_error(denoise, X, LABELS, keys, **options)


def test_known_denoisers():
  perfect = error(lambda x, sigma, label: X)
  assert list(perfect) == ["0.1", "0.25", "0.5", "1"] and not any(map(np.any, perfect.values()))
  noisy = error(lambda x, sigma, label: x, sigmas=(0.5,))["0.5"]
  np.testing.assert_allclose(noisy, 0.5, rtol=0.3)
  np.testing.assert_allclose(np.mean(np.square(noisy)), 0.25, rtol=0.1)
  mean = error(lambda x, sigma, label: jnp.full_like(x, 0.5), sigmas=(2.0,))["2"]
  wanted = np.sqrt(np.mean((np.asarray(X) - 0.5).reshape(6, -1) ** 2, axis=1))
  np.testing.assert_allclose(mean, wanted, rtol=1e-5)


def test_the_net_is_told_level_and_label():
  asked = {}

  def denoise(x, sigma, label):
    asked.update(sigma=sigma, label=label)
    return x

  error(denoise, sigmas=[0.3])
  np.testing.assert_allclose(asked["sigma"], np.full(6, 0.3), rtol=1e-6)
  np.testing.assert_array_equal(asked["label"], LABELS)


def test_an_image_has_noise_of_its_own_key():
  keys = jax.random.split(jax.random.key(1), 6)
  whole = error(lambda x, sigma, label: x, keys)["0.1"]
  part = denoising_error(lambda x, sigma, label: x, X[2:4], LABELS[2:4], keys[2:4])["0.1"]
  np.testing.assert_allclose(part, whole[2:4], rtol=1e-6)


@pytest.mark.parametrize(
  ("options", "message"), [({"sigmas": (0.0,)}, "sigma=0.0"), ({"sigmas": (-1.0,)}, "sigma=-1.0")]
)
def test_levels_that_are_none(options, message):
  with pytest.raises((TypeError, ValueError), match=message):
    error(lambda x, sigma, label: x, **options)


def test_images_out_of_range():
  with pytest.raises(ValueError, match=r"leave \[0, 1\]"):
    denoising_error(lambda x, sigma, label: x, 2 * X, LABELS, 0)
