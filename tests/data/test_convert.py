"""Shards made of files and sources."""

import numpy as np
import pytest
from shard_samples import IMAGES, LABELS, META, NUM, SOURCE, flip, numbers

from jax_robust.data import convert, shards, sources
from jax_robust.data.shard_writer import write_shards
from jax_robust.errors import DataFileError


@pytest.fixture
def folder(tmp_path):
  write_shards(tmp_path / "set", SOURCE, num_shards=4, **META)
  return tmp_path / "set"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_make_shards_of_npz(tmp_path, save):
  save(tmp_path / "edm.npz", image=IMAGES, label=LABELS)
  calls = []
  opened = convert.make_shards(
    tmp_path / "edm.npz",
    tmp_path / "a" / "set",
    shard_size=200,
    progress_fn=lambda *n: calls.append(n),
  )
  images, labels = opened.read(np.arange(NUM))
  np.testing.assert_array_equal(images, IMAGES[numbers(images)])
  np.testing.assert_array_equal(labels, LABELS[numbers(images)])
  assert opened.counts == (166, 167, 167) and calls[-1] == (NUM, NUM)
  assert opened.manifest.generator == "edm.npz" and opened.manifest.licence == "not stated"
  reopened = convert.open_source(tmp_path / "a" / "set", num_classes=5)
  assert isinstance(reopened, shards.ShardSet)
  with pytest.raises(DataFileError, match="is of 5 classes, expected num_classes=10"):
    convert.open_source(tmp_path / "a" / "set", num_classes=10)


def test_make_shards_of_a_source_and_of_shards(folder, tmp_path):
  first = convert.make_shards(SOURCE, tmp_path / "one", num_classes=6)
  second = convert.make_shards(folder, tmp_path / "two", num_shards=7)
  assert first.num_classes == 6 and first.manifest.label_histogram[5] == 0
  for opened in (first, second):
    assert sorted(numbers(opened.read(np.arange(NUM))[0])) == list(range(NUM))


def test_make_shards_of_a_corrupt_npz_leaves_nothing(tmp_path):
  path = tmp_path / "edm.npz"
  np.savez(path, image=IMAGES, label=LABELS)
  flip(path, 9000)
  with pytest.raises(DataFileError, match="damaged"):
    convert.make_shards(path, tmp_path / "set")
  assert [p.name for p in tmp_path.iterdir()] == ["edm.npz"]


def test_make_shards_of_real_generated_images(shared, tmp_path):
  pack = sources.subset(convert.open_source(shared / "data" / "cifake_fake_test.npz"), 0, 1500)
  opened = convert.make_shards(pack, tmp_path / "set", num_shards=8, licence="see its README")
  assert opened.num_classes == 10 and min(opened.manifest.label_histogram) > 100
  images, labels = opened.read(np.arange(1500))
  originals = {image.tobytes(): i for i, image in enumerate(pack.read(np.arange(1500))[0])}
  order = [originals[image.tobytes()] for image in images]
  np.testing.assert_array_equal(labels, pack.read(np.array(order))[1])
