"""A generator: images of noise, written as shards."""

import numpy as np

from jax_robust.data.shard_writer import write_shards
from jax_robust.jobs import generate


def noise(config, folder, shard, *, num_examples: int):
  rng = np.random.default_rng(config.seed)
  images = rng.integers(0, 256, (num_examples, 8, 8, 1), np.uint8)
  write_shards(
    folder / generate.SHARDS, [(images, np.arange(num_examples) % 2)], num_examples=num_examples,
    num_shards=2, num_classes=2, seed=config.seed, generator="noise", licence="none")  # fmt: skip


generate.METHODS["noise"] = noise
