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


VOTES = np.array([10, 90])
CERTIFY = functools.partial(smoothing.certify, VOTES, VOTES)


@pytest.mark.parametrize(
  ("run", "message"),
  [
    (lambda: smoothing.clopper_pearson(3.5, 10, confidence=0.95), "counts=3.5: expected whole"),
    (lambda: smoothing.clopper_pearson(0.35, 1, confidence=0.95), "counts=0.35: expected whole"),
    (lambda: smoothing.clopper_pearson(np.nan, 10, confidence=0.95), "counts=nan"),
    (lambda: smoothing.clopper_pearson(3, np.nan, confidence=0.95), "totals=nan"),
    (lambda: smoothing.clopper_pearson(3, np.inf, confidence=0.95), "totals=inf"),
    (lambda: smoothing.clopper_pearson("3", 10, confidence=0.95), "counts='3': expected numbers"),
    (lambda: smoothing.clopper_pearson(None, 10, confidence=0.95), "counts=None: expected numbers"),
    (lambda: smoothing.clopper_pearson(1j, 10, confidence=0.95), "counts=1j: expected numbers"),
    (
      lambda: smoothing.clopper_pearson([1, 2], [9, 9, 9], confidence=0.9),
      r"shape \(2,\) and totals",
    ),
    (lambda: smoothing.clopper_pearson(3, 10, confidence=95), "confidence=95: expected a prob"),
    (lambda: smoothing.clopper_pearson(3, 10, confidence=None), "confidence=None: expected"),
    (lambda: smoothing.lower_bound(np.nan, 10, alpha=0.1), "counts=nan"),
    (lambda: smoothing.lower_bound(11, 10, alpha=0.1), "counts=11, totals=10: expected 0 <= count"),
    (lambda: CERTIFY(sigma=0.25, alpha=None), "alpha=None: expected a probability"),
    (
      lambda: CERTIFY(sigma=0.25, alpha=0.1, total_variation=-0.5),
      "total_variation=-0.5: expected",
    ),
    (lambda: CERTIFY(sigma=0.25, alpha=0.1, total_variation=np.nan), "total_variation=nan"),
    (lambda: CERTIFY(sigma=0.25, alpha=0.1, total_variation=None), "total_variation=None"),
    (lambda: smoothing.predict(VOTES, alpha=0.1, total_variation=-0.5), "total_variation=-0.5"),
    (
      lambda: smoothing.certify(VOTES[1:], VOTES[1:], sigma=0.25, alpha=0.1),
      r"selection_counts have shape \(1,\): expected two classes",
    ),
    (lambda: smoothing.radius(np.nan, sigma=0.25), "p_low=nan: expected a probability"),
    (lambda: smoothing.radius([0.9, 1.5], sigma=0.25), "p_low=1.5: expected a probability"),
    (lambda: smoothing.radius(None, sigma=0.25), "p_low=None: expected numbers"),
    (lambda: smoothing.max_radius(sigma=0.25, n=np.inf, alpha=0.1), "n=inf: expected a whole"),
    (lambda: smoothing.max_radius(sigma=0.25, n=np.nan, alpha=0.1), "n=nan: expected a whole"),
    (lambda: smoothing.check_budget(n=None, alpha=0.1), "n=None: expected a whole number"),
    (lambda: smoothing.check_budget(n=np.inf, alpha=0.1), "n=inf: expected a whole number"),
  ],
)
def test_bounds_refuse_what_are_no_counts_or_probabilities(run, message):
  with pytest.raises((TypeError, ValueError), match=message):
    run()


def test_counts_without_a_sign_are_counts():
  """250 - 255 of uint8 would be 251."""
  small = CERTIFY(sigma=0.25, alpha=0.1)
  votes = VOTES.astype(np.uint8)
  found = smoothing.certify(votes, votes, sigma=0.25, alpha=0.1)
  assert found.count - found.total == -10 and found.count.dtype == np.int64
  jax.tree.map(np.testing.assert_array_equal, found, small)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"image_shape": 2}, "image_shape=2: expected that of one image, such as"),
    ({"image_shape": None}, "image_shape=None"),
    ({"image_shape": ()}, r"image_shape=\(\)"),
    ({"image_shape": "2"}, "image_shape='2'"),
    ({"image_shape": (-2,)}, "image_shape=-2: expected a whole number, at least 1"),
    ({"image_shape": (2.5,)}, "image_shape=2.5: expected a whole number"),
    ({"batch_size": None}, "batch_size=None: expected a whole number"),
    ({"batch_size": float("inf")}, "batch_size=inf: expected a whole number"),
    ({"devices": 8}, "devices=8: expected"),
    ({"logits_fn": "net"}, "logits_fn='net': expected a function"),
  ],
)
def test_samplers_refuse_what_is_none(options, message):
  given = {"logits_fn": voter, "image_shape": (2,), "batch_size": 200, **options}
  with pytest.raises((TypeError, ValueError), match=message):
    smoothing.Sampler(given.pop("logits_fn"), **given)


@pytest.mark.parametrize("name", ["certify_images", "predict_images"])
def test_numbers_of_draws_may_be_written_as_floats(name, sampler):
  run = functools.partial(getattr(smoothing, name), sampler, X, 0, sigma=0.25)
  more = ({"n0": 100}, {"n0": 1e2}) if name == "certify_images" else ({}, {})
  expected, found = run(n=200, **more[0]), run(n=2e2, **more[1])
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  for n in (None, float("inf"), "200", 200.5):
    with pytest.raises(ValueError, match=f"n={n!r}: expected a whole number"):
      run(n=n)


@pytest.mark.parametrize("totals", [{9: 100}, {0: 100.5}, {0: -100}, {0: None}, 100])
def test_plans_that_ask_for_what_is_none_are_refused(totals, sampler):
  def plan():
    yield totals

  with pytest.raises(ValueError, match="stage 9: expected|draws=.*: expected a whole|yields 100"):
    list(sampler.run(X, 0, plan, sigma=0.25))
