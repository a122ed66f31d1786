"""Data sets that a config may name: a new one is an entry of `DATASETS`."""

from collections.abc import Callable

import numpy as np

from jax_robust.data import tfds
from jax_robust.data.sources import Source, array_source, digits
from jax_robust.errors import check_name

MADE = "made"
"""What `smoke` trains on and evaluates: noise, generated noise, untrained weights."""


def made(split: str) -> Source:
  """Noise with labels, the same each time, whatever part of a split."""
  check_name("split", split.partition("[")[0], ("train", "test", "generated"))
  rng = np.random.default_rng(0 if split == "train" else 1)
  images = rng.integers(0, 256, (72, 12, 12, 3), np.uint8)
  return array_source(images, np.arange(72) % 10, num_classes=10, name=MADE)


DATASETS: dict[str, Callable[[str], Source]] = {"digits": digits, MADE: made}
"""Functions `split -> source`, by the name that `config.data.name` gives them.

Those of TFDS have a name too (`tfds.NAMES`); others are given by a folder, with a slash.
"""


def names() -> tuple[str, ...]:
  """All data sets with a name."""
  return (*DATASETS, *tfds.NAMES)
