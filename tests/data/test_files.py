"""Others' files: npz, packs of JPEGs, folders of PNGs, and every way in which they can be bad."""

import io
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from jax_robust.data import convert, files
from jax_robust.data.sources import DataFileError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (300, 6, 5, 3)).astype(np.uint8)
LABELS = np.sort(RNG.integers(0, 7, 300)).astype(np.int64)
LABELS[-1] = 6
ALL = np.arange(300)


@pytest.fixture(params=["stored", "deflated"])
def npz(request, tmp_path):
  path = tmp_path / "released.npz"
  save = np.savez if request.param == "stored" else np.savez_compressed
  save(path, image=IMAGES, label=LABELS)
  return path


def test_npz_source_reads_the_file(npz):
  source = files.npz_source(npz)
  assert (source.num_examples, source.image_shape, source.num_classes) == (300, (6, 5, 3), 7)
  for indices in (ALL, RNG.permutation(300), np.array([5, 6, 7, 5, 299]), ALL[:0]):
    images, labels = source.read(indices)
    np.testing.assert_array_equal(images, IMAGES[indices])
    np.testing.assert_array_equal(labels, LABELS[indices])
    assert labels.dtype == np.int32


def test_npz_stream_equals_the_source(npz):
  stream = files.npz_stream(npz)
  for _ in range(2):  # it starts again
    images, labels = (np.concatenate(parts) for parts in zip(*stream.chunks(64), strict=True))
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


def _bad(tmp_path, **arrays):
  path = tmp_path / "bad.npz"
  np.savez(path, **arrays)
  return path


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    ({"images": IMAGES, "label": LABELS}, "no array 'image'.*is 'images' meant"),
    ({"image": IMAGES}, "no array 'label'"),
    ({"image": IMAGES.astype(np.float32), "label": LABELS}, "dtype is float32"),
    ({"image": IMAGES[..., 0], "label": LABELS}, "shape is"),
    ({"image": IMAGES[:0], "label": LABELS[:0]}, "empty"),
    ({"image": IMAGES, "label": LABELS[:7]}, "300 images but 7 labels"),
    ({"image": IMAGES, "label": np.eye(7)[LABELS]}, "labels' dtype is float64"),
    ({"image": IMAGES, "label": np.where(ALL == 9, -1, LABELS)}, "label of sample 9 is -1"),
    ({"image": np.asfortranarray(IMAGES), "label": LABELS}, "Fortran"),
    ({"image": np.uint8(3), "label": LABELS}, "shape is|has shape"),
  ],
)
def test_bad_npz_is_refused_with_file_reason_remedy(tmp_path, arrays, message):
  path = _bad(tmp_path, **arrays)
  for open_fn in (files.npz_source, files.npz_stream, convert.open_source):
    with pytest.raises(DataFileError, match=message) as caught:
      open_fn(path)
    assert str(path) in caught.value.path and caught.value.remedy


def test_label_outside_num_classes(npz):
  with pytest.raises(DataFileError, match=r"is 5, outside .* of num_classes=5"):
    files.npz_source(npz, num_classes=5)


class Bomb:
  """Something whose unpickling would be noticed."""

  def __reduce__(self):
    return (pathlib.Path.touch, (pathlib.Path("unpickled"),))


def test_object_arrays_are_never_unpickled(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  objects = np.empty(300, object)
  objects[:] = [Bomb()] * 300
  for arrays in ({"image": objects, "label": LABELS}, {"image": IMAGES, "label": objects}):
    with pytest.raises(DataFileError, match=r"pickled Python objects.*Nothing is ever unpickled"):
      files.npz_source(_bad(tmp_path, **arrays))
  pack = {"jpeg_bytes": objects, "offsets": LABELS, "labels": LABELS}
  with pytest.raises(DataFileError, match="pickled Python objects"):
    convert.open_source(_bad(tmp_path, **pack))
  np.save("objects.npy", objects, allow_pickle=True)
  with pytest.raises(DataFileError, match="pickled Python objects"):
    convert.open_source("objects.npy")
  assert not pathlib.Path("unpickled").exists()


def test_pickles_under_any_name_are_refused(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ("samples.npz", "samples.pkl", "samples.pt"):
    pathlib.Path(name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataFileError, match=r"is a Python pickle.*Nothing is ever unpickled"):
      convert.open_source(name)
  with zipfile.ZipFile("torch.npz", "w") as archive:
    archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
  with pytest.raises(DataFileError, match="PyTorch file"):
    convert.open_source("torch.npz")
  assert not pathlib.Path("unpickled").exists()


def test_other_files_are_refused(tmp_path):
  for name, content, message in (
    ("empty.npz", b"", r"empty \(0 bytes\)"),
    ("page.npz", b"<html>404</html>", "no zip archive"),
    ("zip.npz", b"PK\x03\x04 and no more", "damaged"),
  ):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataFileError, match=message):
      convert.open_source(tmp_path / name)
  np.save(tmp_path / "images.npy", IMAGES)
  with pytest.raises(DataFileError, match=r"single .npy array.*numpy.savez"):
    convert.open_source(tmp_path / "images.npy")
  with pytest.raises(DataFileError, match="no such file"):
    convert.open_source(tmp_path / "none.npz")


def test_truncated_npz(npz):
  content = npz.read_bytes()
  for share in (0.1, 0.5, 0.9, 0.999):
    npz.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataFileError, match="damaged"):
      files.npz_source(npz)


def test_corrupt_npz_fails_its_checksum(npz):
  content = bytearray(npz.read_bytes())
  content[len(content) // 2] ^= 0x10
  npz.write_bytes(content)
  with pytest.raises(DataFileError, match="damaged"):
    files.npz_source(npz)
  with pytest.raises(DataFileError, match="damaged"):
    list(files.npz_stream(npz).chunks())


def _small(save):
  buffer = io.BytesIO()
  save(buffer, image=IMAGES[:4], label=LABELS[:4])
  return buffer.getvalue()


@pytest.mark.parametrize("content", [_small(np.savez), _small(np.savez_compressed)])
@settings(
  max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_changed_byte_is_a_data_file_error_or_harmless(tmp_path, content, data):
  place = data.draw(st.integers(0, len(content) - 1))
  changed = bytearray(content)
  changed[place] = data.draw(st.integers(0, 255))
  (tmp_path / "small.npz").write_bytes(changed)
  try:
    source = files.npz_source(tmp_path / "small.npz")
    images, labels = source.read(np.arange(source.num_examples))
  except DataFileError:
    return
  np.testing.assert_array_equal(images, IMAGES[:4])
  np.testing.assert_array_equal(labels, LABELS[:4])


def test_header_that_lies_about_its_size(tmp_path):
  good, path = io.BytesIO(), tmp_path / "lies.npz"
  np.save(good, IMAGES)
  lie = good.getvalue().replace(b"(300, 6, 5, 3)", b"(999, 6, 5, 3)")
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("image.npy", lie)
    labels = io.BytesIO()
    np.save(labels, LABELS)
    archive.writestr("label.npy", labels.getvalue())
  with pytest.raises(DataFileError, match="announces"):
    files.npz_source(path)


def test_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
  path = _bad(tmp_path, image=IMAGES, label=LABELS)
  source = files.npz_source(path)
  with open(path, "r+b") as stream:
    stream.truncate(2000)
  with pytest.raises(DataFileError, match="ends in the middle"):
    source.read(ALL)


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
