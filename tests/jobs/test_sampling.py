"""Shards of images that a diffusion net draws: the same however the work is cut, or refused."""

import functools

import numpy as np
import pytest
from one_device import one_device
from rows import mostly_slow

from jax_robust import config as config_lib
from jax_robust import jobs, models
from jax_robust.data import shards
from jax_robust.errors import ConfigError, UserError
from jax_robust.jobs import sampling


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
def test_pieces_are_those_of_one_job(tmp_path, sampler):
  config = config_lib.load("diffusion:smoke")
  config.trackers = ()
  with one_device():
    jobs.run(config, tmp_path / "diffusion")
  draw = functools.partial(sample, tmp_path, sampler=sampler)
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
    ({"num_samples": 0}, "num_samples=0"),
    ({"num_steps": 1}, "num_steps=1"),
    ({"run": "nothing"}, "nothing"),
  ],
)
def test_what_can_not_be_drawn(tmp_path, options, message):
  with pytest.raises(UserError, match=message):
    sample(tmp_path, tmp_path / "run", **options)
