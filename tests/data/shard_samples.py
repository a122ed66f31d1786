"""Numbered, labelled noise, sorted by class, to make shards of."""

import numpy as np

from jax_robust.data.sources import array_source

NUM = 500
IMAGES = np.random.default_rng(0).integers(0, 256, (NUM, 4, 3, 3)).astype(np.uint8)
# Every image bears its number.
IMAGES[:, 0, 0, 0] = np.arange(NUM) % 256
IMAGES[:, 0, 0, 1] = np.arange(NUM) // 256
LABELS = np.sort(np.random.default_rng(1).integers(0, 5, NUM))
SOURCE = array_source(IMAGES, LABELS, num_classes=5, name="made")
META = {"generator": "noise", "licence": "CC0", "seed": 7}


def numbers(images):
  """The number that each image bears."""
  return images[:, 0, 0, 0].astype(int) + 256 * images[:, 0, 0, 1].astype(int)


def flip(path, place):
  """Changes one bit of a file."""
  content = bytearray(path.read_bytes())
  content[place] ^= 1
  path.write_bytes(content)
