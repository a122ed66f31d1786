"""The generation job: shards of generated images, fitted, or converted from files in the wild."""

import pathlib
from typing import Any

from jax_robust.config import ConfigError, near_miss
from jax_robust.data import convert, shards
from jax_robust.jobs import build, workdir
from jax_robust.train import metrics


def generate(config: Any, folder: str) -> dict[str, Any]:
  """Writes shards to WORKDIR/generated: a Gaussian fit of the data set, or files converted."""
  with workdir.claimed(folder) as path:
    workdir.write_identity(path, config)
    return write_shards(config, str(path / "generated"))


def write_shards(config: Any, folder: str) -> dict[str, Any]:
  """Writes the shards that `config.generate` describes; shards that are there already are kept."""
  if pathlib.Path(folder, "manifest.json").exists():
    written = shards.open_shards(folder)
  else:
    options = build.block(config, "generate")
    if "method" not in options:
      raise ConfigError("config.generate.method is missing: expected " + ", ".join(METHODS))
    method = options.pop("method")
    if method not in METHODS:
      raise ConfigError(f"generate.method={method!r}{near_miss(method, METHODS)}")
    written = METHODS[method](config, folder, **options)
  metrics.report(f"{written.num_examples} samples in {len(written.counts)} shards: {folder}")
  return {"num_examples": written.num_examples, "num_shards": len(written.counts)}


def _gaussian(config, folder, *, num_examples: int, num_shards: int, **options):
  """A class-conditional Gaussian fit of the training split without its held-out part."""
  from jax_robust.generate import gaussian

  source, _ = build.sources.split_heldout(
    build.load_split(config, "train"), config.data.num_heldout
  )
  return gaussian.write(
    source, folder, num_examples=num_examples, num_shards=num_shards, seed=config.seed, **options
  )


def _convert(config, folder, *, path: str, **options):
  """Converts an npz, a folder of class folders, or a pack of JPEGs."""
  return convert.make_shards(path, folder, seed=config.seed, **options)


METHODS = {"gaussian": _gaussian, "convert": _convert}
"""Ways to come by shards, by the name a config gives them."""
