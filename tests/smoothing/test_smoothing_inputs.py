"""One law for what certificates and predictions are called with: good and bad arguments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unchecked import as_a_user  # noqa: F401

from jax_robust import smoothing

pytestmark = pytest.mark.fast

X = np.array([[0.9, 0.0], [0.2, 0.0]], np.float32)


def voter(x):
  return jnp.stack([0.5 - x[:, 0], x[:, 0] - 0.5], axis=1)


CALLS = {
  "certify_images": functools.partial(smoothing.certify_images, n0=100, n=100),
  "predict_images": functools.partial(smoothing.predict_images, n=100),
  "certify_at": lambda model, x, rng, **more: smoothing.certify_at(
    model, x, rng, [0.0], n0=100, n=200, **more
  ),
  "certify_within": functools.partial(smoothing.certify_within, tolerance=0.5, n0=100, n=200),
  "confidence_path": lambda model, x, rng, **more: smoothing.confidence_path(
    model, x, x, np.arange(len(x)) % 2, rng, n=100, positions=(0.0,), **more
  ),
}
every_call = pytest.mark.parametrize("name", CALLS)


@pytest.fixture(scope="module")
def sampler():
  return smoothing.Sampler(voter, image_shape=(2,), batch_size=200)


def call(name, model, x=X, rng=0, sigma=0.25):
  return CALLS[name](model, x, rng, sigma=sigma)


@every_call
def test_keys_of_every_form_give_one_result(name, sampler):
  expected = call(name, sampler, rng=jax.random.key(0))
  for rng in (0, jax.random.PRNGKey(0), np.int32(0)):
    jax.tree.map(np.testing.assert_array_equal, call(name, sampler, rng=rng), expected)
  alone = call(name, sampler, x=X[:1])  # a batch of one
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:1]), alone, expected)


BAD = {
  "None": ({"rng": None}, "rng is None: expected a key"),
  "float": ({"rng": 0.5}, "rng is 0.5"),
  "keys": ({"rng": jax.random.split(jax.random.key(0), 2)}, "expected one"),
  "sigma 64": ({"sigma": 64}, "sigma=64: .*did you mean 64/255 = 0.25"),
  "sigma 0": ({"sigma": 0.0}, "sigma=0.0: expected .* above 0"),
  "sigma nan": ({"sigma": float("nan")}, "sigma=nan"),
  "bytes": ({"x": (255 * X).astype(np.uint8)}, "x has dtype uint8"),
  "0 to 255": ({"x": 255 * X}, r"leave \[0, 1\]"),
  "nan": ({"x": X * np.nan}, "not finite"),
  "none": ({"x": X[:0]}, "at least 1"),
  "one": ({"x": X[0]}, r"x\[None\]|shapes differ"),
}


@pytest.mark.parametrize("row", BAD)
@every_call
def test_bad_arguments_are_refused(name, row, sampler):
  given, message = BAD[row]
  with pytest.raises((TypeError, ValueError), match=message):
    call(name, sampler, **given)


@pytest.mark.parametrize(
  ("model", "message"),
  [
    (lambda x: voter(x)[:, :1], r"stack\(\[-z, z\]"),
    (lambda x: voter(x)[:, 0], r"stack\(\[-z, z\]"),
    (lambda x: {"logits": voter(x)}, r"model\(x\)\['logits'\]"),
    (lambda x: (voter(x), x[:, :1]), r"model\(x\)\[0\]"),
    (lambda x: voter(x) > 0, "dtype bool: expected floating-point"),
    (lambda x: jnp.zeros((7, 2)), "for 1 images"),
    (lambda x, train: voter(x), "close over 'train'"),
    (lambda x, *, key: voter(x), r"lambda x, rng: model\(x, key=rng\)"),
  ],
)
def test_models_that_are_none_are_refused(model, message):
  with pytest.raises((TypeError, ValueError), match=message):
    smoothing.Sampler(model, image_shape=(2,))
  with pytest.raises((TypeError, ValueError), match=message):
    smoothing.certify_images(model, X, 0, sigma=0.25)


def test_one_image_without_its_batch_is_explained():
  with pytest.raises(Exception) as error:  # whatever the model makes of it
    smoothing.certify_images(lambda x: x @ np.ones((3, 2)), np.zeros((2, 4)), 0, sigma=0.25)
  assert "of one image, x[None]" in "".join(error.value.__notes__)


def test_sound_noise_has_the_same_largest_sigma():
  grid = np.zeros((1, 2), np.float32)
  with pytest.raises(ValueError, match="sigma=64: .*did you mean 64/255"):
    smoothing.certify_images(voter, grid, 0, sigma=64, n=100, noise="sound")


@pytest.mark.parametrize("labels", [np.array([1, 0]), [[1], [0]], np.eye(2)[::-1]])
def test_labels_of_every_form_give_one_path(labels, sampler):
  run = functools.partial(smoothing.confidence_path, sampler, X, X, sigma=0.25, n=100)
  expected = run(np.array([1, 0]), 0)
  np.testing.assert_array_equal(run(labels, 0), expected)
  for bad, message in (
    (np.array([1.0, 0.0]), "labels have shape"),
    (np.array([1, 2]), "labels 2 of images 1"),
  ):
    with pytest.raises((TypeError, ValueError), match=message):
      run(bad, 0)


@pytest.mark.parametrize("sigma", [64, 0, None])
def test_bounds_refuse_a_sigma_of_other_units(sigma):
  votes = np.array([10, 90])
  for function in (
    lambda: smoothing.certify(votes, votes, sigma=sigma, alpha=0.001),
    lambda: smoothing.radius(0.9, sigma=sigma),
    lambda: smoothing.max_radius(sigma=sigma, n=100, alpha=0.001),
  ):
    with pytest.raises(ValueError, match=f"sigma={sigma}: expected"):
      function()
