"""Images of any size, brought to one; folders without a test split."""

import numpy as np
import pytest
from image_sets import save
from PIL import Image

from jax_robust.data import convert, files, resizing
from jax_robust.data.sources import array_source
from jax_robust.errors import DataFileError

pytestmark = pytest.mark.fast

RNG = np.random.default_rng(0)


def photos(root, counts, channels=3):
  """A folder for each class, of images of sizes from 8 to 20."""
  for name, count in counts.items():
    for index in range(count):
      shape = (*RNG.integers(8, 21, 2), 3)[: channels or 2]
      save(root / name / f"{index:02d}.png", RNG.integers(0, 256, shape, np.uint8))
  return root


def test_a_square_of_that_size_stays():
  image = RNG.integers(0, 256, (6, 6, 3), np.uint8)
  assert resizing.fit(image, 6) is image
  source = array_source(image[None], np.array([0]))
  assert resizing.sized(source, 6) is source


@pytest.mark.parametrize("shape", [(4, 8, 1), (8, 4, 3), (5, 7, 3), (64, 3, 1)])
def test_the_centre_is_kept(shape):
  height, width, channels = shape
  ramp = np.linspace(0, 255, max(height, width))
  image = np.broadcast_to((ramp if width > height else ramp[:, None])[..., None], shape)
  small = resizing.fit(image.astype(np.uint8), 4)
  assert small.shape == (4, 4, channels) and small.dtype == np.uint8
  assert abs(small.astype(float).mean() - 127.5) < 3  # symmetric about the middle
  shrunk = resizing.fit(np.full(shape, 77, np.uint8), 4)
  assert (shrunk == 77).all()


def test_it_is_what_is_done_to_images_of_tfds(shared):
  """Antialiased bilinear, as `tf.image.resize` does it, to within rounding."""
  tf = pytest.importorskip("tensorflow")
  from jax_robust.data import tfds

  image = convert.open_source(shared / "data" / "cifar10_test.npz").read(np.arange(1))[0][0]
  for size in 12, 20, 48:
    ours = resizing.fit(image[:, 3:27], size).astype(int)
    theirs = tfds._resize(tf, size, tf.constant(image[:, 3:27])).numpy().astype(int)
    assert np.abs(ours - theirs).max() <= 2


def test_a_folder_of_photos_has_one_size(tmp_path):
  source = convert.open_source(photos(tmp_path, {"cat": 5, "dog": 3}), image_size=6)
  images, labels = source.read(np.arange(8))
  assert images.shape == (8, 6, 6, 3) and labels.tolist() == [0] * 5 + [1] * 3
  picture = np.asarray(Image.open(tmp_path / "dog" / "02.png"))
  assert (images[7] == resizing.fit(picture, 6)).all()
  names, unlabelled = files.unlabelled_folder(tmp_path, image_size=6)
  assert len(names) == 8 and (unlabelled.read(np.arange(8))[0] == images).all()


def test_photos_of_unequal_sizes_are_refused_with_the_remedy(tmp_path):
  photos(tmp_path, {"cat": 5})
  with pytest.raises(DataFileError, match=r"01.png: .*the first one.*data.image_size=64"):
    convert.open_source(tmp_path)
  photos(tmp_path, {"grey": 2}, channels=0)
  with pytest.raises(DataFileError, match=r"must be grey, or all in colour"):
    convert.open_source(tmp_path, image_size=8)


def test_other_kinds_of_sets_are_brought_to_a_size_too(tmp_path):
  images = RNG.integers(0, 256, (4, 8, 8, 1), np.uint8)
  np.savez(tmp_path / "train.npz", image=images, label=np.arange(4) % 2)
  source = convert.open_split(tmp_path, "train", image_size=4)
  assert source.image_shape == (4, 4, 1)
  assert (source.read(np.array([2]))[0][0] == resizing.fit(images[2], 4)).all()


@pytest.mark.parametrize("place", ["", "train"])
def test_a_share_is_kept_for_testing(tmp_path, place):
  photos(tmp_path / place, {"cat": 10, "dog": 20})
  options = {"image_size": 6, "test_share": 0.2}
  train, test = (convert.open_split(tmp_path, split, **options) for split in ("train", "test"))
  assert (train.num_examples, test.num_examples) == (24, 6)
  assert np.bincount(test.read(np.arange(6))[1]).tolist() == [2, 4]
  seen = {image.tobytes() for image in train.read(np.arange(24))[0]}
  assert not seen & {image.tobytes() for image in test.read(np.arange(6))[0]}
  assert convert.survey(tmp_path) == (30, (*train_shape(tmp_path / place), 3))


def train_shape(place):
  """Height and width of the first image."""
  return np.asarray(Image.open(place / "cat" / "00.png")).shape[:2]


def test_a_test_split_that_is_there_is_taken(tmp_path):
  photos(tmp_path / "train", {"cat": 10, "dog": 20})
  photos(tmp_path / "test", {"cat": 1, "dog": 1})
  options = {"image_size": 6, "test_share": 0.2}
  train, test = (convert.open_split(tmp_path, split, **options) for split in ("train", "test"))
  assert (train.num_examples, test.num_examples) == (30, 2)
