"""Sources in RAM: what is read, what is refused, views, and the digits."""

import concurrent.futures
import pickle

import numpy as np
import pytest
from sklearn import datasets

from jax_robust.data import classes, convert, draws, sources
from jax_robust.data.sources import array_source
from jax_robust.errors import DataFileError

pytestmark = pytest.mark.fast


@pytest.fixture
def source():
  images = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 5, 3), np.uint8)
  return array_source(images, np.arange(20) % 3, num_classes=4, name="made")


def test_array_source_reads_what_is_asked_for(source):
  images, labels = source.read(np.array([7, 0, 7, 19]))
  assert (source.num_examples, source.image_shape, source.num_classes) == (20, (4, 5, 3), 4)
  assert images.shape == (4, 4, 5, 3) and images.dtype == np.uint8 and labels.dtype == np.int32
  assert images[:, 0, 0, 0].tolist() == [7, 0, 7, 19]
  assert labels.tolist() == [1, 0, 1, 1]
  assert len(source.read(np.array([], np.int64))[1]) == 0


def test_reads_are_copies(source):
  source.read(np.array([3]))[0][...] = 99
  assert source.read(np.array([3]))[0].max() == 3


def test_batches_are_all_samples_in_order(source):
  batches = list(source.batches(8))
  assert [len(labels) for _, labels in batches] == [8, 8, 4]
  assert np.concatenate([images[:, 0, 0, 0] for images, _ in batches]).tolist() == list(range(20))


@pytest.mark.parametrize("indices", [[20], [-1], [0.0], [[0]]])
def test_indices_in_range(source, indices):
  view = sources.subset(source, 2, 20)
  for each in (source, view):
    with pytest.raises(IndexError, match="made"):
      each.read(np.array(indices))
  with pytest.raises(IndexError, match=r"index 18 is outside \[0, 18\)"):
    view.read(np.array([18]))


def test_thread_safe(source):
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    batches = [np.random.default_rng(i).integers(0, 20, 32) for i in range(64)]
    for indices, (images, _) in zip(batches, pool.map(source.read, batches), strict=True):
      np.testing.assert_array_equal(images[:, 0, 0, 0], indices)


_OK = np.zeros((3, 2, 2, 1), np.uint8)


@pytest.mark.parametrize(
  ("images", "labels", "num_classes", "message"),
  [
    (_OK.astype(np.float32), [0, 1, 2], 3, "dtype is float32, expected uint8"),
    (_OK[..., 0], [0, 1, 2], 3, r"shape is \[3, 2, 2\], expected \[n, height"),
    (_OK.repeat(2, 3), [0, 1, 2], 3, "1 or 3"),
    (_OK[:0], [], 3, "empty"),
    (_OK, [0, 1], 3, "3 images but 2 labels"),
    (_OK, [0.0, 1.0, 2.0], 3, "labels' dtype is float64"),
    (_OK, [[0], [1], [2]], 3, r"labels' shape is \[3, 1\], expected \[n\]: labels.reshape\(-1\)"),
    (_OK, [[1, 0], [0, 1], [0, 1]], 3, r"of one-hot, numpy\.argmax\(labels, 1\)"),
    (_OK, [0, 1, 2], 2.5, "num_classes=2.5: expected a whole number"),
    (_OK, [0, 1, 2], "3", "num_classes='3': expected a whole number"),
    (_OK, [0, 1, 3], 3, "label of sample 2 is 3"),
    (_OK, [0, -1, 2], 3, "label of sample 1 is -1"),
  ],
)
def test_bad_arrays_are_refused(images, labels, num_classes, message):
  with pytest.raises(ValueError, match=message):
    array_source(images, np.array(labels), num_classes=num_classes)


def test_num_classes_defaults_to_the_labels():
  assert array_source(_OK, np.array([0, 5, 1])).num_classes == 6


@pytest.mark.parametrize("draw", ["first", "class"])
def test_held_out_and_the_rest_are_disjoint_and_complete(source, draw):
  train, heldout = draws.hold_out(source, 6, draw=draw)
  read = {view: view.read(np.arange(view.num_examples))[0][:, 0, 0, 0] for view in (train, heldout)}
  assert sorted([*read[train], *read[heldout]]) == list(range(20))
  assert draw == "class" or read[heldout].tolist() == list(range(6))
  assert read[train].tolist() == sorted(read[train].tolist())
  assert train.num_classes == 4 and heldout.image_shape == (4, 5, 3)
  for num in (0, 20):
    with pytest.raises(ValueError, match=f"num_heldout={num}"):
      draws.hold_out(source, num, draw=draw)


def test_views_of_views(source):
  train, _ = draws.hold_out(source, 5, draw="first")
  assert sources.subset(train, 2, 4).read(np.array([0, 1]))[0][:, 0, 0, 0].tolist() == [7, 8]
  with pytest.raises(ValueError, match="start=2, stop=16"):
    sources.subset(train, 2, 16)


def test_digits_split():
  train, test = sources.digits("train"), sources.digits("test")
  assert (train.num_examples, test.num_examples, train.num_classes) == (1437, 360, 10)
  images, labels = train.read(np.arange(1437))
  test_images, test_labels = test.read(np.arange(360))
  assert images.max() == 255 and images.min() == 0 and images.shape == (1437, 8, 8, 1)
  # Together they are scikit-learn's set, each digit once.
  everything = np.round(datasets.load_digits().images * (255 / 16)).astype(np.uint8)
  assert sorted(i.tobytes() for i in (*images, *test_images)) == sorted(
    map(np.ndarray.tobytes, everything)
  )
  assert np.bincount(test_labels).min() > 20
  # The split is the same on every machine.
  assert labels[:8].tolist() == [6, 7, 4, 4, 2, 4, 4, 9]
  with pytest.raises(ValueError, match="split='valid'"):
    sources.digits("valid")


def test_error_names_file_reason_remedy_and_survives_pickling():
  error = pickle.loads(pickle.dumps(DataFileError("a/b.npz", "is empty", "Fetch it again.")))
  assert str(error) == "a/b.npz: is empty. Fetch it again."
  assert isinstance(error, ValueError) and error.remedy == "Fetch it again."


@pytest.mark.parametrize("names", ["abc", ["a", "b", None], [1, 2, 3], None, {"a": 1}, b"abc"])
def test_names_are_a_list_of_texts(names):
  with pytest.raises(ValueError, match="made: class_names=.*: expected a list of texts"):
    array_source(_OK, np.arange(3), name="made", class_names=names)
  assert array_source(_OK, np.arange(3), class_names=np.array(["a", "b", "c"])).class_names == (
    "a", "b", "c",
  )  # fmt: skip


@pytest.mark.parametrize(
  ("run", "message"),
  [
    (lambda source: sources.subset(source, 0.0, 3), "start=0.0: expected a whole number"),
    (lambda source: sources.subset(source, 0, 2.5), "stop=2.5: expected a whole number"),
    (lambda source: sources.subset(source, None, 3), "start=None"),
    (lambda source: list(source.batches(-1)), "batch_size=-1: expected a whole number, at least 1"),
    (lambda source: list(source.batches(None)), "batch_size=None"),
    (lambda source: sources.labels_of((1, 2)), "source is a tuple: expected a Source"),
    (lambda source: sources.select([], np.array([0]), "v"), "source is a list"),
    (lambda source: convert.open_source(""), "path='': expected the path of a file or folder"),
    (lambda source: convert.open_source(None), "path=None: expected the path"),
    (lambda source: convert.open_source(b"/tmp"), "path=b'/tmp'"),
    (lambda source: convert.open_source("x", num_classes=2.5), "num_classes=2.5: expected a whole"),
    (lambda source: convert.open_split(None, "train"), "folder=None: expected the path"),
    (lambda source: convert.open_split("x", None), "split=None"),
    (
      lambda source: convert.make_shards((1, 2), "x"),
      r"path=\(1, 2\): .*array_source",
    ),
    (lambda source: convert.make_shards(source, None), "folder=None: expected the path"),
    (lambda source: convert.make_shards(source, "x", num_shards=2.5), "num_shards=2.5: expected"),
    (lambda source: convert.make_shards(source, "x", num_shards="2"), "num_shards='2': expected"),
    (lambda source: convert.make_shards(source, "x", licence=None), "licence=None: expected text"),
    (
      lambda source: classes.same_classes([1, 2], ["1"]),
      "ours=.*: expected a list of names",
    ),
    (lambda source: classes.same_classes(["1"], None), "theirs=None: expected a list"),
    (lambda source: classes.agree(source, (3, ("a",))), r"wanted=.*expected Classes\(num, names\)"),
    (lambda source: classes.agree(source, classes.Classes(5, ("a",))), "a name for each of them"),
    (lambda source: classes.agree("x", classes.Classes(1, ())), "source is a str"),
  ],
)
def test_what_is_no_source_path_or_number_is_refused(source, run, message):
  with pytest.raises((TypeError, ValueError), match=message):
    run(source)
