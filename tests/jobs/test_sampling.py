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
from jax_robust.data import shards
from jax_robust.errors import ConfigError, UserError, WorkdirError
from jax_robust.generate import diffusion
from jax_robust.jobs import sampling
from jax_robust.runs import nets

NAME = "certify_small_cnn_sigma0.5"


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


@pytest.mark.parametrize("net", [models.MLP(num_classes=10), models.UNet()])
def test_a_net_that_draws_no_images_of_a_class(net):
  with pytest.raises(ConfigError, match="draws no images of a given class: name one of configs/d"):
    sampling.check_net("RUN", net)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"sampler": "heum"}, "did you mean 'heun'"),
    ({"variance": "big"}, "variance='big'"),
    ({"guidance": -1.0}, "guidance=-1"),
    ({"num_samples": 0}, "num_samples=0"),
    ({"num_steps": 1}, "num_steps=1"),
    ({"run": "nothing"}, "nothing"),
  ],
)
def test_what_can_not_be_drawn(tmp_path, options, message):
  with pytest.raises(UserError, match=message):
    sample(tmp_path, tmp_path / "run", **options)


FEW = {"num_samples": 4, "num_steps": 2, "num_shards": 1}


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
