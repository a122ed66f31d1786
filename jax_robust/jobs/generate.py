"""The generation job: shards of generated images, fitted, or converted from files in the wild."""

import pathlib
from typing import Any

import jax
import numpy as np

from jax_robust.data import convert, shard_writer, shards, sources
from jax_robust.errors import ConfigError, near_miss
from jax_robust.generate import gaussian
from jax_robust.runs import build, workdir
from jax_robust.runs.blocks import from_config
from jax_robust.train import metrics, parallel


def generate(config: Any, folder: str) -> dict[str, Any]:
  """Writes shards to WORKDIR/generated: a Gaussian fit of the data set, or files converted."""
  with workdir.claimed(folder) as path:
    workdir.write_identity(path, config)
    return write_shards(config, str(path / "generated"))


def write_shards(config: Any, folder: str) -> dict[str, Any]:
  """Writes the shards that `config.generate` describes; shards that are there already are kept."""
  # One process writes; the others wait for it and then read what it wrote.
  if jax.process_index() == 0 and not pathlib.Path(folder, "manifest.json").exists():
    options = build.block(config, "generate")
    method = options.pop("method", "")
    if method not in METHODS:
      raise ConfigError(f"generate.method={method!r}{near_miss(method, METHODS)}")
    with from_config("generate"):
      METHODS[method](config, folder, **options)
  parallel.wait_for_all("shards")
  written = shards.open_shards(folder)
  metrics.report(f"{written.num_examples} samples in {len(written.counts)} shards: {folder}")
  return {"num_examples": written.num_examples, "num_shards": len(written.counts)}


def _gaussian(config, folder: str, *, num_shards: int | None = None, **options) -> None:
  """Samples a Gaussian per class, fitted to the training split without its held-out part."""
  source, _ = sources.split_heldout(build.load_split(config, "train"), config.data.num_heldout)
  images, labels = source.read(np.arange(source.num_examples))
  samples = gaussian.sample_chunks(
    images, labels, num_classes=source.num_classes, seed=config.seed, **options
  )
  shard_writer.write_shards(
    folder,
    samples,
    generator=f"class-conditional Gaussian fit of {source.name}",
    licence="as the data set it was fitted to",
    seed=config.seed,
    num_shards=num_shards,
  )


def _convert(config, folder: str, *, path: str, **options) -> None:
  """Converts an npz, a folder of class folders, or a pack of JPEGs."""
  if not path:
    raise ConfigError("generate.path is empty: --config.generate.path=FILE_OR_FOLDER to convert")
  convert.make_shards(path, folder, seed=config.seed, **options)


METHODS = {"gaussian": _gaussian, "convert": _convert}
"""Ways to come by shards, by the name a config gives them."""
