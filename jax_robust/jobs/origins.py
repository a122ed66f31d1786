"""What a generation leaves in its workdir: shards, and where each of their images is from."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_robust.atomic import write_atomically
from jax_robust.data import shard_writer, shards
from jax_robust.train import metrics

SHARDS = "generated"
"""The folder of the shards in a workdir."""

ORIGINS = "origins.npz"
"""The file in a workdir that says, of each image of the shards in their order, where it is from."""


def describe(path: pathlib.Path) -> dict[str, Any]:
  """How many samples and shards there are in a workdir, which is said, too."""
  folder = path / SHARDS
  written = shards.open_shards(folder)
  metrics.report(f"{written.num_examples} samples in {len(written.counts)} shards: {folder}")
  return {"num_examples": written.num_examples, "num_shards": len(written.counts)}


def write_origins(path: pathlib.Path, columns: Mapping[str, np.ndarray], *, seed: int) -> None:
  """Writes what is known of each image, in the order of the shards.

  Args:
    path: the workdir.
    columns: arrays `[n, …]` by name, in the order in which the images are handed to `write_shards`.
    seed: that the shards are shuffled by.
  """
  num_examples = len(next(iter(columns.values())))
  order = np.argsort(shard_writer.random_places(num_examples, seed))
  arrays: dict[str, Any] = {name: column[order] for name, column in columns.items()}
  write_atomically(path / ORIGINS, lambda stream: np.savez(stream, **arrays))
