"""The generation job: shards of generated images, drawn from a fit or converted from files."""

import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any

import jax
import numpy as np

from jax_robust.attacks.recipes import parameters
from jax_robust.data import convert, shard_writer, shards
from jax_robust.errors import ConfigError, check_options
from jax_robust.generate import gaussian
from jax_robust.runs import build, identity, pieces
from jax_robust.runs.blocks import block, check_name, from_config
from jax_robust.train import metrics

SHARDS = "generated"
"""The folder of the shards in a workdir."""


def generate(config: Any, path: pathlib.Path) -> dict[str, Any]:
  """Writes the shards that `config.generate` describes to WORKDIR/generated, unless they are there.

  They hold samples of a Gaussian fit of the data set, or files converted.
  """
  options = block(config, "generate")
  method, shard = options.pop("method", ""), options.pop("shard", "0/1")
  options.pop("pieces", None)  # of the job `merge`
  manifest, result = path / SHARDS / "manifest.json", None
  if not manifest.exists():
    with from_config("generate"):
      result = METHODS[method](config, path, shard, **options)
  others = pieces.Others(path)
  while result is None and not manifest.exists():
    others.check()
    time.sleep(pieces.SECONDS_BETWEEN_LOOKS)  # until the first process has written them
  return result or _describe(path / SHARDS)


def check(config: Any) -> None:
  """Raises ConfigError where the method of generation is none of ours, or an option none of its."""
  options = block(config, "generate")
  check_name("generate.method", options.get("method", ""), METHODS)
  known = keywords(options)
  check_options("generate", options, {*known, "shard", "pieces"})
  for name, each in known.items():
    if each.default is each.empty and name not in options:
      raise ConfigError(f"config.generate: method {options['method']!r} needs {name!r}")
  if options.get("path") == "":
    raise ConfigError("generate.path is empty: --config.generate.path=FILE_OR_FOLDER to convert")


def _describe(folder: pathlib.Path) -> dict[str, Any]:
  """How many samples and shards there are."""
  written = shards.open_shards(folder)
  metrics.report(f"{written.num_examples} samples in {len(written.counts)} shards: {folder}")
  return {"num_examples": written.num_examples, "num_shards": len(written.counts)}


def _gaussian(
  config, folder: pathlib.Path, shard: str, *, num_shards: int | None = None, **options
) -> dict[str, Any] | None:
  """Samples a Gaussian per class, fitted to the training split without its held-out part."""
  source, _ = build.hold_out(config, build.load_train(config))
  images, labels = source.read(np.arange(source.num_examples))
  samples = gaussian.sample_chunks(
    images, labels, num_classes=source.num_classes, seed=config.seed, **options
  )
  belongs_to = {
    "generator": f"class-conditional Gaussian fit of {source.name}",
    "licence": "as the data set it was fitted to",
    "seed": config.seed,
    "num_shards": num_shards,
    "num_examples": samples.num_examples,
    "num_classes": samples.num_classes,
    "options": options,
    **({"class_names": list(source.class_names)} if source.class_names else {}),
    **identity.sha256_of(source),
  }
  return _write_samples(config, folder, samples, belongs_to, shard)


def _write_samples(config, path, samples, belongs_to, shard: str) -> dict[str, Any] | None:
  """Draws the chunks of samples that are in no piece; the first process makes shards of all."""
  store = pieces.Arrays(
    path / "results" / "generate",
    belongs_to,
    range(samples.num_chunks),
    share=pieces.share_of("generate.shard", shard),
    unit="chunks",
  )
  wanted = [int(number) for ids in store.missing() for number in ids]
  for number, (images, labels) in zip(wanted, samples.chunks(wanted), strict=True):
    store.write({"id": np.array([number]), "image": images, "label": labels})
  if jax.process_index() and shard == "0/1":
    return None  # the first process deletes the pieces when it has made shards of them
  if pieces.wait([store]):
    return write_results(config, path, [store.folder])
  return {"complete": False}


def _convert(config, folder: pathlib.Path, shard: str, *, path: str, **options) -> None:
  """Converts an npz, a folder of class folders, or a pack of JPEGs; a kill starts it anew."""
  if shard != "0/1":
    raise ConfigError(f"generate.shard={shard!r}: files are converted whole, by one job")
  if jax.process_index() == 0:
    convert.make_shards(path, folder / SHARDS, seed=config.seed, **options)


METHODS: dict[str, Callable] = {"gaussian": _gaussian, "convert": _convert}
"""Ways to get shards, by the name a config gives them: `(config, workdir, shard, **options)`.

They return what the job returns; None where the shards are there, or the first process writes them.
"""


def keywords(options: Mapping[str, Any]) -> dict[str, Parameter]:
  """What the block `generate` may hold for the method that it names."""
  name = str(options.get("method", ""))
  inner = {"gaussian": gaussian.sample_chunks, "convert": convert.make_shards}.get(name)
  found = {**parameters(METHODS[name]), **parameters(inner)} if inner else {}
  provided = ("seed", "num_classes", "progress_fn")
  text = Parameter("method", Parameter.KEYWORD_ONLY, default="", annotation=str)
  return {**{k: each for k, each in found.items() if k not in provided}, "method": text}


def write_results(
  config: Any, path: pathlib.Path, folders: Sequence[pathlib.Path]
) -> dict[str, Any]:
  """Shuffles the samples of a folder of pieces into shards, if complete, and deletes the pieces."""
  del config
  (folder,) = folders
  work = pieces.find([folder])
  if not work.is_complete("generate"):
    return {"complete": False}
  recipe = ("generator", "licence", "seed", "num_shards", "num_examples", "num_classes")
  samples = ((each["image"], each["label"]) for each in work.contents())
  shard_writer.write_shards(
    path / SHARDS,
    samples,
    class_names=work.identity.get("class_names", ()),
    **{name: work.identity[name] for name in recipe},
  )
  shutil.rmtree(folder)
  return _describe(path / SHARDS)
