"""HDF5 files with images and labels: read in blocks, and every way in which they can be bad."""

import random
import sys

import numpy as np
import pytest
from image_sets import assert_reads

from jax_robust.data import convert, files, hdf5, npy
from jax_robust.errors import DataFileError

h5py = pytest.importorskip("h5py", reason="needs h5py: pip install 'jax_robust[hdf5]'")

pytestmark = pytest.mark.fast

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (300, 6, 5, 3)).astype(np.uint8)
LABELS = np.sort(RNG.integers(0, 7, 300))
LABELS[-1] = 6
ALL = np.arange(300)

KINDS = {
  "contiguous": {},
  "chunked": {"chunks": (32, 6, 5, 3)},
  "chunks of parts of an image": {"chunks": (70, 3, 2, 1), "compression": "gzip"},
  "lzf": {"chunks": True, "compression": "lzf"},
  "checksums": {"chunks": (300, 6, 5, 3), "compression": "gzip", "fletcher32": True},
}


def write(path, images=IMAGES, labels=LABELS, file_options=(), **options):
  """An HDF5 file with these arrays."""
  with h5py.File(path, "w", **dict(file_options)) as file:
    file.create_dataset("image", data=images, **options)
    file.create_dataset("label", data=labels)
  return path


@pytest.mark.parametrize("kind", KINDS)
def test_source_and_stream_read_the_file(tmp_path, kind):
  path = write(tmp_path / "set", **KINDS[kind])  # its content decides, not its name
  source = convert.open_source(path)
  assert (source.num_examples, source.image_shape, source.num_classes) == (300, (6, 5, 3), 7)
  rows = ALL, RNG.permutation(300), np.array([5, 6, 7, 5, 299]), ALL[:0]
  assert_reads(source, IMAGES, LABELS, *rows)
  stream = files.hdf5_stream(path, num_classes=9)
  for _ in range(2):  # it starts again
    batches = [*stream.batches(64)]
    assert [len(labels) for _, labels in batches] == [64, 64, 64, 64, 44]
    np.testing.assert_array_equal(np.concatenate([images for images, _ in batches]), IMAGES)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), LABELS)
  made = convert.make_shards(path, tmp_path / "shards", num_shards=3)
  assert made.num_examples == 300 and made.manifest.label_histogram == tuple(np.bincount(LABELS))


def test_images_in_one_piece_are_not_loaded(tmp_path):
  """They are read row by row, behind a block of another program too."""
  for number, options in enumerate([{}, {"userblock_size": 1024}]):
    path = write(tmp_path / f"{number}.h5", file_options=options)
    with hdf5.open_hdf5(path) as file:
      rows = hdf5.stored_rows(file, "image")
    assert isinstance(rows, npy.RowFile)
    np.testing.assert_array_equal(rows.read(np.array([7, 0])), IMAGES[[7, 0]])
    np.testing.assert_array_equal(convert.open_source(path).read(ALL)[0], IMAGES)


def test_exact_levels_of_floats_are_taken_and_others_refused(tmp_path):
  path = write(tmp_path / "a.h5", images=(IMAGES / np.float32(255)).astype(np.float32))
  np.testing.assert_array_equal(convert.open_source(path).read(ALL)[0], IMAGES)
  path = write(tmp_path / "b.h5", images=RNG.random((300, 6, 5, 3), np.float32))
  with pytest.raises(DataFileError, match="float32"):
    convert.open_source(path)


def test_parts_of_hdf5(tmp_path):
  for number, rows in enumerate((slice(0, 100), slice(100, 300))):
    write(tmp_path / f"part{number}.h5", IMAGES[rows], LABELS[rows], compression="gzip")
  source = convert.open_source(tmp_path)
  np.testing.assert_array_equal(source.read(ALL)[0], IMAGES)


def _with(change_fn):
  """A file that a function of the open file has changed."""

  def make(path):
    write(path)
    with h5py.File(path, "a") as file:
      change_fn(file)

  return make


def _replaced(name, make_fn):
  """A file in which `make_fn(file)` has put another thing in the place of an array."""

  def change(file):
    del file[name]
    make_fn(file)

  return _with(change)


def _other(file):
  """A link to an array of another file."""
  file["image"] = h5py.ExternalLink("/etc/passwd", "image")


def _virtual(file):
  """An array that is a view of another file."""
  layout = h5py.VirtualLayout((300, 6, 5, 3), np.uint8)
  layout[:] = h5py.VirtualSource("other.h5", "image", (300, 6, 5, 3))
  file.create_virtual_dataset("image", layout)


def _raw(file):
  """An array whose bytes are those of another file."""
  file.create_dataset("image", (300, 6, 5, 3), np.uint8, external=[("/etc/passwd", 0, 27_000)])


def _texts(file):
  file.create_dataset("label", data=["cat"] * 300, dtype=h5py.string_dtype())


def _bomb(file):
  file.create_dataset("image", (10_000, 256, 256, 3), np.uint8, chunks=(1, 256, 256, 3))


BAD = {
  "other key": (_with(lambda file: file.move("image", "images")), "'image'.*did you mean 'images'"),
  "no labels": (_with(lambda file: file.pop("label")), "holds no array 'label'"),
  "a group": (
    _replaced("image", lambda file: file.create_group("image")),
    r"\[image\]: is no array",
  ),
  "nothing": (
    _replaced("image", lambda file: file.create_dataset("image", data=h5py.Empty("u1"))),
    "is no array",
  ),
  "another file": (_replaced("image", _other), "lies in another file"),
  "a view": (_replaced("image", _virtual), "keeps its content in other files"),
  "raw bytes": (_replaced("image", _raw), "keeps its content in other files"),
  "texts": (_replaced("label", _texts), r"\[label\]: is of object, expected numbers"),
  "a bomb": (_replaced("image", _bomb), "would unpack to 1,966,080,000 bytes from 0"),
  "count": (lambda path: write(path, labels=LABELS[:7]), "300 images but 7 labels"),
  "one-hot": (lambda path: write(path, labels=np.eye(7)[LABELS]), "labels' dtype is float64"),
  "negative": (lambda path: write(path, labels=LABELS - 1), "label of sample 0 is -1"),
  "channels first": (
    lambda path: write(path, images=IMAGES.transpose(0, 3, 1, 2)),
    "channels come first.*transpose",
  ),
  "empty": (lambda path: write(path, IMAGES[:0], LABELS[:0]), "empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused(tmp_path, name):
  make_fn, message = BAD[name]
  path = tmp_path / "bad.h5"
  make_fn(path)
  for open_fn in (files.hdf5_source, files.hdf5_stream, convert.open_source):
    with pytest.raises(DataFileError, match=message) as caught:
      open_fn(path)
    assert str(path) in caught.value.path and caught.value.remedy


def test_truncated_files_are_refused(tmp_path):
  for kind in ("contiguous", "checksums"):
    content = write(tmp_path / "whole.h5", **KINDS[kind]).read_bytes()
    for share in (0.1, 0.5, 0.999):
      (tmp_path / "cut.h5").write_bytes(content[: int(len(content) * share)])
      with pytest.raises(DataFileError, match="is damaged"):
        convert.open_source(tmp_path / "cut.h5")


def test_damage_of_compressed_images_is_found(tmp_path):
  """Wherever it is, the images are those that were written, or there is an error."""
  content = write(tmp_path / "whole.h5", **KINDS["checksums"]).read_bytes()
  draw, num_refused = random.Random(0), 0
  for _ in range(12):
    changed = bytearray(content)
    changed[draw.randrange(4096, len(content))] ^= 1 << draw.randrange(8)
    (tmp_path / "changed.h5").write_bytes(changed)
    try:
      images = convert.open_source(tmp_path / "changed.h5").read(ALL)[0]
    except DataFileError:
      num_refused += 1
    else:
      np.testing.assert_array_equal(images, IMAGES)
  assert num_refused > 6


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
  path = write(tmp_path / "set.h5")
  monkeypatch.setitem(sys.modules, "h5py", None)
  with pytest.raises(DataFileError, match=r"HDF5 file .*pip install 'jax_robust\[hdf5\]'"):
    convert.open_source(path)
