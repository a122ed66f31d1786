"""The generation job: shards of images that are drawn from a fit, made or labelled by a net, or
converted."""

import functools
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any

import jax
import numpy as np

from jax_robust import bars
from jax_robust.attacks.recipes import parameters
from jax_robust.data import convert, shard_writer
from jax_robust.errors import ConfigError, check_options
from jax_robust.evaluate.intervals import summarise
from jax_robust.generate import gaussian
from jax_robust.generate.constructed import DISENTANGLED, INVERTED, TARGETED
from jax_robust.jobs import constructed, labelled, labelling, sampling
from jax_robust.jobs.origins import SHARDS, describe, write_origins
from jax_robust.runs import build, identity, pieces, workdir
from jax_robust.runs.blocks import block, check_name, from_config


def generate(config: Any, path: pathlib.Path) -> dict[str, Any]:
  """Writes the shards that `config.generate` describes to WORKDIR/generated, unless they are there.

  They hold samples of a Gaussian fit of the data set or of a diffusion net, one of the constructed
  sets of a net, images labelled by a classifier, or files converted. What else is known of each
  image of a constructed or labelled set is written to `origins.ORIGINS`.
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
  return result or describe(path)


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
    raise ConfigError(
      f"generate.path is empty: --config.generate.path=FILE_OR_FOLDER to {options['method']}"
    )
  if options["method"] == "label" and not options["classifier"]:
    raise ConfigError("generate.classifier is empty: --config.generate.classifier=RUN labels them")


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

  def chunks(numbers):
    for image, label in samples.chunks(numbers):
      yield {"image": image, "label": label}

  made = constructed.Chunks(samples.num_chunks, chunks, belongs_to)
  return _write_chunks(config, folder, made, shard)


def _constructed(make_chunks, config, folder: pathlib.Path, shard: str, **options):
  """One of the constructed sets."""
  return _write_chunks(config, folder, make_chunks(config, **options), shard)


def _write_chunks(config, path, made: constructed.Chunks, shard: str) -> dict[str, Any] | None:
  """Makes the chunks that are in no piece; the first process makes shards of all."""
  store = pieces.Arrays(
    path / "results" / "generate",
    made.belongs_to,
    range(made.num_chunks),
    share=pieces.share_of("generate.shard", shard),
    unit="chunks",
  )
  wanted = [int(number) for ids in store.missing() for number in ids]
  for number, arrays in zip(wanted, made.chunks(wanted), strict=True):
    store.write({"id": np.array([number]), **arrays})
  if jax.process_index() and shard == "0/1":
    return None  # the first process deletes the pieces when it has made shards of them
  if pieces.wait([store]):
    return write_results(config, path, [store.folder])
  return {"complete": False}


def _convert(config, folder: pathlib.Path, shard: str, *, path: str, **options) -> None:
  """Converts what `data.convert.open_source` takes, several parts too; a kill starts it anew."""
  if shard != "0/1":
    raise ConfigError(f"generate.shard={shard!r}: files are converted whole, by one job")
  bar: list[bars.Bar] = []

  def show(done: int, total: int) -> None:
    if not bar:  # only now is it known how many images there are
      bar.append(bars.Bar("converting", total))
    bar[0].move(done)

  if jax.process_index() == 0:
    convert.make_shards(path, folder / SHARDS, seed=config.seed, progress_fn=show, **options)


_MAKERS = {
  **{kind: functools.partial(constructed.move_to_targets, kind) for kind in TARGETED},
  **{kind: functools.partial(constructed.invert, kind) for kind in INVERTED},
  DISENTANGLED: constructed.move_disentangled,
  "diffusion": sampling.sample_diffusion,
  "label": labelling.label_images,
}
"""What makes the chunks of each constructed set, of samples, and of labels."""

METHODS: dict[str, Callable] = {
  "gaussian": _gaussian,
  "convert": _convert,
  **{kind: functools.partial(_constructed, make) for kind, make in _MAKERS.items()},
}
"""Ways to get shards, by the name a config gives them: `(config, workdir, shard, **options)`.

They return what the job returns; None where the shards are there, or the first process writes them.
"""


def keywords(options: Mapping[str, Any]) -> dict[str, Parameter]:
  """What the block `generate` may hold for the method that it names."""
  found = {name: each for source in sources(options) for name, each in parameters(source).items()}
  provided = ("seed", "num_classes", "progress_fn")
  text = Parameter("method", Parameter.KEYWORD_ONLY, default="", annotation=str)
  return {**{k: each for k, each in found.items() if k not in provided}, "method": text}


def sources(options: Mapping[str, Any]) -> list[Callable]:
  """The functions whose keywords the block `generate` holds, for the method that it names."""
  name = str(options.get("method", ""))
  inner = {"gaussian": gaussian.sample_chunks, "convert": convert.make_shards, **_MAKERS}.get(name)
  return [function for function in (METHODS.get(name), inner) if function]


def write_results(
  config: Any, path: pathlib.Path, folders: Sequence[pathlib.Path]
) -> dict[str, Any]:
  """Shuffles the samples of a folder of pieces into shards, if complete, and deletes the pieces.

  What the pieces hold besides images and labels goes into a file and, its means, into a result.
  """
  (folder,) = folders
  work = pieces.find([folder])
  if not work.is_complete("generate"):
    return {"complete": False}
  if "selection" in work.identity:
    labelled.write_results(config, path, work)
    shutil.rmtree(folder)
    return describe(path)
  recipe = ("generator", "licence", "seed", "num_shards", "num_examples", "num_classes")
  _write_origins(path, work)
  samples = ((each["image"], each["label"]) for each in work.contents())
  shard_writer.write_shards(
    path / SHARDS,
    samples,
    class_names=work.identity.get("class_names", ()),
    **{name: work.identity[name] for name in recipe},
  )
  shutil.rmtree(folder)
  return describe(path)


def _write_origins(path: pathlib.Path, work: pieces.Work) -> None:
  """Writes what is known of each image, and how it is on average."""
  parts = list(work.contents(without=("image",)))
  names = [name for name in parts[0] if name != "id"]
  if names == ["label"]:
    return
  columns = {name: np.concatenate([part[name] for part in parts]) for name in names}
  write_origins(path, columns, seed=work.identity["seed"])
  if "confidence" in columns:  # samples that a classifier has labelled
    labelled.write_report(path, work.identity, columns)
    return
  measured = {k: v for k, v in columns.items() if not np.issubdtype(v.dtype, np.integer)}
  unlike = columns["label"] != columns["original_label"]
  workdir.write_result(
    path, "generate", {**work.identity, **summarise({**measured, "mislabelled": unlike})}
  )
