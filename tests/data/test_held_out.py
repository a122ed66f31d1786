"""Held-out images, and the N of an evaluation, are drawn by class from sets that are sorted."""

import numpy as np
import pytest
from image_sets import class_folders

from jax_robust.data import convert, draws, sources
from jax_robust.errors import RobustnessWarning

pytestmark = pytest.mark.fast

SIZES = (40, 7, 100, 1, 23)
SORTED = np.repeat(np.arange(5), SIZES)


def _sorted_set(labels=SORTED, **options):
  images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
  return sources.array_source(images, labels, name="sorted", **options)


@pytest.mark.parametrize("labels", [SORTED, np.random.default_rng(0).permutation(SORTED)])
def test_every_beginning_is_stratified(labels):
  order = draws.order(labels)
  assert sorted(order.tolist()) == list(range(len(labels)))
  counts = np.cumsum(np.eye(5, dtype=int)[labels[order]], 0)
  shares = np.arange(1, len(labels) + 1)[:, None] / len(labels) * np.array(SIZES)
  assert np.abs(counts - shares).max() <= 1


def test_same_everywhere():
  assert draws.order(SORTED)[:8].tolist() == draws.order(SORTED.astype(np.int8))[:8].tolist()
  assert draws.order(SORTED).tolist() != draws.order(SORTED, seed=1).tolist()
  assert draws.order(np.repeat([0, 1], 4)).tolist() == EIGHT  # on any machine


EIGHT = [3, 6, 7, 2, 4, 1, 0, 5]


def test_held_out_images_are_of_all_classes():
  source = _sorted_set(np.repeat(np.arange(10), 4))
  train, heldout = draws.hold_out(source, 10)
  assert sorted(heldout.read(np.arange(10))[1].tolist()) == list(range(10))
  labels = train.read(np.arange(30))[1]
  assert np.bincount(labels).tolist() == [3] * 10
  assert sorted([*train.rows, *heldout.rows]) == list(range(40))
  # What is trained on stays in its order, whose permutation the pipelines draw.
  assert train.rows.tolist() == sorted(train.rows)
  for part in (train, heldout):
    np.testing.assert_array_equal(
      sources.labels_of(part), part.read(np.arange(part.num_examples))[1]
    )


def test_an_evaluation_of_few_images_sees_all_classes():
  source = _sorted_set(np.repeat(np.arange(10), 4))
  few, more = draws.take(source, 10), draws.take(source, 20)
  assert sorted(few.read(np.arange(10))[1].tolist()) == list(range(10))
  assert more.rows[:10].tolist() == few.rows.tolist()  # more of them begin with the fewer
  assert draws.take(source, 0) is source and draws.take(source, 40) is source
  with pytest.warns(RobustnessWarning, match="its first 3 samples are of 1 of its 10 classes"):
    first = draws.take(source, 3, draw="first")
  assert first.read(np.arange(3))[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
  ("num", "message"),
  [
    (0, "expected 1 to 170"),
    (171, "expected 1 to 170"),
    (170, "no image of class zero, one, t.* is left to train on"),
  ],
)
def test_draws_that_leave_nothing_are_refused(num, message):
  names = ("zero", "one", "two", "three", "four")
  with pytest.raises(ValueError, match=message):
    draws.hold_out(_sorted_set(class_names=names), num)


def test_sets_with_a_name_keep_the_first():
  for name in ("cifar10", "mnist", "digits", "made"):
    assert draws.rule_of("auto", name) == "first"
  assert draws.rule_of("auto", "/data/pets") == "class" == draws.rule_of("class", "cifar10")
  assert draws.rule_of("first", "/data/pets") == "first"
  with pytest.raises(ValueError, match="draw='clas': did you mean 'class'"):
    draws.rule_of("clas", "cifar10")
  with pytest.warns(RobustnessWarning, match="sorted comes sorted by class"):
    train, heldout = draws.hold_out(_sorted_set(), 3, draw="first")
  assert heldout.read(np.arange(3))[0].ravel().tolist() == [0, 1, 2] and train.num_examples == 168


@pytest.mark.parametrize("labels", [np.random.default_rng(0).permutation(SORTED), [0, 1] * 9, [0]])
def test_an_order_that_mixes_classes_is_not_warned_of(labels, recwarn):
  sources.warn_if_sorted(_sorted_set(np.asarray(labels)), 1)
  assert not [str(each.message) for each in recwarn]


def test_labels_are_drawn_by_without_decoding_images(tmp_path, monkeypatch):
  folder = class_folders(tmp_path / "set", {"cat": 6, "dog": 6})
  shards = convert.make_shards(folder, tmp_path / "shards")
  np.savez(tmp_path / "set.npz", image=np.zeros((4, 2, 2, 3), np.uint8), label=np.arange(4) % 2)
  for source in (convert.open_source(folder), shards, convert.open_source(tmp_path / "set.npz")):
    expected = source.read(np.arange(source.num_examples))[1]
    labels = sources.labels_of(source)
    assert source.read_labels is not None and labels.dtype == np.int32
    np.testing.assert_array_equal(labels, expected)
    part = sources.subset(source, 1, 3)
    np.testing.assert_array_equal(sources.labels_of(part), expected[1:3])


@pytest.mark.parametrize(
  ("run", "message"),
  [
    (lambda source: draws.take(source, -5), "num_examples=-5: expected a whole number, at least 0"),
    (lambda source: draws.take(source, 2.5), "num_examples=2.5: expected a whole number"),
    (lambda source: draws.take(source, None), "num_examples=None: expected a whole number"),
    (lambda source: draws.take(source, -5, draw="first"), "num_examples=-5"),
    (lambda source: draws.take(source, 0, draw="clas"), "draw='clas': did you mean 'class'"),
    (lambda source: draws.hold_out(source, 2.5), "num_heldout=2.5: expected a whole number"),
    (lambda source: draws.hold_out(source, None), "num_heldout=None: expected a whole number"),
    (lambda source: draws.hold_out(source, True), "num_heldout=True: expected a whole number"),
    (lambda source: draws.hold_out(source, -1, draw="first"), "num_heldout=-1"),
    (lambda source: draws.hold_out("pets", 3), r"source is a str: .*convert\.open_source\(path\)"),
    (
      lambda source: draws.hold_out((1, 2), 3),
      r"source is a tuple: .*array_source\(images",
    ),
    (lambda source: draws.take(None, 3), "source is a NoneType: expected a Source"),
    (lambda source: draws.take(STREAM, 3), r"source is a Stream: .*make_shards\(stream, folder\)"),
    (lambda source: draws.order(SORTED * 1.0), r"dtype float64: expected integers \[n\]"),
    (lambda source: draws.order(np.eye(5)[SORTED]), r"of one-hot labels, numpy\.argmax"),
    (lambda source: draws.order([]), r"labels have shape \(0,\)"),
    (lambda source: draws.order(None), r"labels have shape \(\)"),
    (lambda source: draws.order(SORTED, seed=None), "seed=None: expected a whole number"),
    (lambda source: draws.order(SORTED, seed=-1), "seed=-1: expected a whole number, at least 0"),
  ],
)
def test_what_is_no_draw_is_refused(run, message):
  with pytest.raises((TypeError, ValueError), match=message):
    run(_sorted_set())


STREAM = sources.Stream("stream", 1, (1, 1, 1), 1, lambda: iter(()))
