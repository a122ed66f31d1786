"""Images a second at batch 1,024 of CIFAR's shape, and the time to a first batch."""

import itertools
import time

import jax
import numpy as np
import pytest

from jax_robust import data
from jax_robust.data.shard_writer import write_shards
from jax_robust.data.sources import array_source

pytestmark = pytest.mark.bench

LAW = {"batch_size": 1024, "original_share": 0.3}
NUM_GENERATED = 100_000


def noise(num_examples):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (num_examples, 32, 32, 3), dtype=np.uint8)
  return array_source(images, rng.integers(0, 10, num_examples), num_classes=10)


@pytest.fixture(scope="module")
def original():
  return noise(50_000)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
  folder = tmp_path_factory.mktemp("bench") / "shards"
  about = {"generator": "noise", "licence": "CC0", "seed": 0}
  return write_shards(folder, noise(NUM_GENERATED), num_shards=16, **about)


def images_per_second(batches, num_batches=100):
  jax.block_until_ready(next(batches))
  start = time.perf_counter()
  for batch in itertools.islice(batches, num_batches):
    last = batch
  jax.block_until_ready(last)
  return num_batches * LAW["batch_size"] / (time.perf_counter() - start)


@pytest.mark.parametrize("backend", ["tfdata", "resident"])
def test_images_per_second(original, shards, backend, capsys):
  batches = data.make_train_batches(original, shards, backend=backend, **LAW)(0)
  rate = images_per_second(batches)
  with capsys.disabled():
    print(f"\n{backend}: {rate:,.0f} images/s")
  assert rate > 10_000


def test_time_to_first_batch(original, shards, capsys):
  steps = NUM_GENERATED // 716
  for step in (0, 0, steps // 2, steps - 1, 1000 * steps):
    start = time.perf_counter()
    batches = data.make_train_batches(original, shards, **LAW)(step)
    next(batches)
    seconds = time.perf_counter() - start
    batches.close()
    with capsys.disabled():
      print(f"\nfirst batch at step {step}: {seconds:.2f} s")
  assert seconds < 5
