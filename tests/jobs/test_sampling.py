"""What jobs do with a diffusion net: draw samples, and denoise what is smoothed; or refuse it."""

import functools
import json
import shutil

import numpy as np
import pytest
from one_device import one_device
from PIL import Image
from rows import mostly_slow

from jax_robust import config as config_lib
from jax_robust import jobs, models
from jax_robust.data import shards, sources
from jax_robust.errors import ConfigError, UserError, WorkdirError
from jax_robust.generate import diffusion
from jax_robust.jobs import sampling
from jax_robust.runs import nets

NAME = "certify_small_cnn_sigma0.5"

pytestmark = pytest.mark.thorough  # what it stands on is in tests/generate/test_diffusion.py


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Workdirs of a classifier and of a diffusion net."""
  folder = tmp_path_factory.mktemp("runs")
  for name, config in (("classifier", "mnist_smoothing:smoke"), ("diffusion", "diffusion:smoke")):
    config = config_lib.load(config)
    config.trackers = ()
    with one_device():
      jobs.run(config, folder / name)
  return folder


@pytest.fixture
def told_every_label(monkeypatch):
  """Makes the diffusion net's run one that was told every label."""
  open_run = nets.open_run

  def open_told(*args, **kwargs):
    config, opened = open_run(*args, **kwargs)
    config.objective.label_dropout = 0.0
    return config, opened

  monkeypatch.setattr(nets, "open_run", open_told)


def sample(runs, folder, *, job="generate", run="diffusion", **options):
  config = config_lib.load("diffusion:smoke")
  config.job, config.trackers = job, ()
  with config.unlocked():
    config.generate = {
      "method": "diffusion", "net": str(runs / run), "num_samples": 23, "num_steps": 3,
      "num_shards": 2, "chunk_size": 8, **options,
    }  # fmt: skip
  with one_device():
    return jobs.run(config, folder)


def read(folder):
  source = shards.open_shards(folder / "generated")
  return source.read(np.arange(source.num_examples))


@pytest.mark.parametrize("sampler", mostly_slow(["heun", "ddpm"], "ddpm"))
def test_pieces_are_those_of_one_job(runs, tmp_path, sampler):
  draw = functools.partial(sample, runs, sampler=sampler)
  assert draw(tmp_path / "whole")["num_examples"] == 23
  images, labels = read(tmp_path / "whole")
  assert np.bincount(labels).tolist() == [3, 3, 3, *[2] * 7]
  assert images.std(axis=(1, 2, 3)).min() > 1 and len({each.tobytes() for each in images}) == 23
  for number in range(2):
    draw(tmp_path / str(number), shard=f"{number}/2")
  draw(tmp_path / "merged", job="merge", pieces=(str(tmp_path / "[01]"),))
  np.testing.assert_array_equal(read(tmp_path / "merged")[0], images)
  np.testing.assert_array_equal(read(tmp_path / "merged")[1], labels)


@pytest.mark.parametrize(
  ("net", "options", "message"),
  [
    (models.MLP(num_classes=10), {}, "a MLP, which draws no images: name one of configs/diffusion"),
    (models.UNet(), {}, "draws no images of a given class: have a classifier label them"),
    (models.UNet(), {"classifier": "RUN", "guidance": 2.0}, "told no label: guidance=2.0"),
    (models.UNet(num_labels=5), {}, "with num_labels=5, and images has 10 classes"),
    (models.UNet(num_labels=5), {"classifier": "RUN"}, "with num_labels=5, and images has 10"),
  ],
)
def test_a_net_that_draws_no_images_with_a_label(net, options, message):
  source = sources.array_source(
    np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1, int), num_classes=10, name="images"
  )
  with pytest.raises(ConfigError, match=message):
    sampling.check_net("RUN", net, source, **options)
  sampling.check_net("RUN", models.UNet(num_labels=10), source)
  sampling.check_net("RUN", models.UNet(), source, classifier="RUN")


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"sampler": "heum"}, "did you mean 'heun'"),
    ({"variance": "big"}, "variance='big'"),
    ({"guidance": -1.0}, "guidance=-1"),
    ({"num_samples": 0}, "num_samples=0"),
    ({"num_steps": 1}, "num_steps=1"),
    ({"run": "nothing"}, "nothing"),
    ({"run": "classifier"}, "which draws no images"),
    ({"classifier": "nothing"}, "nothing"),
  ],
)
def test_what_can_not_be_drawn(runs, tmp_path, options, message):
  with pytest.raises(UserError, match=message):
    sample(runs, tmp_path / "run", **options)


def test_a_run_that_is_no_classifier_labels_nothing(runs, tmp_path):
  with pytest.raises(ConfigError, match="run of a UNet, which gives no labels"):
    sample(runs, tmp_path / "run", classifier=str(runs / "diffusion"))


FEW = {"num_samples": 4, "num_steps": 2, "num_shards": 1}


@pytest.mark.parametrize("num_labels", [10, 0])
def test_a_classifier_labels_samples(runs, tmp_path, monkeypatch, num_labels):
  """Also those of a net that is told no label, here the same one that does not heed it."""
  open_run = nets.open_run

  def open_unlabelled(reference, *args, **kwargs):
    config, opened = open_run(reference, *args, **kwargs)
    if reference.endswith("diffusion") and not num_labels:
      params = {name: each for name, each in opened.params.items() if name != "label"}
      opened = opened._replace(net=opened.net.clone(num_labels=0), params=params)
    return config, opened

  monkeypatch.setattr(nets, "open_run", open_unlabelled)
  sample(runs, tmp_path / "run", classifier=str(runs / "classifier"), **FEW)
  images, labels = read(tmp_path / "run")
  config = config_lib.load(runs / "classifier" / "config.json")
  subject = nets.open_model(config, runs / "classifier")
  logits_fn = nets.make_logits_fn(config, subject.net, *subject.variables, precision="highest")
  logits = np.asarray(logits_fn(images / np.float32(255)))
  np.testing.assert_array_equal(labels, logits.argmax(1))
  with np.load(tmp_path / "run" / "origins.npz") as known:
    np.testing.assert_allclose(
      known["confidence"], np.exp(logits.max(1)) / np.exp(logits).sum(1), rtol=1e-4
    )
    expected = [0, 1, 2, 3] if num_labels else [-1] * 4
    assert sorted(known["given_label"]) == expected
  result = json.loads((tmp_path / "run" / "results" / "labels.json").read_text())
  assert ("agreement" in result) == bool(num_labels) and len(result["weights_sha256"]) == 2


def test_samples_are_guided(runs, tmp_path, monkeypatch):
  asked = []
  monkeypatch.setattr(diffusion, "guided", lambda fn, weight: asked.append(weight) or fn)
  sample(runs, tmp_path / "guided", guidance=3.0, **FEW)
  assert {*asked} == {3.0}


def smoothed(runs, folder, job="certify", **changes):
  """The result of a job on a copy of the classifier's run."""
  if not folder.exists():
    shutil.copytree(runs / "classifier", folder)
  config = config_lib.from_data(json.loads((folder / "config.json").read_text()))
  config.job = job
  config.smoothing.update({"sigma": 0.5, "n": 200, "max": 4, **changes})
  with one_device():
    return jobs.run(config, folder)


def test_a_denoiser_is_part_of_what_is_certified(runs, tmp_path):
  plain = smoothed(runs, tmp_path / "run")[NAME]
  behind = smoothed(runs, tmp_path / "behind", denoiser=str(runs / "diffusion"))[NAME]
  assert "denoiser_sha256" not in plain and len(behind["denoiser_sha256"]) == 64
  assert behind["weights_sha256"] == plain["weights_sha256"]
  with pytest.raises(WorkdirError, match="denoiser_sha256"):
    smoothed(runs, tmp_path / "run", denoiser=str(runs / "diffusion"))


def test_a_denoiser_is_part_of_what_predicts(runs, tmp_path):
  images = tmp_path / "images"
  images.mkdir()
  shape = json.loads((runs / "classifier" / "data.json").read_text())["image_shape"]
  for number in range(2):
    pixels = np.full(shape, 90 * number, np.uint8)
    Image.fromarray(pixels).save(images / f"{number}.png")
  found = smoothed(
    runs, tmp_path / "run", "predict", images=str(images), denoiser=str(runs / "diffusion")
  )
  assert found["num_images"] == 2 and len(found["denoiser_sha256"]) == 64


@pytest.mark.parametrize(
  ("reference", "message"),
  [
    (
      "classifier",
      r"config.smoothing.denoiser='.*' is the run of a SmallCNN, which denoises no images",
    ),
    ("nothing", "nothing"),
  ],
)
def test_what_is_no_denoiser(runs, tmp_path, reference, message):
  with pytest.raises(UserError, match=message):
    smoothed(runs, tmp_path / "run", denoiser=str(runs / reference))


@pytest.mark.usefixtures("told_every_label")
def test_a_net_that_was_told_every_label_is_not_asked_without_one(runs, tmp_path):
  message = "was always told the class .*: train one with objective.label_dropout above 0"
  with pytest.raises(ConfigError, match=f"smoothing.denoiser=.* {message}"):
    smoothed(runs, tmp_path / "run", denoiser=str(runs / "diffusion"))
  with pytest.raises(ConfigError, match=f"generate.net=.* {message}"):
    sample(runs, tmp_path / "guided", guidance=2.0, **FEW)
