"""Npz files of others, and every way in which they can be bad."""

import io
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_sets import assert_reads

from jax_robust.data import convert, files
from jax_robust.errors import DataFileError

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
  rows = ALL, RNG.permutation(300), np.array([5, 6, 7, 5, 299]), ALL[:0]
  assert_reads(source, IMAGES, LABELS, *rows)


def test_npz_stream_equals_the_source(npz):
  stream = files.npz_stream(npz)
  for _ in range(2):  # it starts again
    images, labels = (np.concatenate(parts) for parts in zip(*stream.batches(64), strict=True))
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


def _bad(tmp_path, **arrays):
  path = tmp_path / "bad.npz"
  np.savez(path, **arrays)
  return path


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    ({"images": IMAGES, "label": LABELS}, "no array 'image'.*did you mean 'images'"),
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
    list(files.npz_stream(npz).batches())


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
