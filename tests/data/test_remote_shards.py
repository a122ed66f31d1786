"""Shards in an object store, for which TensorFlow's file system in memory stands in."""

import itertools
import sys

import numpy as np
import pytest
from shard_samples import IMAGES, META, NUM, SOURCE, numbers

from jax_robust import data
from jax_robust.data import columns, convert, shard_files, shards
from jax_robust.data.shard_writer import write_shards
from jax_robust.errors import DataFileError

STORE = "ram://bucket/set"


@pytest.fixture(scope="module")
def gfile():
  return pytest.importorskip("tensorflow").io.gfile


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The shards on a local disk."""
  folder = tmp_path_factory.mktemp("local") / "set"
  source = columns.with_columns(SOURCE, {"confidence": np.arange(NUM) / NUM})
  write_shards(folder, source, num_shards=4, **META)
  return folder


def upload(gfile, folder, store=STORE):
  """Copies a folder to the store, in the place of what is there."""
  if gfile.exists(store):
    gfile.rmtree(store)
  gfile.makedirs(store)
  for path in folder.iterdir():
    with gfile.GFile(f"{store}/{path.name}", "wb") as stream:
      stream.write(path.read_bytes())
  return store


@pytest.mark.parametrize("verify", shards.VERIFY)
def test_a_store_is_read_as_a_disk_is(gfile, folder, verify):
  local, remote = (
    shards.open_shards(folder),
    shards.open_shards(upload(gfile, folder), verify=verify),
  )
  assert remote.name == STORE and remote.manifest == local.manifest
  order = np.random.default_rng(0).permutation(NUM)
  for ours, theirs in zip(remote.read(order), local.read(order), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  np.testing.assert_array_equal(remote.read_labels(), local.read_labels())
  np.testing.assert_array_equal(
    remote.columns["confidence"](order), local.columns["confidence"](order)
  )


def test_training_batches_are_those_of_the_disk(gfile, folder):
  options = {"batch_size": 32, "original_share": 0.0, "cycle_length": 2}
  rows = []
  for path in (folder, upload(gfile, folder)):
    batches = data.make_train_batches(None, convert.open_source(path), **options)(3, 20)
    rows.append([(batch["image"], batch["label"]) for batch in batches])
  assert len(rows[0]) == len(rows[1]) == 20
  for ours, theirs in zip(itertools.chain(*rows[1]), itertools.chain(*rows[0]), strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_shards_of_a_store_become_others(gfile, folder, tmp_path):
  made = convert.make_shards(upload(gfile, folder), tmp_path / "set", num_shards=2)
  assert sorted(numbers(made.read(np.arange(NUM))[0])) == list(range(NUM))
  with pytest.raises(ValueError, match="'gs://bucket/set': expected a folder on a local disk"):
    convert.make_shards(SOURCE, "gs://bucket/set")


def test_bounded(gfile, folder, monkeypatch):
  """At most so many files are kept, those that were read last; a file is fetched once till then."""
  fetched = []
  fetch = shard_files.ShardFile.fetch
  monkeypatch.setattr(
    shard_files.ShardFile,
    "fetch",
    lambda self, copy: fetched.append(self.path) or fetch(self, copy),
  )
  kept = shard_files.Fetched(num_kept=2)
  manifest = shards.open_shards(upload(gfile, folder)).manifest
  files = [
    shard_files.ShardFile(
      f"{STORE}/{shard.images}", (125, *IMAGES.shape[1:]), np.uint8, shard.images_sha256,
      verify=True, kept=kept,
    )
    for shard in manifest.shards
  ]  # fmt: skip
  for number in (0, 0, 1, 0, 2, 0, 1, 3):
    assert files[number].read(np.arange(3)).shape == (3, *IMAGES.shape[1:])
    assert len(kept._files) <= 2
  places = [[file.path for file in files].index(path) for path in fetched]
  assert places == [0, 1, 2, 1, 3]


def replace(gfile, path, content):
  """Gives a file of the store another content."""
  gfile.remove(path)
  with gfile.GFile(path, "wb") as stream:
    stream.write(content)


def test_damage_is_found(gfile, folder):
  """Whenever a shard is fetched, and of labels at once."""
  store = upload(gfile, folder)
  opened = shards.open_shards(store)
  name = "shard-00002-of-00004.images.npy"
  changed = bytearray((folder / name).read_bytes())
  changed[200] ^= 1
  replace(gfile, f"{store}/{name}", bytes(changed))
  assert opened.read(np.arange(250))[0].shape[0] == 250
  with pytest.raises(DataFileError, match=f"{store}/{name}: its sha256 is"):
    opened.read(np.array([250]))
  with pytest.raises(DataFileError, match=f"{store}/{name}: its sha256 is"):
    shards.open_shards(store, verify="sha256")
  labels = name.replace("images", "labels")
  replace(gfile, f"{store}/{labels}", (folder / labels).read_bytes()[:-1])
  with pytest.raises(DataFileError, match="00002-of-00004.labels.npy: is truncated"):
    shards.open_shards(store)


def test_bad_stores(gfile, folder):
  store = upload(gfile, folder)
  for number in (1, 3):
    gfile.remove(f"{store}/shard-0000{number}-of-00004.images.npy")
  message = "lacks 2 of its 12 files: shard-00001-of-00004.images.npy, shard-00003"
  with pytest.raises(DataFileError, match=message):
    shards.open_shards(store)
  with pytest.raises(DataFileError, match="ram://bucket/none/manifest.json: is missing"):
    shards.open_shards("ram://bucket/none")
  with pytest.raises(DataFileError, match="is no folder of shards, the one thing that is read"):
    convert.open_source("ram://bucket/none")
  for path in ("nosuch://bucket/set", "nosuch://bucket"):
    with pytest.raises(DataFileError, match=r"cannot be read \(.*nosuch"):
      convert.open_source(path)


def test_without_tensorflow_it_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  with pytest.raises(DataFileError, match="lies in an object store.*pip install 'jax_robust.train"):
    convert.open_source(STORE)
