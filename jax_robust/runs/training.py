"""A training built from its config: data, net, optimiser, update, state and batches."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_robust import attacks, objectives
from jax_robust import config as config_lib
from jax_robust.data import augment, columns, mixture, pipeline, sources
from jax_robust.errors import ConfigError, check_eps, check_sigma
from jax_robust.runs import build, devices, keys, weights
from jax_robust.runs.blocks import block, call, check_name, check_options, from_config
from jax_robust.train import optim, parallel, state, step
from jax_robust.types import Update, UpdateRecipe


class Training(NamedTuple):
  """Everything that the loop needs of a config, built and traced but not compiled.

  Attributes:
    sets: where the images come from.
    net: the module.
    mesh: the devices.
    make_state: `() -> TrainState` at step 0, on the devices, from the config's seed.
    step_fn: the compiled update.
    make_batches: `step -> iterator` over sharded batches from that step on.
  """

  sets: build.Data
  net: Any
  mesh: Mesh
  make_state: Callable[[], state.TrainState]
  step_fn: Callable
  make_batches: Callable[[int], Any]


class _Number(NamedTuple):
  """A training set of which only the size is known, or supposed."""

  num_examples: int


def make_training(config: Any, *, mesh: Mesh | None = None) -> Training:
  """Opens the data of a training and builds its step; traces it, so that mistakes show at once.

  Args:
    config: of the run.
    mesh: the devices; by default all that fit the batch.

  Raises:
    ConfigError, DataFileError: what can't be used, by its key or file.
  """
  sets = build.data(config)
  soft = _has_probabilities(config, sets)
  _check_targets(config, sets, soft)
  net = build.model(config, sets.train.num_classes)
  mesh = mesh or devices.make_mesh(config, net)
  method, optimizer = training_method(config), make_optimizer(config, sets.train)
  make_update = _update_maker(config, net, sets, mesh, method, optimizer)
  make_state = functools.partial(_fresh_state, config, net, sets, method, optimizer)
  shapes = jax.eval_shape(make_state)
  specs = parallel.state_specs(shapes)
  step_fn = parallel.map_step(
    make_update, mesh, mode=config.parallel, state_specs=specs, donate=True
  )
  with from_config("objective"):
    # What jit traces here it need not trace again; under pmap, the trace of one device has to do.
    traced = step_fn if config.parallel == "jit" else make_update(None)
    batch = _batch_shapes(sets.train, config.batch.size, soft)
    jax.eval_shape(
      traced,
      parallel.abstract(shapes, mesh, specs),
      parallel.abstract(batch, mesh, PartitionSpec(parallel.AXIS)),
    )
  return Training(
    sets,
    net,
    mesh,
    lambda: parallel.place_state(make_state(), mesh),
    step_fn,
    batch_maker(config, sets, mesh),
  )


def with_weights_of(config: Any, current: state.TrainState, training: Training) -> Any:
  """A train state with the weights of a workdir or file, `config.init_from`."""
  reference = config.init_from
  weights.check_classes(pathlib.Path(reference), training.sets.train)
  params, model_state = weights.fit(
    weights.read_init(config), training.net, training.sets.train.image_shape, name=reference
  )
  copy = functools.partial(jax.tree.map, jnp.copy)
  current = current._replace(params=params, model_state=model_state, ema=copy(params))
  return parallel.place_state(current, training.mesh)


def training_method(config) -> UpdateRecipe:
  """What `config.objective` names, an objective or an update, with its attack and constants bound.

  Raises:
    ConfigError: an unknown name or option, with the near miss.
  """
  options = block(config, "objective")
  name = options.pop("name")
  check_name("objective.name", name, (*objectives.OBJECTIVES, *objectives.UPDATES))
  recipe = objectives.UPDATES.get(name)
  function = recipe.make_update if recipe else objectives.OBJECTIVES[name]
  known = attacks.recipes.keywords(function)
  check_options("objective", options, known - {"attack", "loss_fn", *keys.PROVIDED})
  if "sigma" in options:
    with from_config("objective"):
      check_sigma(options["sigma"])
  if "eps" in options:
    with from_config("objective"):
      check_eps(options["eps"], "linf")
  if "attack" in known:
    if "attack" not in config:
      raise ConfigError(f"objective {name!r} needs the block 'attack', and the config has none")
    options["attack"] = build.attack("attack", block(config, "attack"))

  def bind(function) -> Any:
    return functools.partial(function, **options)

  if recipe:
    method = UpdateRecipe(*map(bind, recipe))
    with from_config("objective"):
      method.updates_per_batch()  # an update checks its options here, before the data are open
    return method
  return UpdateRecipe(functools.partial(step.objective_update, bind(function)))


def _update_maker(config, net, sets, mesh, method, optimizer) -> Callable[[str | None], Update]:
  """`axis_name -> update` of a config."""
  prepare_batch = functools.partial(
    step.prepare_batch,
    prepare=make_prepare(config, sets.train.num_classes),
    steps_per_epoch=epoch_size(config, sets.train) / config.batch.size,
  )
  apply_gradients = functools.partial(
    step.apply_gradients, optimizer=optimizer, ema=block(config, "ema")
  )
  num_microbatches = devices.num_microbatches(config, net, mesh)
  cuts = "num_microbatches" in attacks.recipes.keywords(method.make_update)
  if num_microbatches > 1 and not cuts:
    raise ConfigError(
      f"batch.microbatch={config.batch.microbatch}: objective {config.objective.name!r} makes its "
      "own updates and can't cut a batch; set batch.microbatch=0"
    )

  def make_update(axis_name):
    gathers = axis_name if getattr(net, "bn_group_size", 0) is None else None
    num_devices = mesh.devices.size if axis_name is None else 1
    cut = {"num_microbatches": num_microbatches, "num_devices": num_devices} if cuts else {}
    return method.make_update(
      state.make_apply_fn(net, axis_name=gathers),
      prepare_batch=prepare_batch,
      apply_gradients=functools.partial(apply_gradients, axis_name=axis_name),
      **cut,
    )

  return make_update


def _fresh_state(config, net, sets, method, optimizer) -> state.TrainState:
  """The train state at step 0."""
  image_shape = sets.train.image_shape
  with from_config("model"):
    return state.create_state(
      net,
      optimizer,
      state.example_inputs(net, image_shape),
      seed=config.seed,
      carry=method.init_carry(image_shape, config.batch.size),
    )


def _has_probabilities(config, sets: build.Data) -> bool:
  """Whether probabilities are trained on, in place of labels."""
  share = config.batch.original_share
  return mixture.has_probabilities(sets.train, sets.generated, original_share=share)


def _check_targets(config, sets: build.Data, soft: bool) -> None:
  """Raises ConfigError where an objective that needs labels would get probabilities."""
  name = config.objective.name
  if soft and name in objectives.NEED_LABELS:
    raise ConfigError(
      f"config.objective.name={name!r} needs labels, and what is trained on are the probabilities "
      f"of {sets.train.name}; {', '.join(objectives.NEED_LABELS)} can't take them; choose another "
      "objective, or a file of labels alone (data.labels)"
    )


def _batch_shapes(source: sources.Source, size: int, soft: bool) -> dict[str, jax.ShapeDtypeStruct]:
  """A batch as the pipelines deliver it, without its content."""
  kinds: dict[str, Any] = {
    "image": np.uint8,
    "label": np.int32,
    "generated": np.bool_,
    "row": np.int32,
  }
  shapes = {"image": (size, *source.image_shape)}
  if soft:
    kinds[columns.PROBABILITIES] = np.float32
    shapes[columns.PROBABILITIES] = (size, source.num_classes)
  return {
    name: jax.ShapeDtypeStruct(shapes.get(name, (size,)), kind) for name, kind in kinds.items()
  }


def epoch_size(config, source: sources.Source | _Number) -> int:
  """Images in an epoch: those of the training set, whatever their origin in a batch."""
  return config.get("epoch_size", 0) or source.num_examples


def duration(config, stem: str, source: sources.Source | _Number) -> int:
  """A duration of the config, in steps."""
  return config_lib.steps(
    config, stem, batch_size=config.batch.size, epoch_size=epoch_size(config, source)
  )


def make_optimizer(config, source: sources.Source | _Number) -> optax.GradientTransformation:
  """The optimiser with its schedule, which counts batches."""
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
  with from_config("schedule"):
    peak = optim.scaled_learning_rate(options.pop("learning_rate"), config.batch.size)
  total = duration(config, "total", source)
  if not total:
    raise ConfigError("the run has no step: set --config.total_steps (or _epochs, or _examples)")
  check_name("schedule.name", options.get("name", "cosine"), optim.SCHEDULES)
  schedule = call("schedule", optim.make_schedule, options=options, peak=peak, total_steps=total)
  options = block(config, "optimizer")
  check_name("optimizer.name", options.get("name", "sgd"), optim.OPTIMIZERS)
  count = training_method(config).updates_per_batch()
  return call("optimizer", optim.make_optimizer, schedule, options=options, updates_per_batch=count)


def check_schedule(config) -> None:
  """Builds the optimiser before the data are open: refuses what would fit no number of images.

  Raises:
    ConfigError: such a schedule, or an optimiser's option.
  """
  errors = []
  for power in range(-10, 31):  # an epoch of a thousandth of a step, and of a thousand million
    try:
      make_optimizer(config, _Number(max(int(config.batch.size * 2.0**power), 1)))
      break
    except ConfigError as error:
      errors.append(error)
  else:
    raise errors[10]  # of an epoch of one step, so that epochs can be read as steps
  for stem in ("evaluate", "save", "log"):
    duration(config, stem, _Number(config.batch.size))


def batch_maker(config, sets: build.Data, mesh: Mesh) -> Callable[[int], Any]:
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
