"""From a config's blocks to the things they describe; each block is one function's keywords."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from jax_robust import attacks, models
from jax_robust.data import (
  classes,
  columns,
  convert,
  draws,
  labels,
  named,
  resizing,
  shards,
  sources,
  tfds,
)
from jax_robust.errors import ConfigError, check_eps
from jax_robust.models import normalization
from jax_robust.runs.blocks import block, call, check_name, from_config
from jax_robust.types import Attack


class Data(NamedTuple):
  """Where a run's images come from."""

  train: sources.Source
  heldout: sources.Source
  test: sources.Source
  generated: sources.Source | None


def load_split(config, split: str, *, key: str = "name") -> sources.Source:
  """One split of the data set that a key of the block `data` names, or what `data.classes` leaves.

  It is an entry of `data.DATASETS`, one of TFDS, or a folder: of a TFDS builder, or with a split in
  each of its files or folders (`convert.open_split`).
  """
  return _of_classes(config, _open_split(config, split, key))


def _of_classes(config, source: sources.Source) -> sources.Source:
  """What is left of a set by `data.classes`: all of it by default."""
  if not config.data.classes:
    return source
  with from_config("data.classes"):
    return classes.only(source, config.data.classes)


def _open_split(config, split: str, key: str) -> sources.Source:
  """One split of a data set, with all its classes."""
  options, name = config.data, config.data[key]
  with from_config("data"):
    if name in named.DATASETS:
      return _sized(config, named.DATASETS[name](split))
    if "/" not in name:
      check_name(f"data.{key}", name, named.names())
    else:
      sizes = {"image_size": options.image_size or None, "test_share": options.test_share}
      if (source := convert.open_split(name, split, **sizes)) is not None:
        return source
      _check_is_tfds(name, split)
    try:
      return tfds.load_tfds(
        name,
        split,
        data_dir=config.data_dir or None,
        image_size=options.image_size or None,
      )
    except ImportError as error:
      raise ConfigError(str(error)) from error


def _check_is_tfds(name: str, split: str) -> None:
  """Raises ConfigError where a folder is neither a data set with this split nor one of TFDS."""
  folder = pathlib.Path(name)
  is_tfds = any(any(folder.glob(each)) for each in ("features.json", "*/features.json"))
  if folder.exists() and not is_tfds:
    kept = "; or keep a share of the images for testing, by --config.data.test_share=0.2"
    raise ConfigError(
      f"data.name={name!r} has no split {split!r}: expected {folder / split} with a folder for "
      f"each class, {folder / split}.npz, shards, or a prepared data set of TFDS{kept}"
    )


def data(config) -> Data:
  """Opens everything that a training run reads."""
  if config.batch.original_share < 1 and not config.generated.path:
    raise ConfigError(
      f"batch.original_share={config.batch.original_share} asks for generated images, but "
      "generated.path is empty: name the folder of shards (job 'generate' makes one), or set "
      "--config.batch.original_share=1"
    )
  whole = load_train(config)
  if whole.num_classes < 2 and models.is_classifier(config.model.name):
    called = "".join(f", {each!r}" for each in whole.class_names)
    raise ConfigError(
      f"{whole.name} has a single class{called}: expected two or more, a folder for each"
    )
  test = load_test(config, classes.classes_of(whole))
  if test.image_shape != whole.image_shape:
    raise ConfigError(
      f"the test split {test.name} has image_shape {test.image_shape}, {whole.name}, which is "
      f"trained on, has {whole.image_shape}: bring both to one size and number of channels first"
    )
  train, heldout = whole, test
  if config.data.num_heldout:
    train, heldout = hold_out(config, whole)
  generated = generated_source(config, whole)
  return Data(train, heldout, test, generated)


def load_train(config) -> sources.Source:
  """The config's training split, held-out images included, with the labels that it is given."""
  options, source = config.data, load_split(config, config.data.train_split)
  if options.labels:
    given, class_names = labels.load_labels(options.labels, num_images=source.num_examples)
    probabilities = labels.load_probabilities(options.labels)
    with from_config("data.labels"):
      source = labels.with_labels(
        source, given, probabilities=probabilities, class_names=class_names
      )
  if options.label_noise:
    if columns.probabilities_reader(source) is not None:
      raise ConfigError(
        f"config.data.label_noise={options.label_noise}: {source.name} is trained on "
        "probabilities, and only labels can be replaced by wrong ones; set one of the two"
      )
    with from_config("data.label_noise"):
      noisy = labels.inject_label_noise(
        sources.labels_of(source), options.label_noise, num_classes=source.num_classes,
        seed=config.seed,
      )  # fmt: skip
      name = f"{source.name} with {options.label_noise:g} of its labels wrong"
      source = labels.with_labels(source, noisy, name=name)
  return source


def load_test(config, wanted: classes.Classes | None) -> sources.Source:
  """The config's test split, its labels those of the classes that a net was or is trained on.

  Raises:
    ConfigError: it has a class that is none of these.
  """
  key = "test_name" if config.data.test_name else "name"
  test = load_split(config, config.data.test_split, key=key)
  if wanted is None:
    return test
  try:
    return classes.agree(test, wanted)
  except ValueError as error:
    raise ConfigError(
      f"the test split {test.name} has other classes than the model or the training split: {error}"
    ) from error


def hold_out(config, source: sources.Source) -> tuple[sources.Source, sources.Source]:
  """The images that are trained on, and those that are held out, as `data.draw` says."""
  with from_config("data.num_heldout"):
    return draws.hold_out(source, config.data.num_heldout, draw=draw_rule(config))


def draw_rule(config) -> str:
  """`first` or `class`: what `config.data.draw` means for its data set."""
  with from_config("data"):
    return draws.rule_of(config.data.get("draw", draws.AUTO), config.data.name)


def train_class_names(config) -> tuple[str, ...]:
  """What the classes of a folder's training split are called, without reading images; or ()."""
  name = config.data.name
  if config.data.classes:
    return ()
  if "/" not in name:
    return ()
  if config.data.test_share and convert.find_split(name, "train") is None:
    return convert.split_class_names(name, ".")  # a set without splits
  return convert.split_class_names(name, config.data.train_split)


def open_images(config, path: str) -> sources.Source:
  """Images in any form that is read, brought to `data.image_size` if that is set."""
  return _sized(config, convert.open_source(path, image_size=config.data.image_size or None))


def _sized(config, source: sources.Source) -> sources.Source:
  """A source with images of `data.image_size`, if that is set; itself where they are so large."""
  size = config.data.image_size
  return resizing.sized(source, size) if size else source


def generated_source(config, original: sources.Source) -> sources.Source | None:
  """Opens the generated images, if any, and checks that they fit the originals."""
  path = config.generated.path
  if not path:
    return None
  if path == named.MADE:
    source = named.made("generated")
  elif convert.is_shards(path):
    source = call(
      "generated", shards.open_shards, path, options={"verify": config.generated.verify}
    )
  else:
    source = open_images(config, path)
  is_noted = hasattr(source, "manifest")  # a manifest says how many classes there are
  source = _of_classes(config, _sized(config, source))
  with from_config("generated"):
    source = _some_of(source, config.generated.num_examples)
  if original.image_shape != source.image_shape:
    raise ConfigError(
      f"generated.path={path!r} has image_shape {source.image_shape}, {original.name} has "
      f"{original.image_shape}: make shards of images like the originals"
    )
  try:
    return classes.agree(source, classes.classes_of(original), may_lack=not is_noted)
  except ValueError as error:
    raise ConfigError(
      f"generated.path={path!r} has other classes than {original.name}: {error}; make shards of "
      "images like the originals"
    ) from error


def _some_of(source: sources.Source, num_examples: int) -> sources.Source:
  """So many generated images, by class.

  Raises:
    ValueError: there are not as many, so that sets of one size could not be compared.
  """
  if num_examples > source.num_examples:
    raise ValueError(
      f"num_examples={num_examples}, where {source.name} has {source.num_examples} images"
    )
  return draws.take(source, num_examples)


def model(config, num_classes: int):
  """The net; a classifier normalises as the data set asks unless the config says otherwise."""
  options: dict[str, Any] = block(config, "model")
  name = options.pop("name")
  with from_config("model"):
    if models.is_classifier(name):
      mean, std = normalization.constants(config.data.name)
      options = {"mean": mean, "std": std, "num_classes": num_classes, **options}
    if "dtype" in options:
      options["dtype"] = jnp.dtype(options["dtype"])
    return models.create(name, **options)


def attack(key: str, options: Mapping[str, Any], **changes: Any) -> Attack:
  """An attack of the config block `key`, with some of its values replaced.

  Raises:
    ConfigError: an option that it does not know or accept; some are found when it is traced.
  """
  norm, eps = options.get("norm", "linf"), changes.get("eps", options.get("eps"))
  with from_config(f"{key}.eps"):
    check_eps(eps, norm)
  with from_config(key):
    made = attacks.make_attack(**{**options, **changes})

  def named(*args: Any, **keywords: Any):
    with from_config(key):
      return made(*args, **keywords)

  return named


def eval_source(config, source: sources.Source) -> sources.Source:
  """`evaluation.num_examples` of a source, drawn as `data.draw` says; all of them for 0."""
  return draws.take(source, config.evaluation.num_examples, draw=draw_rule(config))
