"""Which keys a block of a config may have, and of what type: the signature of its function says."""

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any

from jax_robust import attacks, job_table, models, objectives, paths, presets
from jax_robust import config as config_lib
from jax_robust.attacks.recipes import make_attack, parameters
from jax_robust.data import augment, pipeline, resident
from jax_robust.errors import ConfigError, check_options, shown
from jax_robust.evaluate import diagnostics
from jax_robust.models.layouts import FROM_WEIGHTS
from jax_robust.runs.blocks import block, from_config
from jax_robust.trackers import TRACKERS
from jax_robust.train import optim, overfitting

Keys = Mapping[str, Parameter]

PROVIDED = ("prepare_batch", "apply_gradients", "num_microbatches", "num_devices")
"""Keywords of `UpdateRecipe.make_update` that the loop provides; the others are options."""

DURATIONS = tuple(
  f"{stem}_{unit}" for stem in ("total", "evaluate", "save", "log") for unit in config_lib.UNITS
)
"""When things happen in a training, in one unit each."""

MOST = 2**31 - 1
"""Of any whole number in a config but the seed: programs count in 32 bits."""

MOST_SEED = 2**32 - 1
"""Of a seed, of which JAX cuts off what is above."""

OPTIONAL = ("attack", "epoch_size", "overfitting")
"""Keys that only some configs have, besides the optional blocks of jobs."""


def known(config: Any, place: tuple[str, ...]) -> Keys:
  """The keywords that the block at a place may hold; none where its keys are fixed, or no one's.

  A block of its own is annotated `dict`. What has no default is needed.

  >>> from jax_robust import presets
  >>> known(presets.base(), ("attack",))["num_restarts"].default
  1
  """
  if not place:
    found = {name: _parameter(name, float, 0.0) for name in DURATIONS}
    found["epoch_size"] = _parameter("epoch_size", int, 0)
    blocks = ("attack", "overfitting", *_optional_blocks())
    return found | {name: _parameter(name, dict, {}) for name in blocks}
  if place == ("evals",):
    return {name: _parameter(name, dict, {}) for name in config.evals}
  if place[0] == "evals" and place[-1] == "attack" and len(place) == 3:
    return _of_attack(block(config.evals.get(place[1], {}), "attack"))
  if place[0] == "evals" and len(place) == 2:
    return _of_evaluator(block(config.evals, place[1]))
  if place == ("overfitting", "attack"):
    return _of_attack(block(block(config, "overfitting"), "attack"))
  if place == ("tracking",):
    return {name: _parameter(name, dict, {}) for name in TRACKERS}
  if place[0] == "tracking" and len(place) == 2 and place[1] in TRACKERS:
    return parameters(TRACKERS[place[1]])
  if len(place) > 1 or place[0] not in _BLOCKS:
    return _of_job(config, place[0]) if len(place) == 1 else {}
  return _BLOCKS[place[0]](block(config, place[0]))


def check_types(config: Any) -> None:
  """Compares every value with what the function of its block, or `presets.base`, takes.

  Raises:
    ConfigError: a value of another type, a block that is none, or a key that is needed.
  """
  base = presets.base()
  for name in base:
    if _is_block(base[name]) and name in config:
      config_lib.check_block(name, config[name])
  for name in ("attack", "overfitting", *_optional_blocks()):
    if name in config:
      config_lib.check_block(name, config[name])
  if "attack" in config.get("overfitting", {}):
    config_lib.check_block("overfitting.attack", config.overfitting["attack"])
    _check_keywords(config, ("overfitting", "attack"))
  for name, value in config.items():
    if name in base and name not in ("select", *DURATIONS) and not _is_block(base[name]):
      _check(name, value, kind_of(name, base[name]))
    elif name in (*DURATIONS, "epoch_size"):
      _check(name, value, known(config, ())[name].annotation)
  for name in presets.plain_blocks():
    for key, value in config[name].items():
      if key in base[name]:
        _check(f"{name}.{key}", value, kind_of(f"{name}.{key}", base[name][key]))
  for name in (*_BLOCKS, *_optional_blocks()):
    if name in config:
      _check_keywords(config, (name,))
  for name, entry in config.evals.items():
    config_lib.check_block(f"evals.{name}", entry)
    if "attack" in entry:
      config_lib.check_block(f"evals.{name}.attack", entry["attack"])
      _check_keywords(config, ("evals", name, "attack"))
    _check_keywords(config, ("evals", name))
  for name in config.tracking:
    config_lib.check_block(f"tracking.{name}", config.tracking[name])
    _check_keywords(config, ("tracking", name))


def _check_keywords(config, place: tuple[str, ...]) -> None:
  """Looks at one function's keywords; unknown ones are named by whoever calls it before the data
  are open, and here where that is later."""
  keys, where = known(config, place), ".".join(place)
  here = functools.reduce(block, place, config)
  for key, value in here.items():
    if key in keys:
      _check(f"{where}.{key}", value, keys[key].annotation)
  if where not in _BLOCKS and place[0] != "evals":
    return  # a job's own block: its function names what is lacking or unknown
  if where == "batch":
    with from_config(where):
      check_options(where, here, keys, error=TypeError)
  lacking = [key for key, each in keys.items() if each.default is each.empty and key not in here]
  if lacking:
    raise ConfigError(
      f"config.{where}: there is no {lacking[0]!r}: set --config.{where}.{lacking[0]}"
    )


def _check(key: str, value: Any, kind: Any) -> None:
  """Raises unless a value fits what is expected."""
  place, _, name = key.rpartition(".")
  where = f"config.{place}: {name}" if place else f"config.{name}"
  if not _fits(value, kind):
    value = value.to_dict() if hasattr(value, "to_dict") else value
    raise ConfigError(f"{where}={shown(value)}: expected a {say(kind)}")
  for each in value if isinstance(value, (tuple, list)) else (value,):
    most = MOST_SEED if key == "seed" else MOST
    if isinstance(each, int) and abs(each) > most:
      raise ConfigError(f"{where}={shown(value)}: expected no whole number beyond {most}")


def say(kind: Any) -> str:
  """A type in words."""
  words = {
    bool: "truth value (true or false)", int: "whole number", float: "number", str: "text",
    dict: "block of keys", types.NoneType: "none",
  }  # fmt: skip
  if kind in words:
    return words[kind]
  arguments = [each for each in typing.get_args(kind) if each is not ...]
  if typing.get_origin(kind) in (types.UnionType, typing.Union):
    return " or ".join(dict.fromkeys(words[each] for each in arguments if each in words))
  if _is_sequence(kind):
    return f"list, each of its items a {say(arguments[0])}" if arguments else "list"
  return getattr(kind, "__name__", str(kind))


def _fits(value: Any, kind: Any) -> bool:
  """Whether a value, which is data, is of an annotated type; whole numbers are numbers, too."""
  if kind is Any or kind is Parameter.empty:
    return True
  if typing.get_origin(kind) in (types.UnionType, typing.Union):
    return any(_fits(value, each) for each in typing.get_args(kind))
  if kind is float:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
  if kind is int:
    whole = isinstance(value, float) and abs(value) <= MOST and value == int(value)
    return (isinstance(value, int) and not isinstance(value, bool)) or whole
  if kind is dict:
    return _is_block(value)
  if _is_sequence(kind):
    each = (*typing.get_args(kind), Any)[0]
    return isinstance(value, (tuple, list)) and all(_fits(item, each) for item in value)
  kind = typing.get_origin(kind) or kind
  return isinstance(value, kind) if isinstance(kind, type) else False


def _is_sequence(kind: Any) -> bool:
  origin = typing.get_origin(kind)
  return isinstance(origin, type) and issubclass(origin, Sequence)


def _is_block(value: Any) -> bool:
  return hasattr(value, "items")


_OTHER_KINDS = {
  "imports": Sequence[str], "evaluation.eps_list": Sequence[float],
  "smoothing.sigma_list": Sequence[float], "smoothing.radii": Sequence[float],
  "data.classes": Sequence[int | str], "evaluation.exit": int | str, "early_exit.aim": int | str,
  "autoattack.version": str | Sequence[str], "early_exit.version": str | Sequence[str],
}  # fmt: skip
"""Of plain keys whose default does not say what they take."""


def kind_of(key: str, default: Any) -> Any:
  """The type of a key whose default is this."""
  if key in _OTHER_KINDS:
    return _OTHER_KINDS[key]
  if isinstance(default, (tuple, list)):
    if paths.is_listed(key) or any(isinstance(item, str) for item in default):
      return Sequence[str]
    return Sequence[float] if default else Sequence[Any]
  return type(default)


def _optional_blocks() -> dict[str, dict[str, Any]]:
  return job_table.blocks(optional=True)


def _parameter(name: str, kind: Any, default: Any = Parameter.empty) -> Parameter:
  return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)


_NAME = {"name": _parameter("name", str)}


def _without(keys: Keys, *names: str) -> dict[str, Parameter]:
  return {name: each for name, each in keys.items() if name not in names}


def _merged(name: str, options: Mapping[str, Any]) -> dict[str, Parameter]:
  """The keywords of all functions of a block; of two with one name, the last one's."""
  found: dict[str, Parameter] = {}
  for source in _SOURCES[name](options):
    found |= parameters(source)
  return found


def _of_model(options: Mapping[str, Any]) -> Keys:
  """The fields of a net; of all nets where weights are to say which it is."""
  fields = [field for net in _SOURCES["model"](options) for field in dataclasses.fields(net)]
  found = {
    each.name: _parameter(
      each.name,
      each.type,
      None if each.default is dataclasses.MISSING else each.default,
    )
    for each in fields
  }
  return _without(found, "parent", "name", "bn_axis_name") | _NAME


def _of_objective(options: Mapping[str, Any]) -> Keys:
  """The constants of a method; its attack is another block."""
  return _without(_merged("objective", options), "attack", "loss_fn", *PROVIDED) | _NAME


def _of_attack(options: Mapping[str, Any]) -> Keys:
  """The keywords of `make_attack`, and of the attack and the ball that it makes."""
  found = _without(_merged("attack", options), "ball", "loss_fn") | parameters(make_attack)
  found |= {"step_sizes": _parameter("step_sizes", dict, None)}
  return found | _NAME | {"eps": _parameter("eps", float)}


def _of_evaluator(options: Mapping[str, Any]) -> Keys:
  """The keywords of an evaluator; the radius is its attack's."""
  found = _merged("evals", options)
  changed = {"attack": _parameter("attack", dict, {}), "sigma": _parameter("sigma", float, 0.0)}
  found = {name: changed.get(name, each) for name, each in found.items() if name != "eps"}
  return {**found, "evaluator": _parameter("evaluator", str, "")}


def _of_overfitting(options: Mapping[str, Any]) -> Keys:
  """What the detector of overfitting measures and how it judges that."""
  return _without(_merged("overfitting", options), "eps", "attack") | {
    "attack": _parameter("attack", dict, {}),
    "num_images": _parameter("num_images", int, 0),
  }


def _of_schedule(options: Mapping[str, Any]) -> Keys:
  """The keywords of `make_schedule`, durations in any unit."""
  found = _without(_merged("schedule", options), "peak", "total_steps")
  for unit in config_lib.UNITS:
    found[f"warmup_{unit}"] = _parameter(f"warmup_{unit}", float, 0.0)
    found[f"milestone_{unit}"] = _parameter(f"milestone_{unit}", Sequence[float], ())
  return found | {"learning_rate": _parameter("learning_rate", float)}


def _of_batch(options: Mapping[str, Any]) -> Keys:
  """The keywords of a backend."""
  provided = ("batch_size", "seed", "sharding", "start_step", "num_steps", "rows")
  needed = {"size": int, "microbatch": int, "backend": str}
  return _without(_merged("batch", options), *provided) | {
    name: _parameter(name, kind) for name, kind in needed.items()
  }


_BLOCKS: dict[str, Callable[[Mapping[str, Any]], Keys]] = {
  "attack": _of_attack,
  "augment": lambda options: _without(_merged("augment", options), "num_classes"),
  "batch": _of_batch,
  "ema": lambda options: _merged("ema", options),
  "model": _of_model,
  "objective": _of_objective,
  "overfitting": _of_overfitting,
  "optimizer": lambda options: _without(_merged("optimizer", options), "updates_per_batch"),
  "schedule": _of_schedule,
}
"""The blocks that are keywords of a function, and which."""


def _known(table: Mapping[str, Any], options: Mapping[str, Any], key: str = "name") -> list[Any]:
  """The entry of a table that a block names, in a list that is empty where there is none."""
  name = _text(options, key)
  return [table[name]] if name in table else []


def _objective_sources(options: Mapping[str, Any]) -> list[Any]:
  """The method: an update goes before an objective of the same name."""
  updates = [recipe.make_update for recipe in _known(objectives.UPDATES, options)]
  return updates or _known(objectives.OBJECTIVES, options)


_SOURCES: dict[str, Callable[[Mapping[str, Any]], Sequence[Any]]] = {
  "attack": lambda options: [
    *_known(attacks.ATTACKS, options),
    *_known(attacks.BALLS, {"norm": _text(options, "norm") or "linf"}, "norm"),
  ],
  "augment": lambda options: [augment.make_prepare],
  "batch": lambda options: [
    resident.make_resident if options.get("backend") == "resident" else pipeline.train_batches
  ],
  "ema": lambda options: [optim.ema_update],
  "evals": lambda options: _known(diagnostics.KNOWN, options, "evaluator"),
  "model": lambda options: (
    [*models.MODELS.values()]
    if _text(options, "name") == FROM_WEIGHTS
    else _known(models.MODELS, options)
  ),
  "objective": _objective_sources,
  "overfitting": lambda options: [diagnostics.attacked_exits, overfitting.judge],
  "optimizer": lambda options: [optim.make_optimizer],
  "schedule": lambda options: [optim.make_schedule],
}
"""The functions and classes whose keywords a block holds."""


def sources(config: Any, place: tuple[str, ...]) -> Sequence[Any]:
  """The functions and classes, if any, whose docstrings tell what the keys of a block mean."""
  options = functools.reduce(block, place, config)
  if place[-1:] == ("attack",):
    return [*_SOURCES["attack"](options), make_attack, attacks]
  if place[:1] == ("tracking",) and len(place) == 2:
    return [TRACKERS[place[1]]]
  if place and place[0] in _SOURCES:
    found = _SOURCES[place[0]](options)
    return [base for each in found for base in _bases(each)]
  jobs = [each for each in job_table.JOBS.values() if place and each.block == place[0]]
  return [source for job in jobs if job.sources for source in job_table.load(job.sources)(options)]


def _bases(source: Any) -> Sequence[Any]:
  """A class and those that it is made from, whose fields it has; a function alone."""
  if not isinstance(source, type):
    return [source]
  return [base for base in source.__mro__ if base.__module__.startswith("jax_robust")] or [source]


def _of_job(config, name: str) -> Keys:
  """The keywords of the optional block of a job, if it has functions of its own."""
  for job in job_table.JOBS.values():
    if job.block == name and job.keywords:
      plain = {key: _parameter(key, kind_of(f"{name}.{key}", v), v)
               for key, v in job.defaults.items()}  # fmt: skip
      return {**job_table.load(job.keywords)(block(config, name)), **plain}
  return {}


def _text(options: Mapping[str, Any], key: str) -> str:
  """A name in a block; "" where something else stands there."""
  value = options.get(key, "")
  return value if isinstance(value, str) else ""
