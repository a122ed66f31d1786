"""Labels by a classifier: what they are, what is selected, how a job goes on, what is refused."""

import csv
import dataclasses
import json

import jax
import numpy as np
import pytest
from one_device import one_device
from PIL import Image

from jax_robust import config as config_lib
from jax_robust import jobs
from jax_robust.data import shards, sources
from jax_robust.errors import ConfigError, DataFileError, UserError
from jax_robust.jobs import labelled, labelling
from jax_robust.runs import build, nets

CHUNK = 24


@pytest.fixture(scope="module")
def images():
  """Images of the size that the run was trained on, of which some are there twice."""
  found = np.random.default_rng(5).integers(0, 256, (70, 12, 12, 3), np.uint8)
  found[60:63] = found[:3]
  found[63:65] = np.clip(found[3:5].astype(int) + 1, 0, 255)
  return found


@pytest.fixture(scope="module")
def given():
  return np.random.default_rng(6).integers(0, 10, 70).astype(np.int32)


@pytest.fixture(scope="module")
def source(images, given, tmp_path_factory):
  """The set as an npz."""
  path = tmp_path_factory.mktemp("set") / "set.npz"
  np.savez(path, image=images, label=given)
  return str(path)


@pytest.fixture(scope="module")
def expected(trained, images):
  """Labels, probabilities and features of the run's net, by a way of its own."""
  config = config_lib.load(trained / "config.json")
  subject = nets.open_model(config, trained)
  logits_fn = nets.make_logits_fn(config, subject.net, *subject.variables, precision="highest")
  return np.asarray(jax.nn.softmax(jax.jit(logits_fn)(images / np.float32(255))))


@pytest.fixture(scope="module")
def label(trained, tiny, source):
  """`label(folder, **options)`: the job's result."""

  def label(folder, *, job="generate", **options):
    block = {"method": "label", "path": source, "classifier": str(trained), "chunk_size": CHUNK,
             "num_shards": 2, **options}  # fmt: skip
    config = tiny(job=job, generate=block)
    with one_device():
      return jobs.run(config, folder)

  return label


@pytest.fixture(scope="module")
def whole(label, tmp_path_factory):
  """The workdir of all images, nothing selected."""
  folder = tmp_path_factory.mktemp("whole")
  assert label(folder)["num_examples"] == 70
  return folder


def contents(folder):
  """Images and labels in the order of the shards, what is known of each, and the result."""
  source = shards.open_shards(folder / "generated")
  with np.load(folder / "origins.npz") as file:
    known = dict(file)
  result = json.loads((folder / "results" / "labels.json").read_text())
  return *source.read(np.arange(source.num_examples)), known, result


def files_of(folder):
  return {path.name: path.read_bytes() for path in (folder / "generated").iterdir()}


def test_labels_are_the_classifiers_and_origins_say_what_they_were(whole, images, given, expected):
  found, labels, known, result = contents(whole)
  rows = known["index"]
  assert sorted(rows) == list(range(70))
  np.testing.assert_array_equal(found, images[rows])
  np.testing.assert_array_equal(labels, expected.argmax(1)[rows])
  np.testing.assert_array_equal(known["label"], labels)
  np.testing.assert_array_equal(known["given_label"], given[rows])
  np.testing.assert_allclose(known["confidence"], expected.max(1)[rows], rtol=1e-5)
  agreement = np.mean(expected.argmax(1) == given)
  assert result["agreement"] == pytest.approx(agreement) and result["num_given"] == 70
  confusion = np.array(result["confusion"])
  assert np.trace(confusion) / 70 == pytest.approx(agreement)
  np.testing.assert_array_equal(confusion.sum(1), np.bincount(given, minlength=10))
  np.testing.assert_array_equal(confusion.sum(0), result["label_counts"])
  assert {path.name for path in (whole / "results").iterdir()} == {
    "labels.json", "labels.png", "confidences.png",
  }  # fmt: skip
  assert "labelled by a mlp" in shards.open_shards(whole / "generated").manifest.generator


def test_a_job_that_was_stopped_goes_on_and_shares_merge(label, whole, tmp_path, stop_after):
  written = stop_after(1)
  with pytest.raises(KeyboardInterrupt):
    label(tmp_path / "run")
  label(tmp_path / "run")
  assert len(written) == 3 and files_of(tmp_path / "run") == files_of(whole)
  assert not any("image" in piece for piece in written[:1])
  for number in range(2):
    assert label(tmp_path / str(number), shard=f"{number}/2") == {"complete": False}
  label(tmp_path / "merged", job="merge", pieces=(str(tmp_path / "[01]"),))
  assert files_of(tmp_path / "merged") == files_of(whole)


@pytest.mark.parametrize(("kind", "num_out"), [("exact", 3), ("near", 5)])
def test_duplicates_are_left_out_and_named(label, tmp_path, kind, num_out):
  label(tmp_path, without_duplicates=kind, against=())
  _, _, known, result = contents(tmp_path)
  assert sorted(known["index"]) == [*range(60), *range(60 + num_out, 70)]
  assert result["filters"] == [{
    "filter": "without_duplicates", "before": 70, "removed": num_out,
    "duplicates": {"set": num_out},
  }]  # fmt: skip
  assert result["kept"]["num_examples"] == 70 - num_out
  with open(tmp_path / "results" / "duplicates.csv") as stream:
    rows = [(int(row["image"]), int(row["row"])) for row in csv.DictReader(stream)]
  assert rows == [(60, 0), (61, 1), (62, 2), (63, 3), (64, 4)][:num_out]
  assert (tmp_path / "results" / "duplicates_set.png").exists()


def test_duplicates_of_the_data_set_are_left_out(label, tiny, tmp_path):
  """Of a set of training images, all are; of test images none of train."""
  made = {split: build.load_split(tiny(), split) for split in ("train", "test")}
  images = np.concatenate(
    [made["test"].read(np.arange(4))[0], made["train"].read(np.array([5, 9]))[0]]
  )
  own = np.random.default_rng(77).integers(0, 256, (6, 12, 12, 3), np.uint8)
  np.savez(tmp_path / "set.npz", image=np.concatenate([own, images]), label=np.zeros(12, int))
  path = str(tmp_path / "set.npz")
  label(tmp_path / "run", path=path, without_duplicates="exact")
  _, _, known, result = contents(tmp_path / "run")
  assert sorted(known["index"]) == list(range(6))
  assert result["filters"][0]["duplicates"] == {"set": 0, "train": 2, "test": 4}
  with pytest.raises(ConfigError, match="without_duplicates leaves none of 6"):
    np.savez(tmp_path / "set.npz", image=images, label=np.zeros(6, int))
    label(tmp_path / "none", path=path, without_duplicates="near")


def test_filters_apply_in_their_order(label, expected, tmp_path, capsys):
  label(
    tmp_path, without_duplicates="exact", against=(), top_share=0.6, clusters=3,
    cluster_share=0.75, cluster_rule="spread", balance=5, num_samples=9,
  )  # fmt: skip
  images, labels, _, result = contents(tmp_path)
  names = [each["filter"] for each in result["filters"]]
  assert names == ["without_duplicates", "top_share", "clusters", "balance", "num_samples"]
  left = [70, *(each["before"] - each["removed"] for each in result["filters"])]
  assert [each["before"] for each in result["filters"]] == left[:-1]
  assert len(images) == left[-1] == result["kept"]["num_examples"] == 9
  assert left[1] == 67 and left[3] == round(0.75 * left[2])
  counts = np.bincount(expected[[*range(60), *range(63, 70)]].argmax(1))  # without the copies
  assert left[2] == sum(np.ceil(0.6 * counts))
  assert sum(result["filters"][2]["sizes"]) == left[3]
  assert set(result["short"]) <= set(map(str, range(10)))
  assert np.bincount(labels).max() <= 5
  assert "top_share: " in capsys.readouterr().err


def test_a_folder_of_images_without_labels(label, images, expected, tmp_path):
  for number in (0, 1, 2):
    (tmp_path / "set" / str(number % 2)).mkdir(parents=True, exist_ok=True)
    Image.fromarray(images[number]).save(tmp_path / "set" / str(number % 2) / f"{number}.png")
  path = str(tmp_path / "set")
  label(tmp_path / "run", path=path, given_labels=False)
  _, labels, known, result = contents(tmp_path / "run")
  np.testing.assert_array_equal(labels, expected.argmax(1)[[0, 2, 1]][known["index"]])
  assert {*known["given_label"]} == {-1} and "agreement" not in result
  Image.fromarray(images[0]).save(tmp_path / "set" / "stray.png")
  with pytest.raises(DataFileError, match="given_labels=False leaves its labels out of account"):
    label(tmp_path / "other", path=path)


def test_shards_are_labelled_and_keep_their_origin(label, whole, expected, tmp_path):
  path = str(whole / "generated")
  label(tmp_path, path=path, top_share=0.5)
  _, labels, known, _ = contents(tmp_path)
  before = np.load(whole / "origins.npz")["index"]
  np.testing.assert_array_equal(labels, expected.argmax(1)[before[known["index"]]])
  written = shards.open_shards(tmp_path / "generated").manifest
  assert written.generator == "set.npz, labelled by a mlp, labelled by a mlp"


def test_a_set_that_changed_meanwhile_is_refused(label, images, given, tmp_path, monkeypatch):
  path = tmp_path / "set.npz"
  np.savez(path, image=images, label=given)
  real = labelled.find_duplicates

  def change(*args):
    np.savez(path, image=images[::-1], label=given)
    return real(*args)

  monkeypatch.setattr(labelled, "find_duplicates", change)
  with pytest.raises(DataFileError, match="is not the one that was labelled. The set was changed"):
    label(tmp_path / "run", path=str(path))
  assert not (tmp_path / "run" / "generated").exists()


REFUSED = {
  "share": ({"top_share": 1.5}, "top_share=1.5: expected a share"),
  "nothing": ({"top_share": 0.0}, "top_share=0.0: expected a finite number above 0"),
  "one cluster": ({"clusters": 1}, "clusters=1: expected a whole number, at least 2"),
  "rule": ({"cluster_rule": "borders"}, "cluster_rule='borders': expected one of"),
  "duplicates": ({"without_duplicates": "nearly"}, "did you mean 'near'"),
  "distance": ({"duplicate_distance": 0.0}, "duplicate_distance=0"),
  "split": ({"against": ("tests",)}, "against='tests': did you mean 'test'"),
  "balance": ({"balance": -1}, "balance=-1"),
  "samples": ({"num_samples": 0}, "num_samples=0"),
  "chunk": ({"chunk_size": 0}, "chunk_size=0"),
  "path": ({"path": ""}, "generate.path is empty: .* to label"),
  "no set": ({"path": "nowhere.npz"}, "there is no such file"),
  "classifier": ({"classifier": ""}, "generate.classifier is empty"),
  "no run": ({"classifier": "nowhere"}, "nowhere"),
  "option": ({"top_shar": 0.5}, "unknown key 'generate.top_shar': did you mean 'top_share'"),
  "head": ({"clusters": 3, "head": "logit"}, "head='logit' is none of its layers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused(label, tmp_path, name):
  options, message = REFUSED[name]
  with pytest.raises(UserError, match=message):
    label(tmp_path / "run", **options)


@pytest.mark.parametrize(
  ("shape", "top", "options", "message"),
  [
    ((8, 8, 3), 9, {}, r"image_shape \(12, 12, 3\), .* has \(8, 8, 3\)"),
    ((12, 12, 3), 11, {}, "other classes than the classifier tells apart.*given_labels=False"),
  ],
)
def test_a_set_of_other_images_or_classes_is_refused(label, tmp_path, shape, top, options, message):
  labels = np.array([0, top])
  np.savez(tmp_path / "set.npz", image=np.zeros((2, *shape), np.uint8), label=labels)
  with pytest.raises(ConfigError, match=message):
    label(tmp_path / "run", path=str(tmp_path / "set.npz"), **options)


def test_labels_of_other_classes_can_be_left_out_of_account(label, images, tmp_path):
  np.savez(tmp_path / "set.npz", image=images[:4], label=np.array([0, 11, 3, 40]))
  assert label(tmp_path / "run", path=str(tmp_path / "set.npz"), given_labels=False)


def test_a_data_set_of_other_images_has_no_duplicates(tiny, trained, source, tmp_path):
  block = {"method": "label", "path": source, "classifier": str(trained),
           "without_duplicates": "near"}  # fmt: skip
  config = tiny(job="generate", generate=block, data__name="digits")
  with pytest.raises(ConfigError, match=r"against='train': digits train has image_shape \(8, 8, 1"):
    jobs.run(config, tmp_path / "run")


def test_images_without_finite_logits_are_named(label, tmp_path, monkeypatch):
  real = labelling.constructed.Subject.run

  def lose(subject, program, ids, **rows):
    found = real(subject, program, ids, **rows)
    return {**found, "is_finite": np.asarray(ids) != 30}

  monkeypatch.setattr(labelling.constructed.Subject, "run", lose)
  with pytest.raises(UserError, match="NaN or infinite for images 30"):
    label(tmp_path / "run")


def test_streaming_holds_some_images_at_once(images, monkeypatch, tmp_path):
  """However large the set, what is written goes through in parts of a fixed size."""
  monkeypatch.setattr(labelled, "_READ_AT_ONCE", 16)
  read = []
  whole = sources.array_source(images, np.zeros(70, int))
  counted = dataclasses.replace(whole, read=lambda ids: read.append(len(ids)) or whole.read(ids))
  digests = labelled.duplicates.pixel_digests(images)
  known = {"digest": digests, "label": np.zeros(70, np.int32)}
  parts = list(labelled._samples(counted, known, np.arange(5, 70)))
  assert read == [16, 16, 16, 16, 1] and sum(len(part[1]) for part in parts) == 65
