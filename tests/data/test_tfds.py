"""TFDS: names, folders, order, resizing, and what is said when something is missing."""

import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from jax_robust.data import draws, tfds
from jax_robust.errors import DataFileError

RNG = np.random.default_rng(0)
MNIST = RNG.integers(0, 256, (700, 28, 28, 1)).astype(np.uint8)
LABELS = RNG.integers(0, 10, 700)
# Images of several sizes, each a horizontal ramp in red and a vertical one in green.
SIZES = [(40, 20), (20, 40), (33, 47), (16, 16), (8, 9)]


def _ramps(height, width):
  rows, columns = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
  return np.round(255 * np.stack([columns, rows, rows * 0 + 0.5], -1)).astype(np.uint8)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """A TFDS folder: a small made 'mnist' in four files, and a set of images of several sizes."""
  import tensorflow_datasets

  data_dir = tmp_path_factory.mktemp("tfds")
  builder = tensorflow_datasets.builder("mnist", data_dir=data_dir)
  examples = {
    "train": [(i, {"image": MNIST[i], "label": LABELS[i]}) for i in range(600)],
    "test": [(i, {"image": MNIST[i], "label": LABELS[i]}) for i in range(600, 700)],
  }
  builder._split_generators = lambda *_: examples
  config = tensorflow_datasets.download.DownloadConfig(try_download_gcs=False, num_shards=4)
  builder.download_and_prepare(download_config=config)

  features = tensorflow_datasets.features
  tensorflow_datasets.dataset_builders.store_as_tfds_dataset(
    name="sizes",
    version="1.0.0",
    features=features.FeaturesDict(
      {"image": features.Image(shape=(None, None, 3)), "label": features.ClassLabel(num_classes=5)}
    ),
    split_datasets={"train": [(i, {"image": _ramps(*s), "label": 0}) for i, s in enumerate(SIZES)]},
    data_dir=data_dir,
    disable_shuffling=True,
  )
  return data_dir


def test_load_tfds_reads_every_sample(data_dir):
  train = tfds.load_tfds("mnist", "train", data_dir=str(data_dir))
  test = tfds.load_tfds("mnist", "test", data_dir=str(data_dir))
  assert (train.num_examples, train.image_shape, train.num_classes) == (600, (28, 28, 1), 10)
  labels_of = {image.tobytes(): label for image, label in zip(MNIST, LABELS, strict=True)}
  for source, originals in ((train, MNIST[:600]), (test, MNIST[600:])):
    images, labels = source.read(np.arange(source.num_examples))
    assert {image.tobytes() for image in images} == {image.tobytes() for image in originals}
    assert labels.tolist() == [labels_of[image.tobytes()] for image in images]


def test_stable_order(data_dir):
  """Record by record, file by file: a slice is a slice of the whole, and a stream is the same."""
  whole = tfds.load_tfds("mnist", "train", data_dir=str(data_dir)).read(np.arange(600))[0]
  again = tfds.load_tfds("mnist", "train", data_dir=str(data_dir)).read(np.arange(600))[0]
  part = tfds.load_tfds("mnist", "train[100:450]", data_dir=str(data_dir)).read(np.arange(350))[0]
  batches = tfds.tfds_stream("mnist", "train", data_dir=str(data_dir)).batches()
  np.testing.assert_array_equal(whole, again)
  np.testing.assert_array_equal(whole[100:450], part)
  np.testing.assert_array_equal(whole, np.concatenate([images for images, _ in batches]))
  assert len(list(data_dir.glob("mnist/*/mnist-train*"))) == 4  # else this test shows little


def test_heldout_split_of_tfds(data_dir):
  source = tfds.load_tfds("mnist", "train", data_dir=str(data_dir))
  train, heldout = draws.hold_out(source, 128, draw="first")
  assert train.num_examples == 472
  np.testing.assert_array_equal(heldout.read(np.arange(128))[0], source.read(np.arange(128))[0])


def test_folder_of_a_builder(data_dir):
  folder = next(data_dir.glob("mnist/*"))
  assert tfds.load_tfds(str(folder), "test").num_examples == 100
  with pytest.raises(DataFileError, match=f"no dataset_info.json. Did you mean {folder}"):
    tfds.load_tfds(str(folder.parent), "test")
  with pytest.raises(DataFileError, match="no such folder"):
    tfds.load_tfds("no/such/folder", "test")


def test_images_of_several_sizes_need_image_size(data_dir):
  folder = str(next(data_dir.glob("sizes/*")))
  with pytest.raises(ValueError, match=r"image_size=None: the images of .* differ in size"):
    tfds.load_tfds(folder, "train")
  source = tfds.load_tfds(folder, "train", image_size=16)
  assert source.image_shape == (16, 16, 3) and source.num_classes == 5
  images = source.read(np.arange(5))[0].astype(float)
  np.testing.assert_array_equal(images[3], _ramps(16, 16))  # of that size already: nothing changes
  for image, (height, width) in zip(images, SIZES, strict=True):
    # The crop is centred, and covers the whole of the shorter side.
    assert abs(image[..., :2].mean() - 127.5) < 6
    red, green = np.ptp(image[8, :, 0]), np.ptp(image[:, 8, 1])
    if height > width:
      assert red > 235 and green < 145
    if height < width:
      assert green > 230 and red < 245


def test_unknown_names_and_splits_get_the_near_miss(data_dir):
  with pytest.raises(ValueError, match=r"name='cifar_10' is no .*: did you mean 'cifar10'\?"):
    tfds.load_tfds("cifar_10", "train")
  with pytest.raises(ValueError, match="expected one of 'cifar10', 'cifar100'"):
    tfds.load_tfds("imagenet2012", "train")
  with pytest.raises(ValueError, match=r"split='trian' .*: did you mean 'train'\?"):
    tfds.load_tfds("mnist", "trian", data_dir=str(data_dir))


def test_dataset_that_is_not_prepared(tmp_path):
  with pytest.raises(DataFileError) as caught:
    tfds.load_tfds("cifar10", "train", data_dir=str(tmp_path))
  assert "cifar10 is not prepared there" in str(caught.value)
  assert str(tmp_path) in caught.value.reason and "tfds.load('cifar10'" in caught.value.remedy
  assert not list(tmp_path.iterdir())


def test_too_large_for_ram(data_dir):
  with pytest.raises(DataFileError, match=r"600 images take .*max_bytes=400000.*Make shards"):
    tfds.load_tfds("mnist", "train", data_dir=str(data_dir), max_bytes=400_000)


def test_stream_makes_shards(data_dir, tmp_path):
  from jax_robust.data import convert

  stream = tfds.tfds_stream("mnist", "train", data_dir=str(data_dir))
  opened = convert.make_shards(stream, tmp_path / "set", num_shards=3)
  images = opened.read(np.arange(600))[0]
  assert {image.tobytes() for image in images} == {image.tobytes() for image in MNIST[:600]}


def test_damaged_records(data_dir, tmp_path):
  shutil.copytree(data_dir / "mnist", tmp_path / "mnist")
  file = sorted(tmp_path.glob("mnist/*/mnist-train*"))[2]
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 0xFF
  file.write_bytes(content)
  with pytest.raises(DataFileError, match="is damaged"):
    tfds.load_tfds("mnist", "train", data_dir=str(tmp_path))
  (file.parent / "dataset_info.json").write_text("{")
  with pytest.raises(DataFileError, match="cannot be read by TFDS"):
    tfds.load_tfds(str(file.parent), "train")


def test_no_gpu(data_dir):
  import tensorflow as tf

  tfds.load_tfds("mnist", "test", data_dir=str(data_dir))
  assert not tf.config.get_visible_devices("GPU")


@pytest.mark.parametrize(
  ("package", "says"),
  [
    ("tensorflow_datasets", r"need tensorflow-datasets.*shards"),
    ("tensorflow", r"need TensorFlow.*resident"),
  ],
)
def test_without_tensorflow_the_error_says_what_to_do(monkeypatch, package, says):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(ImportError, match=says):
    tfds.load_tfds("mnist", "train")


@pytest.mark.slow
def test_prepared_real_data(shared, tmp_path):
  """The real MNIST, as TFDS's own builder wrote it, has the known sizes and counts."""
  script = pathlib.Path(shared) / "data" / "prepare_tfds.py"
  command = [sys.executable, script, f"--data_dir={tmp_path}", "mnist"]
  subprocess.run(command, check=True, capture_output=True)
  train = tfds.load_tfds("mnist", "train", data_dir=str(tmp_path))
  _, labels = train.read(np.arange(60_000))
  assert train.image_shape == (28, 28, 1)
  assert np.bincount(labels)[:3].tolist() == [5923, 6742, 5958]
