"""The Gaussian of a class: moments in every regime, seeds, counts, and shards made of it."""

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from jax_robust.data.shard_writer import write_shards
from jax_robust.generate import gaussian

pytestmark = pytest.mark.fast

RNG = np.random.default_rng(0)


def _images(num, shape=(2, 2, 3)):
  """Correlated images well inside [0, 1], so that clipping changes nothing."""
  size = int(np.prod(shape))
  mixing = np.random.default_rng(1).normal(size=(size, size))
  x = 0.5 + 0.03 * RNG.normal(size=(num, size)) @ mixing
  return np.round(255 * np.clip(x, 0, 1)).astype(np.uint8).reshape(num, *shape)


def _flat(images):
  return images.reshape(len(images), -1) / 255.0


def _covariance(fitted):
  """The covariance that the fitted factors imply."""
  size = len(fitted.mean)
  factor = np.zeros((1, size)) if fitted.factor is None else fitted.factor.astype(float)
  scale = np.zeros(size) if fitted.scale is None else fitted.scale.astype(float)
  return factor.T @ factor + np.diag(scale**2)


def assert_close(actual, expected, tolerance=7e-7):
  """To float32's rounding of the largest entry."""
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("num", [5, 12, 200])
def test_full_covariance_is_exact_in_every_rank_regime(num):
  """With fewer images than numbers (12), as many, and more."""
  images = _images(num)
  fitted = gaussian.fit(images)
  np.testing.assert_allclose(fitted.mean, _flat(images).mean(0), rtol=1e-6)
  assert_close(_covariance(fitted), np.cov(_flat(images).T))


@pytest.mark.parametrize("num", [8, 200])
def test_pca_keeps_the_largest_eigenvalues(num):
  images = _images(num)
  covariance = np.cov(_flat(images).T)
  values, vectors = np.linalg.eigh(covariance)
  expected = (vectors[:, -4:] * values[-4:]) @ vectors[:, -4:].T
  fitted = gaussian.fit(images, covariance="pca", rank=4)
  assert fitted.factor.shape == (4, 12)
  assert_close(_covariance(fitted), expected)
  whole = gaussian.fit(images, covariance="pca", rank=min(num - 1, 12))
  assert_close(_covariance(whole), covariance)


def test_diagonal_keeps_the_variances():
  images = _images(50)
  fitted = gaussian.fit(images, covariance="diagonal")
  np.testing.assert_allclose(_covariance(fitted), np.diag(_flat(images).var(0, ddof=1)), rtol=1e-6)


def test_shrinkage_interpolates_to_a_multiple_of_the_identity():
  images = _images(6)
  covariance = np.cov(_flat(images).T)
  target = np.eye(12) * np.trace(covariance) / 12
  for weight in (0.0, 0.3, 1.0):
    fitted = gaussian.fit(images, covariance="shrinkage", shrinkage=weight)
    expected = (1 - weight) * covariance + weight * target
    assert_close(_covariance(fitted), expected)


def test_shrinkage_defaults_to_ledoit_and_wolf():
  images = _images(30)
  biased, weight = ledoit_wolf(_flat(images))
  assert 0.01 < weight < 0.99
  # scikit-learn divides by n, this module by n - 1.
  fitted = gaussian.fit(images, covariance="shrinkage")
  assert_close(_covariance(fitted), biased * 30 / 29, 2e-6)


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"covariance": "pca", "rank": 3},
    {"covariance": "diagonal"},
    {"covariance": "shrinkage", "shrinkage": 0.5},
  ],
)
def test_moments(options):
  """Samples have the mean and the covariance that was fitted, within five standard errors."""
  fitted, num = gaussian.fit(_images(7), **options), 40_000
  x = fitted.draw(np.random.default_rng(3), num)
  assert x.dtype == np.float32
  covariance = _covariance(fitted)
  variance = np.diag(covariance)
  error = np.sqrt(variance / num)
  assert (np.abs(x.mean(0) - fitted.mean) < 5 * error + 1e-6).all()
  error = np.sqrt((covariance**2 + variance[:, None] * variance[None]) / num)
  assert (np.abs(np.cov(x.T) - covariance) < 5 * error + 1e-8).all()


def test_clipped_and_rounded():
  images = np.zeros((20, 2, 2, 1), np.uint8)
  images[:10] = 255
  samples = gaussian.sample_chunks(
    images, np.zeros(20, int), num_examples=4000, num_classes=1, covariance="diagonal"
  )
  drawn = np.concatenate([chunk for chunk, _ in samples.batches()])
  assert drawn.dtype == np.uint8
  # N(.5, .513²): both ends are clipped to, a sixth of the mass each.
  for end in (0, 255):
    assert abs((drawn == end).mean() - 0.166) < 0.02
  rounded = gaussian._to_uint8(np.array([-0.1, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 1.2]))
  assert rounded.tolist() == [0, 0, 0, 1, 255, 255]


LABELS = np.arange(90) % 3
IMAGES = _images(90)
# Classes that differ in brightness.
IMAGES[LABELS == 1] //= 2
IMAGES[LABELS == 2] //= 4


def _draw(num_examples, **options):
  samples = gaussian.sample_chunks(
    IMAGES, LABELS, **{"num_examples": num_examples, "num_classes": 3, "chunk_size": 64, **options}
  )
  images, labels = (np.concatenate(parts) for parts in zip(*samples.batches(), strict=True))
  assert samples.num_examples == len(images) and images.shape[1:] == samples.image_shape
  return images, labels


def test_samples_of_a_class_look_like_it():
  images, labels = _draw(900)
  for label in range(3):
    expected, drawn = IMAGES[label == LABELS], images[labels == label]
    assert abs(drawn.mean() - expected.mean()) < 0.05 * expected.mean()
    assert abs(drawn.std(0).mean() / expected.std(0).mean() - 1) < 0.15


def test_reproducible():
  """A chunk depends on (seed, class, chunk) only, not on how many samples or classes are drawn."""
  images, labels = _draw(900)
  again, _ = _draw(900)
  more, more_labels = _draw(1500)
  other, _ = _draw(900, seed=1)
  np.testing.assert_array_equal(images, again)
  for label in range(3):
    np.testing.assert_array_equal(images[labels == label], more[more_labels == label][:300])
  assert (images != other).mean() > 0.8
  # No chunk repeats another one, and no class another class's noise.
  assert len({image.tobytes() for image in images}) > 890


def test_counts():
  for num in (1, 2, 100, 902):
    counts = np.bincount(_draw(num)[1], minlength=3)
    assert counts.sum() == num and np.ptp(counts) <= 1
  keep = np.r_[0:60, 60:90:3]  # class 0: 30 images, classes 1 and 2: 20 each
  samples = gaussian.sample_chunks(
    IMAGES[keep], LABELS[keep], num_examples=700, num_classes=4, balance="as_fitted"
  )
  labels = np.concatenate([labels for _, labels in samples.batches()])
  assert np.bincount(labels, minlength=4).tolist() == [300, 200, 200, 0]


def test_constant_memory():
  """Chunks are no larger than asked for, and nothing is drawn before it is wanted."""
  samples = gaussian.sample_chunks(
    IMAGES, LABELS, num_examples=10**12, num_classes=3, chunk_size=50
  )
  chunks = samples.batches()
  assert [len(next(chunks)[0]) for _ in range(3)] == [50, 50, 50]


def test_shards_of_samples(tmp_path):
  samples = gaussian.sample_chunks(IMAGES, LABELS, num_examples=1000, num_classes=3, seed=5)
  opened = write_shards(
    tmp_path / "set", samples, num_shards=4, generator="Gaussian", licence="CC0", seed=5
  )
  assert opened.manifest.label_histogram == (333, 333, 334)
  images, labels = opened.read(np.arange(1000))
  drawn = {}
  for chunk, chunk_labels in samples.batches():
    drawn.update(zip((image.tobytes() for image in chunk), chunk_labels, strict=True))
  assert [drawn[image.tobytes()] for image in images] == labels.tolist()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"covariance": "diag"}, "covariance='diag': did you mean 'diagonal'"),
    ({"covariance": "pca"}, "rank=None"),
    ({"covariance": "pca", "rank": 0}, "rank=0"),
    ({"rank": 3}, "rank=3: belongs to covariance='pca', not 'full'"),
    ({"shrinkage": 0.1}, "belongs to covariance='shrinkage'"),
    ({"covariance": "shrinkage", "shrinkage": 1.5}, "shrinkage=1.5"),
    ({"balance": "even"}, "balance='even': expected one of 'as_fitted', 'equal'"),
    ({"num_examples": 0}, "num_examples=0"),
    ({"chunk_size": 0}, "chunk_size=0"),
    ({"seed": -1}, "seed=-1"),
    ({"num_classes": 2}, r"outside \[0, 2\) of num_classes=2"),
    ({"num_classes": 3.5}, "num_classes=3.5: expected a whole number"),
    ({"labels": LABELS * 1.0}, "the labels' dtype is float64, expected integers"),
    ({"labels": LABELS[:4]}, "4 labels"),
    ({"images": IMAGES / 255}, "the images' dtype is float64, expected uint8"),
    ({"images": IMAGES[:0], "labels": LABELS[:0]}, "holds no samples"),
    ({"covariance": "pca", "rank": 1.5}, "rank=1.5: expected a whole number"),
    ({"covariance": "shrinkage", "shrinkage": "x"}, "shrinkage='x': expected a share"),
    ({"num_classes": 4}, "class 3 has 0 images"),
  ],
)
def test_bad_arguments(options, message):
  with pytest.raises(ValueError, match=message):
    given = {"images": IMAGES, "labels": LABELS, "num_examples": 900, "num_classes": 3, **options}
    gaussian.sample_chunks(given.pop("images"), given.pop("labels"), **given)


def test_bad_images():
  for images in (IMAGES[:1], IMAGES / 255, IMAGES[..., 0]):
    with pytest.raises(ValueError, match="expected uint8"):
      gaussian.fit(images)
  with pytest.raises(ValueError, match="rank=5: expected 1 to 4 for 5 images of 12 numbers"):
    gaussian.fit(IMAGES[:5], covariance="pca", rank=5)
