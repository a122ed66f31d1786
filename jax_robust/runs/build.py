"""From a config's blocks to the things they describe; each block is one function's keywords."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from jax_robust import attacks, models, objectives
from jax_robust import config as config_lib
from jax_robust.data import augment, convert, pipeline, shards, sources, tfds
from jax_robust.errors import ConfigError
from jax_robust.models import normalization
from jax_robust.runs import devices, weights
from jax_robust.runs.blocks import block, call, check_name, check_options, from_config
from jax_robust.train import optim, parallel, state, step

DATASETS = ("digits", "made", *tfds.NAMES)
"""Data sets that have a name; others are given by a folder, with a slash: of a TFDS builder, or
with a split in each of its files or folders (`convert.open_split`)."""


class Data(NamedTuple):
  """Where a run's images come from."""

  train: sources.Source
  heldout: sources.Source
  test: sources.Source
  generated: sources.Source | None


def load_split(config, split: str) -> sources.Source:
  """One split of the config's data set: TFDS's, a folder's, scikit-learn's digits, or noise."""
  options = config.data
  if options.name == "made":
    return made_source(split)
  with from_config("data"):
    if options.name == "digits":
      return sources.digits(split)
    if "/" not in options.name:
      check_name("data.name", options.name, DATASETS)
    elif (source := convert.open_split(options.name, split)) is not None:
      return source
    try:
      return tfds.load_tfds(
        options.name,
        split,
        data_dir=config.data_dir or None,
        image_size=options.image_size or None,
      )
    except ImportError as error:
      raise ConfigError(str(error)) from error


def made_source(split: str) -> sources.Source:
  """Noise with labels, the same each time: what `smoke` trains on."""
  rng = np.random.default_rng(0 if split == "train" else 1)
  images = rng.integers(0, 256, (72, 12, 12, 3), np.uint8)
  return sources.array_source(images, np.arange(72) % 10, num_classes=10, name="made")


def data(config) -> Data:
  """Opens everything that a training run reads."""
  if config.batch.original_share < 1 and not config.generated.path:
    raise ConfigError(
      f"batch.original_share={config.batch.original_share} asks for generated images, but "
      "generated.path is empty: name the folder of shards (job 'generate' makes one), or set "
      "--config.batch.original_share=1"
    )
  whole = load_split(config, "train")
  test = load_split(config, config.data.test_split)
  train, heldout = whole, test
  if config.data.num_heldout:
    with from_config("data.num_heldout"):
      train, heldout = sources.split_heldout(whole, config.data.num_heldout)
  generated = generated_source(config, whole)
  return Data(train, heldout, test, generated)


def generated_source(config, original: sources.Source) -> sources.Source | None:
  """Opens the generated images, if any, and checks that they fit the originals."""
  path = config.generated.path
  if not path:
    return None
  if path == "made":
    source = made_source("generated")
  elif pathlib.Path(path, "manifest.json").exists():
    source = call(
      "generated", shards.open_shards, path, options={"verify": config.generated.verify}
    )
  else:
    source = convert.open_source(path, num_classes=original.num_classes)
  for field in ("image_shape", "num_classes"):
    ours, theirs = getattr(original, field), getattr(source, field)
    if ours != theirs:
      raise ConfigError(
        f"generated.path={path!r} has {field} {theirs}, {original.name} has {ours}: "
        "make shards of images like the originals"
      )
  return source


def model(config, num_classes: int):
  """The net, with the data set's normalisation inside unless the config gives its own."""
  options = block(config, "model")
  mean, std = normalization.constants(config.data.name)
  options = {"mean": mean, "std": std, **options}
  with from_config("model"):
    if "dtype" in options:
      options["dtype"] = jnp.dtype(options["dtype"])
    return models.create(options.pop("name"), num_classes=num_classes, **options)


def attack(options: Mapping[str, Any], **changes: Any):
  """An attack of a config block, with some of its values replaced."""
  return attacks.make_attack(**{**options, **changes})


def objective(config) -> objectives.OBJECTIVES:
  """The objective with its attack and constants bound."""
  options = block(config, "objective")
  name = options.pop("name")
  check_name("objective.name", name, objectives.OBJECTIVES)
  function = objectives.OBJECTIVES[name]
  known = attacks.recipes.keywords(function)
  check_options("objective", options, known - {"attack", "loss_fn"})
  if "attack" in known:
    with from_config("attack"):
      options["attack"] = attack(block(config, "attack"))
  return functools.partial(function, **options)


def epoch_size(config, source: sources.Source) -> int:
  """Images in an epoch: those of the training set, whatever their origin in a batch."""
  return config.get("epoch_size", 0) or source.num_examples


def duration(config, stem: str, source: sources.Source) -> int:
  """A duration of the config, in steps."""
  return config_lib.steps(
    config, stem, batch_size=config.batch.size, epoch_size=epoch_size(config, source)
  )


def optimizer(config, source: sources.Source) -> optax.GradientTransformation:
  """The optimiser with its schedule."""
  options = block(config, "schedule")
  sizes = {"batch_size": config.batch.size, "epoch_size": epoch_size(config, source)}
  options["warmup_steps"] = config_lib.steps(options, "warmup", **sizes)
  options["milestone_steps"] = [
    config_lib.steps({f"milestone_{unit}": each}, "milestone", **sizes)
    for unit in config_lib.UNITS
    for each in options.get(f"milestone_{unit}", ())
  ]
  for stem in ("warmup", "milestone"):
    for unit in ("epochs", "examples"):
      options.pop(f"{stem}_{unit}", None)
  peak = optim.scaled_learning_rate(options.pop("learning_rate"), config.batch.size)
  total = duration(config, "total", source)
  check_name("schedule.name", options.get("name", "cosine"), optim.SCHEDULES)
  schedule = call("schedule", optim.make_schedule, options=options, peak=peak, total_steps=total)
  options = block(config, "optimizer")
  check_name("optimizer.name", options.get("name", "sgd"), optim.OPTIMIZERS)
  return call("optimizer", optim.make_optimizer, schedule, options=options)


def train_batches(config, sets: Data, mesh) -> Callable[[int], Any]:
  """`step -> iterator` over sharded batches from that step on."""
  options = block(config, "batch")
  options["batch_size"] = options.pop("size")
  del options["microbatch"]
  resident = options["backend"] == "resident"
  if resident:
    options["sharding"] = NamedSharding(mesh, PartitionSpec(parallel.AXIS))
  else:
    options["rows"] = parallel.process_rows(config.batch.size)
  with from_config("batch"):
    make = pipeline.make_train_batches(sets.train, sets.generated, seed=config.seed, **options)
  if resident:
    return make

  def batches(start_step):
    iterator = make(start_step)
    try:
      for batch in iterator:
        yield parallel.shard_batch(batch, mesh)
    finally:
      iterator.close()

  return batches


def make_prepare(config, num_classes: int) -> Callable:
  """Augmentation and targets."""
  options = block(config, "augment")
  return call("augment", augment.make_prepare, options=options, num_classes=num_classes)


def make_step(config, net, sets: Data, mesh) -> Callable:
  """The compiled update of a config, over the devices of a mesh."""
  pieces = devices.num_microbatches(config, net, mesh)
  prepare = make_prepare(config, sets.train.num_classes)
  transformation = optimizer(config, sets.train)
  bound = objective(config)

  def make_update(axis_name):
    gathers = axis_name if net.bn_group_size is None else None
    return step.make_update(
      bound,
      state.make_apply_fn(net, axis_name=gathers),
      transformation,
      prepare=prepare,
      steps_per_epoch=epoch_size(config, sets.train) / config.batch.size,
      ema=block(config, "ema"),
      num_microbatches=pieces,
      num_devices=mesh.devices.size if axis_name is None else 1,
      axis_name=axis_name,
    )

  return parallel.map_step(make_update, mesh, mode=config.parallel, donate=True)


def initial_state(config, net, sets: Data, *, init_from: str = ""):
  """A fresh train state, or one whose weights come from `init_from`."""
  transformation = optimizer(config, sets.train)
  with from_config("model"):
    fresh = state.create_state(net, transformation, sets.train.image_shape, seed=config.seed)
  if not init_from:
    return fresh
  params, model_state = weights.fit(
    weights.read_weights(init_from), net, sets.train.image_shape, name=init_from
  )
  copy = functools.partial(jax.tree.map, jnp.copy)
  return fresh._replace(params=params, model_state=model_state, ema=copy(params))


def eval_source(source: sources.Source, num_examples: int) -> sources.Source:
  """The first `num_examples` of a source; all of them for 0."""
  if not num_examples or num_examples >= source.num_examples:
    return source
  return sources.subset(source, 0, num_examples)
