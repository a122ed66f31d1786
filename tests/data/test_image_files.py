"""Packs of JPEGs and folders of PNGs, and every way in which they can be bad."""

import io

import numpy as np
import pytest
from PIL import Image

from jax_robust.data import convert, files
from jax_robust.errors import DataFileError

pytestmark = pytest.mark.fast

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (300, 6, 5, 3)).astype(np.uint8)
LABELS = np.sort(RNG.integers(0, 7, 300)).astype(np.int64)
LABELS[-1] = 6


# Packs of JPEGs.


def _encoded(image, kind="JPEG"):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, kind)
  return buffer.getvalue()


def _pack(tmp_path, images, labels=LABELS[:9], **changes):
  parts = [_encoded(image) for image in images]
  arrays = {
    "jpeg_bytes": np.frombuffer(b"".join(parts), np.uint8),
    "offsets": np.cumsum([0, *map(len, parts)]),
    "labels": labels,
    **changes,
  }
  path = tmp_path / "pack.npz"
  np.savez_compressed(path, **arrays)
  return path


def _smooth(num, size=8):
  ramp = np.linspace(0, 255, size)[None, :, None, None] * np.ones((num, 1, size, 3))
  return (ramp * np.linspace(0.2, 1, num)[:, None, None, None]).astype(np.uint8)


def test_jpeg_pack_reads_in_any_order(tmp_path):
  images = _smooth(9)
  source = convert.open_source(_pack(tmp_path, images), num_classes=7)
  assert (source.num_examples, source.image_shape, source.num_classes) == (9, (8, 8, 3), 7)
  order = np.array([8, 0, 3, 3])
  read, labels = source.read(order)
  assert np.abs(read.astype(int) - images[order]).max() < 24  # JPEG
  np.testing.assert_array_equal(labels, LABELS[order])


def test_bad_jpeg_packs(tmp_path):
  images = _smooth(9)
  offsets = np.cumsum([0, *(len(_encoded(image)) for image in images)])
  for changes, message in (
    ({"offsets": offsets[:-1]}, "do not rise from 0"),
    ({"offsets": offsets[::-1]}, "do not rise from 0"),
    ({"offsets": offsets.astype(float)}, "offsets are float64"),
    ({"labels": LABELS[:8]}, "9 images but 8 labels"),
    ({"jpeg_bytes": np.zeros(offsets[-1], np.int32)}, "jpeg_bytes are int32"),
    ({"jpeg_bytes": np.zeros(offsets[-1], np.uint8)}, "cannot be decoded"),
  ):
    with pytest.raises(DataFileError, match=message):
      files.jpeg_pack_source(_pack(tmp_path, images, **changes))
  with pytest.raises(DataFileError, match="outside"):
    files.jpeg_pack_source(_pack(tmp_path, images, np.full(9, 7)), num_classes=7)


def test_damaged_jpeg_is_named_when_it_is_read(tmp_path):
  images = _smooth(9)
  parts = [_encoded(image) for image in images]
  parts[4] = parts[4][: len(parts[4]) // 2]
  source = files.jpeg_pack_source(
    _pack(
      tmp_path,
      images,
      jpeg_bytes=np.frombuffer(b"".join(parts), np.uint8),
      offsets=np.cumsum([0, *map(len, parts)]),
    )
  )
  source.read(np.array([3, 5]))
  with pytest.raises(DataFileError, match=r"pack.npz\[4\]: cannot be decoded"):
    source.read(np.array([3, 4]))


def test_jpeg_pack_of_real_generated_images(shared):
  source = convert.open_source(shared / "data" / "cifake_fake_test.npz")
  assert (source.num_examples, source.image_shape, source.num_classes) == (10_000, (32, 32, 3), 10)
  images, labels = source.read(np.array([9_999, 0, 1]))
  assert labels.tolist()[1:] == [9, 3] and images.std() > 20
  assert source.read(np.arange(500))[0].shape == (500, 32, 32, 3)


# A folder for every class.


def _folder(root, images, names, suffix=".png"):
  for index, (image, name) in enumerate(zip(images, names, strict=True)):
    (root / name).mkdir(parents=True, exist_ok=True)
    image = image[..., 0] if image.shape[-1] == 1 else image
    (root / name / f"{index:04d}{suffix}").write_bytes(_encoded(image, "PNG"))
  return root


def test_png_folder_numbers_classes_by_name(tmp_path):
  root = _folder(tmp_path / "set", IMAGES[:6], ["ship", "cat", "cat", "dog", "ship", "cat"])
  (root / "cat" / ".DS_Store").write_bytes(b"hidden")
  source = convert.open_source(root)
  images, labels = source.read(np.arange(6))
  assert labels.tolist() == [0, 0, 0, 1, 2, 2] and source.num_classes == 3
  np.testing.assert_array_equal(images, IMAGES[[1, 2, 5, 3, 0, 4]])


def test_png_folder_numeric_names_are_the_labels(tmp_path):
  root = _folder(tmp_path / "set", IMAGES[:4, ..., :1], ["10", "9", "2", "10"])
  source = files.png_folder_source(root, num_classes=12)
  images, labels = source.read(np.arange(4))
  assert labels.tolist() == [2, 9, 10, 10] and source.image_shape == (6, 5, 1)
  np.testing.assert_array_equal(images, IMAGES[[2, 1, 0, 3], ..., :1])
  with pytest.raises(DataFileError, match="outside"):
    files.png_folder_source(root, num_classes=10)


def test_bad_png_folders(tmp_path):
  (tmp_path / "none").mkdir()
  with pytest.raises(DataFileError, match="is empty"):
    convert.open_source(tmp_path / "none")
  root = _folder(tmp_path / "sizes", [IMAGES[0], IMAGES[1, :5]], ["a", "b"])
  with pytest.raises(DataFileError, match=r"image 1 has shape \[5, 5, 3\]"):
    convert.open_source(root).read(np.arange(2))
  root = _folder(tmp_path / "cut", IMAGES[:2], ["a", "b"])
  (root / "b" / "0001.png").write_bytes(_encoded(IMAGES[1], "PNG")[:60])
  with pytest.raises(DataFileError, match=r"b.0001\.png: cannot be decoded"):
    convert.open_source(root).read(np.arange(2))
  alpha = _folder(tmp_path / "alpha", [np.zeros((4, 4, 4), np.uint8)], ["a"])
  with pytest.raises(DataFileError, match="mode RGBA"):
    convert.open_source(alpha)
  deep = _folder(tmp_path / "deep", [np.zeros((4, 4), np.uint16)[..., None]], ["a"])
  with pytest.raises(DataFileError, match="mode I;16"):
    convert.open_source(deep)
  (root / "a" / "notes.txt").write_text("?")
  with pytest.raises(DataFileError, match=r"notes\.txt: is not one of \.png"):
    convert.open_source(root)
