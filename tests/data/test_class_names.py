"""Classes agree by name: in the splits of a folder, in generated images, in shards."""

import re

import numpy as np
import pytest
from image_sets import class_folders, values_by_class

from jax_robust.data import classes, convert, files
from jax_robust.data.classes import Classes, agree, same_classes
from jax_robust.data.columns import with_columns
from jax_robust.data.sources import array_source
from jax_robust.errors import DataFileError

pytestmark = pytest.mark.fast

PETS = ("cat", "dog", "ship")
NUMBERS = tuple(map(str, range(10)))
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.mark.parametrize(
  ("ours", "theirs", "places"),
  [
    (PETS, ("cat", "dog", "ship"), [0, 1, 2]),
    (PETS, ("Dog", "cat", "ship"), [1, 0, 2]),
    (PETS, ("ship", "cat"), [2, 0]),
    (("Dog", "dog"), ("dog", "Dog"), [1, 0]),
    (("café", "tea"), ("cafe\N{COMBINING ACUTE ACCENT}",), [0]),
    (NUMBERS, ("3", "1"), [3, 1]),
    (tuple(map(str, range(1, 11))), ("01", "10", "02"), [0, 9, 1]),
    (("01", "02", "10"), ("1", "10"), [0, 2]),
    (CIFAR, NUMBERS, list(range(10))),
    (CIFAR, ("0", "9", "4"), [0, 9, 4]),
    (("000000", "001000"), ("001000", "000000"), [1, 0]),
  ],
)
def test_names_are_matched(ours, theirs, places):
  assert same_classes(ours, theirs).tolist() == places


@pytest.mark.parametrize(
  ("ours", "theirs", "message"),
  [
    (
      PETS,
      ("cat", "dgo"),
      r"\['dgo'\] cannot be matched: the classes there are",
    ),
    (PETS, ("cat", "Dog", "dog"), r"\['Dog', 'dog'\] are one class"),
    (("Dog", "dog"), ("DOG",), "cannot be matched"),
    (NUMBERS, ("1", "01"), "are one class|cannot be matched"),
    (CIFAR, tuple(map(str, range(1, 11))), r"\['10'\] cannot be matched"),
    (CIFAR, ("000000", "001000"), r"\['000000', '001000'\] cannot be matched"),
    (CIFAR, ("000000",), r"\['000000'\] cannot be matched"),
    (NUMBERS, ("000000",), r"\['000000'\] cannot be matched"),
    (CIFAR, ("00", "01"), "cannot be matched"),
    (CIFAR, ("200000000",), "cannot be matched"),
    (CIFAR, ("0", "cat"), r"\['0'\] cannot be matched"),
    (NUMBERS, CIFAR, "cannot be matched"),
  ],
)
def test_names_that_cannot_be_matched_are_refused_with_both_lists(ours, theirs, message):
  with pytest.raises(ValueError, match=message) as caught:
    same_classes(ours, theirs)
  assert repr(theirs[0]) in str(caught.value) and repr(ours[0]) in str(caught.value)


def _set(num_classes, names=()):
  images = np.arange(num_classes, dtype=np.uint8).reshape(-1, 1, 1, 1)
  return array_source(
    images, np.arange(num_classes), num_classes=num_classes, name="set", class_names=names
  )


def test_labels_follow_the_names():
  source = agree(_set(2, ("ship", "cat")), Classes(3, PETS))
  images, labels = source.read(np.array([1, 0]))
  assert (
    labels.tolist() == [0, 2] and labels.dtype == np.int32 and images.ravel().tolist() == [1, 0]
  )
  assert source.num_classes == 3 and source.class_names == PETS
  assert source.read_labels().tolist() == [2, 0]


def test_without_names_the_numbers_count():
  for names in ((), PETS):
    source = agree(_set(2), Classes(3, names))
    assert source.num_classes == 3 and source.class_names == names
    assert source.read(np.arange(2))[1].tolist() == [0, 1]
  assert agree(_set(3, PETS), Classes(3, ())).class_names == PETS
  with pytest.raises(ValueError, match=r"num_classes 3 there and 2 here, there \['cat'"):
    agree(_set(3, PETS), Classes(2, ()))
  with pytest.raises(ValueError, match="num_classes 2 there and 3 here"):
    agree(_set(2), Classes(3, ()), may_lack=False)


@pytest.mark.parametrize(
  ("wanted", "names"), [(("ship", "cat"), PETS), ((2, 0), PETS), ((2, 0), ())]
)
def test_some_classes_are_taken_alone(wanted, names):
  images = np.arange(6, dtype=np.uint8).reshape(-1, 1, 1, 1)
  whole = array_source(images, [0, 1, 2, 2, 1, 0], num_classes=3, class_names=names)
  source = classes.only(with_columns(whole, {"confidence": np.arange(6)}), wanted)
  found, labels = source.read(np.arange(4))
  assert found.ravel().tolist() == [0, 2, 3, 5] and labels.tolist() == [1, 0, 0, 1]
  assert source.read_labels().tolist() == labels.tolist() and source.num_classes == 2
  assert source.class_names == (("ship", "cat") if names else ("2", "0")) and source.rows is None
  assert source.columns["confidence"](np.array([3, 1])).tolist() == [5, 2]


PROBS = np.full((3, 3), 1 / 3)


def test_names_that_are_numbers_number_classes_without_names():
  """Some classes of a set, in any order, and a model that knows only how many there are."""
  whole = array_source(np.arange(4, dtype=np.uint8).reshape(-1, 1, 1, 1), [0, 1, 2, 3])
  found = agree(classes.only(whole, (3, 1)), Classes(4, ()))
  assert found.read(np.arange(2))[1].tolist() == found.read_labels().tolist() == [1, 3]
  assert found.num_classes == 4 and not found.class_names
  with pytest.raises(ValueError, match=r"num_classes 2 there and 3 here, there \['cat', 'dog'\]"):
    agree(_set(2, ("cat", "dog")), Classes(3, ()))


NO_CLASSES = {
  "unknown": (_set(3, PETS), ("cat", "dgo"), r"'dgo' is no class of set: .*'dog', 'ship'\]"),
  "number": (_set(3, PETS), (0, 3), r"3 is no class of set: expected some of \['cat'"),
  "nameless": (_set(3), ("cat", "dog"), r"'cat' is no class .*'2'\], given by number"),
  "twice": (_set(3, PETS), ("cat", 0), r"classes=\('cat', 0\): expected two or more"),
  "one": (_set(3, PETS), ("cat",), "expected two or more of the classes of set"),
  "truth": (_set(3, PETS), (True, 0), "True is no class"),
  "probabilities": (
    with_columns(_set(3, PETS), {"probabilities": PROBS}), ("cat", "dog"), "say nothing of some"
  ),
}  # fmt: skip


@pytest.mark.parametrize("source, wanted, message", NO_CLASSES.values(), ids=NO_CLASSES)
def test_what_are_no_classes_is_refused(source, wanted, message):
  with pytest.raises(ValueError, match=message):
    classes.only(source, wanted)


SPLITS = {
  "another case": ({"cat": 2, "dog": 2}, {"Dog": 1, "cat": 1}),
  "a class without test images": ({"cat": 1, "dog": 2, "ship": 1}, {"ship": 1, "cat": 2}),
  "an empty class": ({"cat": 1, "dog": 0, "ship": 1}, {"cat": 1, "dog": 0, "ship": 2}),
  "numbers": ({str(n): 1 for n in range(1, 11)}, {str(n): 1 for n in (10, 2, 1)}),
  "zeros": ({f"{n:02d}": 1 for n in range(1, 11)}, {str(n): 1 for n in range(1, 11)}),
  "numbers and a word": ({"1": 1, "10": 1, "2": 1, "none": 1}, {"none": 1, "10": 1}),
}


@pytest.mark.parametrize("kind", SPLITS)
def test_both_splits_of_a_folder_have_the_same_labels(tmp_path, kind):
  train, test = SPLITS[kind]
  train = convert.open_source(class_folders(tmp_path / "train", train))
  test = convert.open_source(class_folders(tmp_path / "test", test))
  by_folder = {classes.same_classes(train.class_names, [n])[0]: v
               for n, v in values_by_class(test).items()}  # fmt: skip
  matched = agree(test, classes.classes_of(train))
  assert matched.class_names == train.class_names
  images, labels = matched.read(np.arange(matched.num_examples))
  for label in np.unique(labels):
    assert sorted(images[labels == label][:, 0, 0, 0].tolist()) == by_folder[label]


def test_numbers_are_sorted_by_value_and_waste_no_class(tmp_path):
  source = convert.open_source(class_folders(tmp_path, {str(n): 1 for n in range(1, 11)}))
  assert source.num_classes == 10
  assert source.class_names == tuple(map(str, range(1, 11)))
  # With num_classes they are labels: 7 is class 7 also where 3 is missing.
  assert files.png_folder_source(tmp_path, num_classes=11).read(np.arange(10))[1].tolist() == [
    *range(1, 11)
  ]


def test_names_order_as_before(tmp_path):
  """Runs of earlier versions numbered folders that are no numbers by their sorted names."""
  names = ["Zebra", "ant", "b10", "b2", "été"]
  source = convert.open_source(class_folders(tmp_path, dict.fromkeys(names, 1)))
  assert source.class_names == tuple(sorted(names))


@pytest.mark.parametrize(
  ("counts", "message"),
  [
    ({"1": 1, "01": 1}, r"the folders '01' and '1', which are one number"),
    ({"000000": 1, "001000": 1, "002000": 1}, r"000000, 001000, 002000, which look like seeds"),
    ({"00": 1, "05": 1}, "look like seeds"),
  ],
)
def test_folders_that_are_no_classes_are_refused(tmp_path, counts, message):
  with pytest.raises(DataFileError, match=message):
    convert.open_source(class_folders(tmp_path, counts))


def test_padded_numbers_may_be_classes(tmp_path):
  """As in GTSRB, whose folders are 00000 to 00042."""
  source = convert.open_source(class_folders(tmp_path, {f"{n:05d}": 1 for n in range(12)}))
  assert source.num_classes == 12 and source.class_names[10] == "00010"


def test_shards_keep_the_names(tmp_path):
  folder = class_folders(tmp_path / "set", {"cat": 3, "dog": 2})
  made = convert.make_shards(folder, tmp_path / "shards", num_shards=2)
  assert made.class_names == made.manifest.class_names == ("cat", "dog")
  assert values_by_class(made) == {"cat": [0, 1, 2], "dog": [3, 4]}
  assert convert.split_class_names(tmp_path, "shards") == ("cat", "dog")
  assert convert.split_class_names(tmp_path, "set") == ("cat", "dog")
  again = convert.make_shards(folder, tmp_path / "shards", num_shards=2)  # left as they are
  assert again.manifest == made.manifest
  # Their labels are mapped by both ways of reading.
  mapped = agree(made, Classes(3, ("dog", "bird", "cat")))
  np.testing.assert_array_equal(mapped.read_shard(0, np.arange(2))[1], mapped.read(np.arange(2))[1])
  assert values_by_class(mapped) == values_by_class(made)


def test_manifests_with_bad_names_are_refused(tmp_path):
  made = convert.make_shards(class_folders(tmp_path / "set", {"cat": 2, "dog": 2}), tmp_path / "s")
  path = tmp_path / "s" / "manifest.json"
  text = re.sub('^  "[a-z0-9_]*sha256": ".*",\n', "", path.read_text(), count=1, flags=re.MULTILINE)
  for names in ('["cat"]', '["cat", "cat"]', '["cat", 3]', "3", '["a", "b", "c"]'):
    path.write_text(text.replace('[\n    "cat",\n    "dog"\n  ]', names))
    assert path.read_text() != text
    with pytest.raises(DataFileError, match="class_names|contradicts"):
      convert.open_source(tmp_path / "s")
  # Shards of an earlier version have none; remaking them finds the same.
  path.write_text(text.replace(',\n  "class_names": [\n    "cat",\n    "dog"\n  ]', ""))
  assert convert.open_source(tmp_path / "s").class_names == ()
  remade = convert.make_shards(tmp_path / "set", tmp_path / "s")
  assert remade.counts == made.counts


def test_an_npz_may_name_its_classes(tmp_path):
  arrays = {"image": np.zeros((2, 4, 4, 3), np.uint8), "label": np.arange(2)}
  np.savez(tmp_path / "set.npz", class_names=np.array(["cat", "dog"]), **arrays)
  assert convert.open_source(tmp_path / "set.npz").class_names == ("cat", "dog")
  np.savez(tmp_path / "set.npz", class_names=np.array(["cat"]), **arrays)
  with pytest.raises(DataFileError, match=r"class_names are <U3 \[1\], expected text \[2\]"):
    convert.open_source(tmp_path / "set.npz")
