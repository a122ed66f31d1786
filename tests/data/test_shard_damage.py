"""Whatever is wrong with a folder of shards is refused with file, reason and remedy."""

import json

import numpy as np
import pytest
from shard_samples import META, NUM, SOURCE, flip

from jax_robust.data import convert
from jax_robust.data.shard_writer import write_shards
from jax_robust.data.shards import open_shards
from jax_robust.errors import DataFileError

pytestmark = pytest.mark.fast


@pytest.fixture
def folder(tmp_path):
  write_shards(tmp_path / "set", SOURCE, num_shards=4, **META)
  return tmp_path / "set"


def _images(folder):
  return folder / "shard-00002-of-00004.images.npy"


def _labels(folder):
  return folder / "shard-00002-of-00004.labels.npy"


def _edit_manifest(folder, change_fn):
  data = json.loads((folder / "manifest.json").read_text())
  change_fn(data)
  (folder / "manifest.json").write_text(json.dumps(data))


def _truncate(path):
  with open(path, "r+b") as stream:
    stream.truncate(path.stat().st_size - 1)


def _save(path, change_fn):
  np.save(path, change_fn(np.load(path)), allow_pickle=True)


def _objects(array):
  return array.astype(object)


DAMAGE = {
  "missing": (lambda f: _images(f).unlink(), "lacks 1 of its 8 files: shard-00002-of-00004.images"),
  "empty": (lambda f: _images(f).write_bytes(b""), "not a .npy array"),
  "truncated": (lambda f: _truncate(_images(f)), "is truncated"),
  "truncated labels": (lambda f: _truncate(_labels(f)), "is truncated"),
  "too long": (lambda f: _images(f).open("ab").write(b"x"), "is too long"),
  "text": (lambda f: _images(f).write_text("<html>"), "not a .npy array"),
  "dtype": (lambda f: _save(_images(f), np.float32), "holds float32"),
  "label dtype": (lambda f: _save(_labels(f), np.int64), r"holds int64 \[125\].*int32 \[125\]"),
  "shape": (lambda f: _save(_images(f), lambda x: x[:, :2]), r"\[125, 2, 3, 3\]"),
  "fewer": (lambda f: _save(_images(f), lambda x: x[1:]), r"\[124, 4, 3, 3\]"),
  "fortran": (lambda f: _save(_images(f), np.asfortranarray), "Fortran"),
  "pickled": (lambda f: _save(_images(f), _objects), "pickled Python objects.*ever unpickled"),
  "label range": (
    lambda f: _save(_labels(f), lambda x: np.full_like(x, 5)),
    "label of sample 0 is 5",
  ),
  "other labels": (lambda f: _save(_labels(f), np.zeros_like), "its sha256 is"),
  "no manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json: is missing"),
  "no json": (lambda f: (f / "manifest.json").write_text("{"), "cannot be read as JSON"),
  "list": (lambda f: (f / "manifest.json").write_text("[]"), "does not say 'format'"),
  "foreign": (lambda f: _edit_manifest(f, lambda d: d.update(format="x")), "does not say 'format'"),
  "newer": (lambda f: _edit_manifest(f, lambda d: d.update(version=2)), "of version 2.*Update"),
  "no key": (lambda f: _edit_manifest(f, lambda d: d.pop("seed")), r"contradicts .*\('seed'\)"),
  "sum": (lambda f: _edit_manifest(f, lambda d: d.update(num_examples=9)), "hold 500.*is 9"),
  "type": (lambda f: _edit_manifest(f, lambda d: d.update(num_classes="5")), "contradicts"),
  "none": (lambda f: _edit_manifest(f, lambda d: d.update(shards=[])), "is empty"),
  "path": (
    lambda f: _edit_manifest(f, lambda d: d["shards"][0].update(images="../../passwd")),
    "shard 0 is called",
  ),
  "extra": (lambda f: _edit_manifest(f, lambda d: d["shards"][0].update(code="x")), "contradicts"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_shards_are_refused_with_file_reason_remedy(folder, damage):
  damage_fn, message = DAMAGE[damage]
  damage_fn(folder)
  with pytest.raises(DataFileError, match=message) as caught:
    open_shards(folder)
  assert caught.value.path.startswith(str(folder)) and caught.value.remedy
  if (
    "manifest" not in damage
  ):  # a folder that lost its manifest is not taken for a folder of classes
    with pytest.raises(DataFileError, match=message):
      convert.open_source(folder)


def test_labels_that_do_not_add_up_to_the_histogram(folder):
  _save(_labels(folder), np.zeros_like)
  with pytest.raises(DataFileError, match=r"manifest.json: its label_histogram is \["):
    open_shards(folder, verify="size")
  assert open_shards(folder, verify="none").num_examples == NUM


def test_all_missing_files_are_named(folder):
  for number in (0, 3):
    for path in folder.glob(f"shard-0000{number}-*"):
      path.unlink()
  message = (
    r"lacks 4 of its 8 files: shard-00000-of-00004.images.npy, shard-00000-of-00004.labels.npy, "
    r"shard-00003-of-00004.images.npy, shard-00003-of-00004.labels.npy\. Fetch those"
  )
  with pytest.raises(DataFileError, match=message):
    open_shards(folder)
  for path in folder.glob("shard-*"):
    path.unlink()
  with pytest.raises(DataFileError, match="lacks 8 of its 8 files: .* and 3 more"):
    open_shards(folder, verify="none")


def test_damage_is_found(folder):
  """Of images before the first sample of their file is returned, and once; of labels at once."""
  undamaged = open_shards(folder).read(np.arange(NUM))
  flip(_images(folder), 200)
  opened = open_shards(folder)
  np.testing.assert_array_equal(opened.read(np.arange(250))[0], undamaged[0][:250])
  for read in (lambda: opened.read(np.array([250])), lambda: opened.read_shard(2, np.array([3]))):
    with pytest.raises(DataFileError, match=r"shard-00002-of-00004.images.npy: its sha256 is"):
      read()
  flip(_images(folder), 200)
  np.testing.assert_array_equal(opened.read(np.arange(NUM))[0], undamaged[0])
  flip(_images(folder), 200)
  opened.read(np.array([250]))  # not read for its checksum again
  labels = np.load(_labels(folder))
  other = next(i for i in range(1, 125) if labels[i] != labels[0])
  labels[[0, other]] = labels[[other, 0]]
  np.save(_labels(folder), labels)
  with pytest.raises(DataFileError, match=r"shard-00002-of-00004.labels.npy: its sha256 is"):
    open_shards(folder)


@pytest.mark.parametrize(
  ("key", "value"),
  [("generator", "another"), ("licence", "none"), ("seed", 99), ("created_by", "x")],
)
def test_a_changed_manifest_is_refused(folder, key, value):
  _edit_manifest(folder, lambda data: data.update({key: value}))
  with pytest.raises(DataFileError, match="it is not what its sha256 says; after a change on purp"):
    open_shards(folder)
  _edit_manifest(folder, lambda data: data.pop("sha256"))  # as one of an earlier version
  assert getattr(open_shards(folder).manifest, key) == value


def test_wrong_hash(folder):
  flip(_images(folder), 200)
  open_shards(folder)
  with pytest.raises(DataFileError, match=r"shard-00002-of-00004.images.npy: its sha256 is"):
    open_shards(folder, verify="sha256")
  with pytest.raises(ValueError, match="verify='md5'"):
    open_shards(folder, verify="md5")


def test_labels_in_range(folder):
  """Even where nothing was verified, and when a file changes after it was opened."""
  opened = open_shards(folder, verify="none")
  _save(_labels(folder), lambda labels: np.full_like(labels, -1))
  opened.read(np.arange(250))
  for source in (opened, open_shards(folder, verify="none")):
    with pytest.raises(DataFileError, match=r"00002-of-00004.labels.npy: the label .* is -1"):
      source.read(np.arange(250, 260))


def test_file_that_shrinks_after_opening_is_an_error(folder):
  opened = open_shards(folder, verify="size")
  with open(_images(folder), "r+b") as stream:
    stream.truncate(300)
  with pytest.raises(DataFileError, match="ends in the middle"):
    opened.read(np.arange(NUM))
