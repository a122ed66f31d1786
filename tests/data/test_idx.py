"""Files as MNIST was released in, and data sets that are folders."""

import gzip

import numpy as np
import pytest

from jax_robust.data import convert, idx
from jax_robust.data.shard_writer import write_shards
from jax_robust.data.sources import array_source
from jax_robust.errors import DataFileError

pytestmark = pytest.mark.fast

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 5, 4), np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 3


def encode(array):
  """The array in the files' format."""
  header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
  return header + array.tobytes()


def write(folder, *, suffix="", pack=bytes, images=IMAGES, labels=LABELS, prefix="t10k"):
  """Writes a pair of files and gives the folder back."""
  folder.mkdir(exist_ok=True)
  for name, array in ((f"{prefix}-images-idx3", images), (f"{prefix}-labels-idx1", labels)):
    (folder / f"{name}-ubyte{suffix}").write_bytes(pack(encode(array)))
  return folder


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress)])
def test_files_come_back_in_their_order(tmp_path, suffix, pack):
  folder = write(tmp_path / "set", suffix=suffix, pack=pack)
  source = convert.open_split(folder, "test")
  assert source.image_shape == (5, 4, 1) and source.num_classes == 3
  images, labels = source.read(np.array([11, 0, 5]))
  np.testing.assert_array_equal(images[..., 0], IMAGES[[11, 0, 5]])
  np.testing.assert_array_equal(labels, LABELS[[11, 0, 5]])
  assert convert.open_split(folder, "train") is None


def test_the_real_files_are_numbered_as_published_logs_are(shared):
  source = convert.open_split(shared / "data" / "mnist", "test")
  labels = source.read(np.arange(10_000))[1]
  assert source.num_examples == 10_000 and labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda data: data[:-3], "holds 237 bytes of 240 that its header promises"),
    (lambda data: data + b"\0", "holds 241 bytes of 240"),
    (lambda data: b"", "starts with nothing, not with 00 00 08 03"),
    (lambda data: encode(LABELS), "starts with 00 00 08 01, not with 00 00 08 03"),
    (lambda data: gzip.compress(data)[:-9], "cannot be unpacked"),
    (lambda data: b"\x1f\x8bno gzip", "cannot be unpacked"),
  ],
)
def test_damage_is_named(tmp_path, change, message):
  folder = write(tmp_path / "set")
  path = folder / "t10k-images-idx3-ubyte"
  path.write_bytes(change(path.read_bytes()))
  with pytest.raises(DataFileError, match=message):
    convert.open_split(folder, "test")


def test_files_that_do_not_belong_together_are_refused(tmp_path):
  with pytest.raises(DataFileError, match="has 11 labels for 12 images"):
    convert.open_split(write(tmp_path / "set", labels=LABELS[:11]), "test")
  with pytest.raises(DataFileError, match="the label of sample 2 is 2, outside"):
    pair = idx.find_idx(write(tmp_path / "set"), "test")
    idx.idx_source(*pair, num_classes=2)


def test_a_folder_has_its_splits_in_any_form(tmp_path):
  np.savez(tmp_path / "test.npz", image=IMAGES[..., None], label=LABELS)
  source = array_source(IMAGES[..., None], LABELS)
  write_shards(tmp_path / "train", source, num_shards=2, generator="none", licence="none", seed=0)
  assert convert.open_split(tmp_path, "test").num_examples == 12
  assert convert.open_split(tmp_path, "train").num_examples == 12
  assert convert.open_split(tmp_path / "nothing", "train") is None
