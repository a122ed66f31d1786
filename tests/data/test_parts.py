"""Sets in several files: found, read as one, and refused where a part is missing."""

import re

import numpy as np
import pytest
from image_sets import assert_reads

from jax_robust.data import convert, parts
from jax_robust.errors import DataFileError

pytestmark = pytest.mark.fast

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (60, 6, 5, 3)).astype(np.uint8)
LABELS = np.sort(RNG.integers(0, 5, 60))
LABELS[-1] = 4
ALL = np.arange(60)


@pytest.fixture
def folder(tmp_path):
  """Twelve parts, sorted by class as those of EDM are: the first ones lack most classes."""
  folder = tmp_path / "edm"
  folder.mkdir()
  for number in range(12):
    rows = slice(5 * number, 5 * number + 5)
    save = np.savez if number % 2 else np.savez_compressed
    save(folder / f"20m_part{number + 1}.npz", image=IMAGES[rows], label=LABELS[rows])
  return folder


def test_parts_are_one_source_in_the_order_of_their_numbers(folder):
  for path in (folder, folder / "20m_part*.npz", str(folder / "20m_*")):
    source = convert.open_source(path)
    assert (source.num_examples, source.image_shape, source.num_classes) == (60, (6, 5, 3), 5)
    rows = ALL, RNG.permutation(60), np.array([59, 0, 0]), ALL[:0]
    assert_reads(source, IMAGES, LABELS, *rows)
    np.testing.assert_array_equal(source.read_labels(), LABELS)
    with pytest.raises(IndexError, match="index 60 is outside"):
      source.read(np.array([60]))


def test_shards_of_parts_that_are_sorted_by_class(folder, tmp_path):
  made = convert.make_shards(folder / "20m_part*.npz", tmp_path / "set", num_shards=2)
  images, labels = made.read(ALL)
  order = [int(np.flatnonzero((image == IMAGES).all((1, 2, 3)))[0]) for image in images]
  assert sorted(order) == list(range(60))
  np.testing.assert_array_equal(labels, LABELS[order])
  assert made.num_classes == 5 and made.manifest.generator == "20m_part*.npz"
  for half in (labels[:30], labels[30:]):
    assert set(half) == set(range(5)), "the shards are as sorted as the parts were"
  assert convert.make_shards(folder, tmp_path / "ten", num_classes=10).num_classes == 10


def test_some_parts_by_brackets(folder):
  source = convert.open_source(folder / "20m_part[13].npz")
  np.testing.assert_array_equal(source.read(np.arange(10))[0], IMAGES[[*range(5), *range(10, 15)]])


def test_a_single_file_in_a_folder_is_the_set(tmp_path):
  np.savez(tmp_path / "cifar10_ddpm.npz", image=IMAGES, label=LABELS)
  assert convert.open_source(tmp_path).num_examples == 60


def test_a_folder_of_classes_may_hold_an_npz(tmp_path):
  np.savez(tmp_path / "labels.npz", label=LABELS)
  (tmp_path / "cat").mkdir()
  with pytest.raises(DataFileError, match="its folders hold no image"):
    convert.open_source(tmp_path)


def _save(path, **changes):
  np.savez(path, **{"image": IMAGES[:5], "label": LABELS[:5], **changes})


BAD = {
  "a gap": (["a1.npz", "a2.npz", "a4.npz"], "has parts 2 and 4, but none between. Fetch what"),
  "a late start": (["a2.npz", "a3.npz"], "begins with part 2"),
  "no first of two gaps": (["a3.npz", "a9.npz"], "has parts 3 and 9|begins with part 3"),
  "twice": (["a1.npz", "a01.npz", "a2.npz"], "has two files of number 1"),
  "splits": (["train.npz", "test.npz"], "holds test.npz, train.npz, which are not the numbered"),
  "sizes": (["1m.npz", "5m.npz", "10m.npz"], "holds 1m.npz, 5m.npz, 10m.npz, which are not"),
  "two sets": (["a1.npz", "a2.npz", "b1.npz"], "'20m_part\\*.npz'"),
}


@pytest.mark.parametrize("name", BAD)
def test_folders_that_are_no_parts_of_one_set(tmp_path, name):
  files, message = BAD[name]
  for file in files:
    _save(tmp_path / file)
  for open_fn in (convert.open_source, lambda path: convert.make_shards(path, tmp_path / "set")):
    with pytest.raises(DataFileError, match=message) as caught:
      open_fn(tmp_path)
    assert caught.value.path == str(tmp_path) and not (tmp_path / "set").exists()


def test_bad_patterns(tmp_path):
  with pytest.raises(DataFileError, match="matches no file"):
    convert.open_source(tmp_path / "part*.npz")
  (tmp_path / "part1.npz").mkdir()
  with pytest.raises(DataFileError, match="is a folder. Let the pattern match files"):
    convert.open_source(tmp_path / "part*.npz")
  for number in (0, 2):
    _save(tmp_path / f"of_{number}.npz")
  with pytest.raises(DataFileError, match=re.escape("of_*.npz: has parts 0 and 2, but none")):
    convert.open_source(tmp_path / "of_*.npz")


def test_names_that_are_no_patterns(tmp_path):
  _save(tmp_path / "set[1].npz")
  assert not parts.is_pattern(tmp_path / "set[1].npz")
  assert convert.open_source(tmp_path / "set[1].npz").num_examples == 5


def test_parts_must_be_alike(tmp_path):
  _save(tmp_path / "a1.npz")
  for changes, message in (
    ({"image": IMAGES[:5, 1:]}, r"a2.npz: has image_shape \(5, 5, 3\), .*a1.npz has \(6, 5, 3\)"),
    ({"class_names": np.array(["cat", "dog"])}, r"a2.npz: has class_names \('cat', 'dog'\)"),
    ({"label": LABELS[:4]}, "5 images but 4 labels"),
  ):
    _save(tmp_path / "a2.npz", **changes)
    with pytest.raises(DataFileError, match=message):
      convert.open_source(tmp_path)


def test_a_part_that_lacks_classes_keeps_their_names(tmp_path):
  names = np.array(["cat", "dog", "ship"])
  for number, label in ((1, 0), (2, 2)):
    _save(tmp_path / f"a{number}.npz", label=np.full(5, label), class_names=names)
  source = convert.open_source(tmp_path)
  assert source.class_names == ("cat", "dog", "ship") and source.num_classes == 3
