"""Named columns: of views, of classes in another order, in shards."""

import dataclasses
import json

import numpy as np
import pytest
from shard_samples import LABELS, META, NUM, SOURCE, flip, numbers

from jax_robust import errors
from jax_robust.data import classes, draws, manifest, sources
from jax_robust.data.columns import PROBABILITIES, with_columns
from jax_robust.data.shard_writer import write_shards
from jax_robust.data.shards import open_shards

pytestmark = pytest.mark.fast

PROBS = np.random.default_rng(2).dirichlet(np.ones(5), NUM).astype(np.float32)
CONFIDENCE = np.arange(NUM) / NUM
KNOWN = with_columns(SOURCE, {"confidence": CONFIDENCE, PROBABILITIES: PROBS})


def assert_beside_their_images(source):
  """Every entry is that of the image that it stands beside."""
  ids = np.arange(source.num_examples)
  which = numbers(source.read(ids)[0])
  np.testing.assert_array_equal(source.columns["confidence"](ids), CONFIDENCE[which])
  np.testing.assert_array_equal(source.columns[PROBABILITIES](ids[::-1]), PROBS[which][::-1])


def test_views_show_the_columns_of_their_samples():
  train, heldout = draws.hold_out(KNOWN, 40)
  for source in (KNOWN, train, heldout, sources.subset(train, 3, 20)):
    assert_beside_their_images(source)


def test_probabilities_follow_their_classes():
  named = dataclasses.replace(KNOWN, class_names=("a", "b", "c", "d", "e"))
  wanted = classes.Classes(6, ("e", "x", "d", "c", "b", "a"))
  found = classes.agree(named, wanted).columns[PROBABILITIES](np.arange(NUM))
  np.testing.assert_array_equal(found[:, [5, 4, 3, 2, 0]], PROBS)
  assert (found[:, 1] == 0).all()
  grown = classes.agree(KNOWN, classes.Classes(7, ())).columns[PROBABILITIES](np.arange(NUM))
  np.testing.assert_array_equal(grown, np.pad(PROBS, ((0, 0), (0, 2))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("columns") / "shards"
  write_shards(folder, KNOWN, num_shards=3, **META)
  return folder


def test_shards_keep_columns_beside_their_images(folder):
  shards = open_shards(folder, verify="sha256")
  assert_beside_their_images(shards)
  first = np.load(folder / "shard-00000-of-00003.probabilities.npy")
  assert first.dtype == np.float32 and first.shape == (shards.counts[0], 5)
  assert json.loads((folder / "manifest.json").read_text())["columns"][0]["name"] == "confidence"


def test_shards_without_columns_are_what_they_were(tmp_path):
  shards = write_shards(tmp_path / "plain", SOURCE, **META)
  assert "columns" not in json.loads((tmp_path / "plain" / "manifest.json").read_text())
  assert shards.columns == {} and manifest.load(tmp_path / "plain").columns == ()


def test_columns_of_samples_that_are_no_source(tmp_path):
  batches = [SOURCE.read(np.arange(NUM))]
  given = {"target": LABELS[::-1].astype(np.int64), PROBABILITIES: PROBS}
  shards = write_shards(
    tmp_path / "s", batches, num_examples=NUM, num_classes=5, columns=given, **META
  )
  which = numbers(shards.read(np.arange(NUM))[0])
  np.testing.assert_array_equal(shards.columns["target"](np.arange(NUM)), LABELS[::-1][which])
  with pytest.raises(errors.DataFileError, match="holds other samples"):
    write_shards(tmp_path / "s", batches, num_examples=NUM, num_classes=5, **META)


def test_a_damaged_column_is_found(folder, tmp_path):
  write_shards(tmp_path / "s", KNOWN, num_shards=3, **META)
  flip(tmp_path / "s" / "shard-00001-of-00003.confidence.npy", -1)
  with pytest.raises(errors.DataFileError, match=r"00003\.confidence\.npy: its sha256 is"):
    open_shards(tmp_path / "s")
  (tmp_path / "s" / "shard-00001-of-00003.confidence.npy").unlink()
  with pytest.raises(errors.DataFileError, match=r"00003\.confidence\.npy"):
    open_shards(tmp_path / "s", verify="none")


BAD = {
  "too few": ({"confidence": CONFIDENCE[:9]}, r"'confidence' is float64\[9\], expected numbers"),
  "texts": ({"confidence": ["a"] * NUM}, "'confidence' is <U1"),
  "no sum": ({PROBABILITIES: PROBS / 2}, "probabilities of images 0, 1.* add up to 1"),
  "nan": ({PROBABILITIES: PROBS * np.nan}, "are no probabilities"),
  "classes": ({PROBABILITIES: PROBS[:, :4]}, r"probabilities \[b, 5\]"),
}


@pytest.mark.parametrize("columns, message", BAD.values(), ids=BAD)
def test_bad_columns_are_refused(columns, message):
  with pytest.raises(ValueError, match=message):
    with_columns(SOURCE, columns)


@pytest.mark.parametrize("name", ["images", "../up", "Confidence", ""])
def test_names_that_make_no_file_are_refused(tmp_path, name):
  with pytest.raises(ValueError, match="expected a name of lower-case letters"):
    write_shards(tmp_path / "s", with_columns(SOURCE, {name: CONFIDENCE}), **META)
  assert not (tmp_path / "s").exists()


CHANGES = {
  "two of a name": (lambda columns: columns.append(columns[0]), "stands there twice"),
  "path": (lambda columns: columns[0].update(name="a/b"), "lower-case letters"),
  "objects": (lambda columns: columns[0].update(dtype="|O"), "expected numbers"),
  "checksums": (lambda columns: columns[0]["sha256"].pop(), "has 2 checksums"),
  "classes": (lambda columns: columns[1].update(shape=[4]), r"probabilities have entries \[4\]"),
  "no dtype": (lambda columns: columns[0].pop("dtype"), "dtype"),
}


@pytest.mark.parametrize("change, message", CHANGES.values(), ids=CHANGES)
def test_manifests_that_contradict_themselves_are_refused(folder, tmp_path, change, message):
  data = json.loads((folder / "manifest.json").read_text())
  change(data["columns"])
  (tmp_path / "manifest.json").write_text(json.dumps(data))
  with pytest.raises(errors.DataFileError, match=message):
    manifest.load(tmp_path)
