"""Constructed sets as shards: what they hold, of which images, and that a job goes on."""

import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from jax_robust import config as config_lib
from jax_robust import jobs
from jax_robust.data import convert, shards
from jax_robust.errors import ConfigError
from jax_robust.generate import constructed
from jax_robust.runs import exits, nets
from jax_robust.types import fold_ids

FEW = {
  "d_rand": {"eps": 0.5, "num_steps": 3},
  "d_det": {"eps": 0.5, "num_steps": 3},
  "d_bugs": {"eps": 0.5, "num_steps": 2, "step_size": 0.25},
  "d_robust": {"num_steps": 23, "step_size": 0.2, "identity_backward": True},
}


@pytest.fixture(scope="module")
def make(trained, tiny):
  """`make(method, folder, **options)`: the job's result."""

  def make(method, folder, **options):
    block = {"method": method, "net": str(trained), "chunk_size": 24, "num_shards": 3}
    block |= {"others": (str(trained),)} if method == "d_bugs" else {}
    block |= {**FEW.get(method, {}), **options}
    return jobs.run(tiny(job="generate", generate=block), folder)

  return make


@pytest.fixture(scope="module")
def finished(make, tmp_path_factory):
  """The workdir of each set."""
  root = tmp_path_factory.mktemp("sets")
  for name in FEW:
    assert make(name, root / name)["num_examples"] == 64
  return {name: root / name for name in FEW}


@pytest.fixture(scope="module")
def predict(trained, tiny):
  """The classes that the run's net gives to bytes, by a way of its own."""
  config = config_lib.load(trained / "config.json")
  subject = nets.open_model(config, trained)
  logits_fn = nets.make_logits_fn(config, subject.net, *subject.variables, precision="highest")
  return lambda images: np.asarray(jax.jit(logits_fn)(images / np.float32(255))).argmax(1)


def contents(folder):
  """Images and labels in the order of the shards, and what is known of each."""
  source = shards.open_shards(folder / "generated")
  with np.load(folder / "origins.npz") as file:
    return *source.read(np.arange(64)), dict(file)


def originals(tiny):
  return exits.training_images(tiny()).read(np.arange(64))


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["d_rand", "d_det", "d_bugs"])
def test_moved_images_and_where_they_are_from(name, finished, predict, tiny):
  images, labels, known = contents(finished[name])
  x, original = (each[known["index"]] for each in originals(tiny))
  assert sorted(known["index"].tolist()) == list(range(64))
  np.testing.assert_array_equal(known["label"], labels)
  np.testing.assert_array_equal(known["original_label"], original)
  np.testing.assert_array_equal(known["reached"], predict(images) == labels)
  keys = fold_ids(jax.random.key(0), known["index"])
  targets = constructed.random_targets(keys, 10) if name == "d_rand" else (original + 1) % 10
  np.testing.assert_array_equal(labels, targets)
  moved = np.linalg.norm((images / 255.0 - x / 255.0).reshape(64, -1), axis=1)
  np.testing.assert_allclose(known["distance"], moved, rtol=1e-4)
  assert np.median(moved) > 0.2 and np.all(moved < 0.5 + np.sqrt(432) / 510)


def test_inverted_images_have_features_of_another_image(finished, predict, tiny):
  images, labels, known = contents(finished["d_robust"])
  x, original = originals(tiny)
  np.testing.assert_array_equal(labels, original[known["index"]])
  np.testing.assert_array_equal(known["start_label"], original[known["start_index"]])
  starts = constructed.start_rows(fold_ids(jax.random.key(0), known["index"]), 64)
  np.testing.assert_array_equal(known["start_index"], starts)
  np.testing.assert_array_equal(known["reached"], predict(images) == labels)
  own = known["start_index"] == known["index"]
  assert np.median(known["feature_distance"][~own]) < 0.2 and own.sum() < 8
  assert np.abs(known["feature_distance"] - known["feature_distance_in_float"]).max() < 0.1
  to_start, to_x = (
    np.linalg.norm((images / 255.0 - x[known[index]] / 255.0).reshape(64, -1), axis=1)
    for index in ("start_index", "index")
  )
  assert np.all(to_start[~own] < to_x[~own])


def test_the_result_says_how_far_it_came(finished, trained):
  found = json.loads((finished["d_rand"] / "results" / "generate.json").read_text())
  _, labels, known = contents(finished["d_rand"])
  assert found["reached"] == known["reached"].mean() and found["num_examples"] == 64
  assert found["mislabelled"] == np.mean(labels != known["original_label"]) > 0.7
  assert found["options"] == {"eps": 0.5, "num_steps": 3, "step_size": 0.1, "chunk_size": 24}
  assert {"weights_sha256", "images_sha256", "reached_in_float", "distance"} <= found.keys()


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["d_rand", "d_robust"])
def test_a_job_that_was_stopped_goes_on_to_the_same_bytes(
  name, make, finished, tmp_path, stop_after
):
  written = stop_after(2)
  with pytest.raises(KeyboardInterrupt):
    make(name, tmp_path / "run")
  make(name, tmp_path / "run")
  assert len(written) == 3
  here, there = (folder / "generated" for folder in (tmp_path / "run", finished[name]))
  assert {p.name: p.read_bytes() for p in here.iterdir()} == {
    p.name: p.read_bytes() for p in there.iterdir()
  }
  for one, other in zip(contents(tmp_path / "run"), contents(finished[name]), strict=True):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_set_is_trained_on_by_its_folder(finished, tiny, tmp_path):
  config = tiny(
    "steps=2,save=2,evaluate=2", data__name=str(finished["d_det"]), data__train_split="generated",
    data__test_name="made", generated__path="", batch__original_share=1.0,
  )  # fmt: skip
  assert jobs.run(config, tmp_path / "run")["step"] == 2


@pytest.mark.parametrize(
  ("method", "options", "message"),
  [
    ("d_rand", {"eps": 0}, "config.generate: eps=0: expected"),
    ("d_det", {"eps": -1.0}, "config.generate: eps=-1.0: expected"),
    ("d_rand", {"num_steps": 0}, "config.generate: num_steps=0"),
    ("d_robust", {"step_size": 0.0}, "config.generate: step_size=0.0"),
    ("d_robust", {"chunk_size": 0}, "config.generate: chunk_size=0"),
    ("d_robust", {"head": "logit"}, "head='logit' is none of its layers: did you mean 'logits'"),
    ("d_robust", {"eps": 0.5}, "unknown key 'generate.eps'"),
    ("d_rand", {"net": "nowhere"}, "nowhere"),
    ("d_bugs", {"others": ()}, r"config.generate: others=\(\): expected one net"),
    ("d_ran", {}, "did you mean 'd_rand'"),
  ],
)
def test_what_makes_no_sense_is_refused(method, options, message, make, tmp_path):
  with pytest.raises(ConfigError if options.get("net") is None else Exception, match=message):
    make(method, tmp_path / "run", **options)


def test_a_net_of_other_images_is_refused(trained, tiny, tmp_path):
  block = {"method": "d_rand", "net": str(trained), "eps": 0.5}
  config = tiny(job="generate", generate=block, data__name="digits", data__num_heldout=0)
  config.evaluation.checkpoint = "latest"
  with pytest.raises(ConfigError, match=r"trained on images of image_shape \(12, 12, 3\), digits"):
    jobs.run(config, tmp_path / "run")


def test_a_set_needs_its_radius_and_its_net(tiny, tmp_path):
  config = tiny(job="generate", generate={"method": "d_rand", "eps": 0.5})
  with pytest.raises(ConfigError, match="method 'd_rand' needs 'net'"):
    jobs.run(config, tmp_path / "run")


TORCH = """
import numpy

class Tensor(numpy.ndarray):
  def numpy(self):
    return numpy.asarray(self)

def load(path, *, weights_only):
  assert weights_only
  return list(numpy.load(path + ".npy"))

def cat(parts):
  return numpy.concatenate(parts).view(Tensor)
"""
"""As much of PyTorch as the line of the page needs."""


def test_the_published_tensors_become_a_training_set(repository, tmp_path):
  """By the line of the page, in a process of its own."""
  text = (repository / "docs" / "mislabelled.md").read_text()
  program = re.search(r'python -c "(import torch.*)" robust_CIFAR FOLDER', text)
  assert program
  (tmp_path / "torch.py").write_text(TORCH)
  (tmp_path / "robust_CIFAR").mkdir()
  images = np.random.default_rng(0).random((3, 2, 3, 4, 5), np.float32)
  np.save(tmp_path / "robust_CIFAR" / "CIFAR_ims.npy", images)
  np.save(tmp_path / "robust_CIFAR" / "CIFAR_lab.npy", np.arange(6).reshape(3, 2))
  arguments = [str(tmp_path / "robust_CIFAR"), str(tmp_path / "train.npz")]
  subprocess.run([sys.executable, "-c", program.group(1), *arguments], check=True, cwd=tmp_path)
  source = convert.open_split(tmp_path, "train")
  assert source is not None
  found, given = source.read(np.arange(6))
  assert given.tolist() == [0, 1, 2, 3, 4, 5]
  expected = images.reshape(6, 3, 4, 5).transpose(0, 2, 3, 1)
  np.testing.assert_allclose(found / 255, expected, atol=1 / 500)
