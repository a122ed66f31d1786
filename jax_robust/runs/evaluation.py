"""What a config's `evals` measure: evaluators with their options bound, run over a whole source."""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jax_robust import bars
from jax_robust.attacks.non_finite import lost_points
from jax_robust.attacks.recipes import keywords
from jax_robust.data.evaluation import eval_batches
from jax_robust.data.sources import Source
from jax_robust.errors import ConfigError, check_eps, check_sigma, first_few, warn
from jax_robust.evaluate import diagnostics, evaluators, scoring
from jax_robust.runs import build, features, nets, weights
from jax_robust.runs.blocks import block, check_name, check_options, from_config
from jax_robust.train import parallel


class AttackSetting(NamedTuple):
  """The ball that an evaluation attacks in, and the attack if the config names one."""

  name: str
  norm: str
  eps: float
  attack: dict[str, Any]


class Scoring(NamedTuple):
  """An evaluation over all images of a source, built and traced.

  Attributes:
    score: `(params, model_state, names=measures, eps={}) -> columns`: `names` are columns of
      `scoring.make_scorer`, with which those of `scoring.lost` come, and are warned of; `eps`
      replaces the radius of evaluators by name. It compiles once, whatever the weights and radii.
    measures: the columns of one number per image: an evaluator's name, or `NAME/0` and so on where
      it measures several.
  """

  score: Callable[..., dict[str, np.ndarray]]
  measures: tuple[str, ...]


def make_evaluators(config: Any) -> dict[str, functools.partial]:
  """The evaluators of a config, by the names it gives them.

  Raises:
    ConfigError: an unknown evaluator or option, with the near miss; no sigma for noise.
  """
  return {name: _make_evaluator(config, name) for name in config.evals}


def check_select(config: Any, measures: Collection[str] = ()) -> None:
  """Raises ConfigError unless `select` names something that is measured.

  Args:
    config: of the run.
    measures: what is; () where only the entries are known, of which one may measure several values.
  """
  name = config.select[0]
  entry = str(name).partition("/")[0]
  if not measures and name not in config.evals and entry in config.evals:
    evaluator = diagnostics.KNOWN[config.evals[entry].evaluator]
    if diagnostics.subject_of(evaluator) != "logits_fn":  # how many it measures, the net says
      return
  check_name("select", name, measures or config.evals)


def _make_evaluator(config, name: str) -> functools.partial:
  """One evaluator, its attack built; an option that may be traced keeps its keyword."""
  key, options = f"evals.{name}", block(config.evals, name)
  kind = options.pop("evaluator", "")
  check_name(f"{key}.evaluator", kind, diagnostics.KNOWN)
  function = diagnostics.KNOWN[kind]
  known = keywords(function)
  check_options(key, options, known - {"eps"})
  if "attack" in known:
    attack = options.get("attack") or {}
    if "eps" not in attack:
      raise ConfigError(f"config.{key}.attack needs name, norm and eps, such as presets.pgd40()")
    build.attack(f"{key}.attack", attack)
    options["attack"] = lambda eps: build.attack(f"{key}.attack", attack, eps=eps)
    options["eps"] = attack["eps"]
  if "aim" in options:
    with from_config(key):
      diagnostics.read_aim(options["aim"])
  if "sigma" in known:
    options["sigma"] = options.get("sigma") or noise_level(config)
    if not options["sigma"]:
      raise ConfigError(f"config.{key}.sigma is 0, and the objective has no sigma: set it")
    inherited = "smoothing" if config.smoothing.sigma else "objective"
    with from_config(key if config.evals[name].get("sigma") else inherited):
      check_sigma(options["sigma"])
  return functools.partial(function, **options)


def check_units(config: Any) -> None:
  """Raises ConfigError where a radius or noise level that jobs take is none in units of images."""
  setting = attack_setting(config)
  norm = config.autoattack.norm or (setting.norm if setting else "linf")
  for key, radii in (
    ("evaluation.eps_list", config.evaluation.eps_list), ("autoattack.eps", [config.autoattack.eps])
  ):  # fmt: skip
    for eps in radii:
      with from_config(key):
        check_eps(eps, norm)
  for sigma in (config.smoothing.sigma, *config.smoothing.sigma_list):
    if sigma:
      with from_config("smoothing"):
        check_sigma(sigma)


def noise_level(config: Any) -> float:
  """`smoothing.sigma`, or for 0 that of the objective; 0 if neither says one."""
  return config.smoothing.sigma or config.objective.get("sigma", 0.0)


def attack_setting(config: Any) -> AttackSetting | None:
  """The `attacked` entry of evals that `select` names, or else the first one."""
  names = sorted(config.evals, key=lambda name: (name != config.select[0], name))
  for name in names:
    if config.evals[name].evaluator == "attacked":
      attack = block(config.evals[name], "attack")
      return AttackSetting(name, attack.get("norm", "linf"), float(attack["eps"]), attack)
  return None


def autoattack_ball(config: Any) -> tuple[str, float]:
  """Norm and radius of AutoAttack: those of its block, or else those of the attack in `evals`.

  Raises:
    ConfigError: neither says one.
  """
  setting = attack_setting(config)
  norm = config.autoattack.norm or (setting.norm if setting else "")
  eps = config.autoattack.eps or (setting.eps if setting else 0.0)
  if not norm or not eps:
    raise ConfigError("config.evals has no attack: set --config.autoattack.norm and .eps")
  with from_config("autoattack"):
    check_eps(eps, norm)
  return norm, float(eps)


def _warn_of_lost(
  key: str,
  columns: Mapping[str, np.ndarray],
  lost: Collection[str],
  bound: Mapping[str, functools.partial],
) -> None:
  """Warns of images, as they are or attacked, whose logits were not finite, of each evaluator."""
  for column in lost:
    if not columns[column].any():
      continue
    name, points = column.removesuffix("/lost"), columns[column].astype(int)
    said = lost_points(points, columns["id"])
    if name in bound and bound[name].func is evaluators.clean:
      ids = columns["id"][np.flatnonzero(points)]
      said = f"logits are NaN or infinite for images {first_few(ids)}, which count as wrong"
    warn(f"config.{key}.{name}: {said}")


def _batches(source: Source, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
  """This process's images, with a bar."""
  share = jax.process_index(), jax.process_count()
  batches = eval_batches(source, batch_size=batch_size, process=share)
  num_images = -(-source.num_examples // share[1])
  return bars.counted(batches, "evaluating", num_images, lambda each: int(each["mask"].sum()))


def make_score(
  config: Any,
  net: Any,
  source: Source,
  *,
  mesh: Mesh | None = None,
  bound: Mapping[str, functools.partial] | None = None,
  key: str = "evals",
) -> Scoring:
  """Builds and traces an evaluation over all images of a source.

  Args:
    config: of the run.
    net: the module.
    source: images and labels.
    mesh: the devices; by default all.
    bound: evaluators by name, their options bound; by default those of the config's `evals`.
    key: the block of the config that they are from, for messages.

  Raises:
    ConfigError: what can't be evaluated, by its key.
  """
  batch_size = parallel.padded_batch_size(config.evaluation.batch_size, source.num_examples)
  mesh = mesh or parallel.data_mesh(batch_size)
  bound = make_evaluators(config) if bound is None else bound
  precision = config.evaluation.precision
  make = functools.partial(nets.make_logits_fn, config, net, precision=precision)
  makers = {
    "outputs_fn": nets.make_outputs_fn,
    "blocks_fn": features.make_blocks_fn,
    "denoise_fn": nets.make_outputs_fn,
  }
  subjects = {name: diagnostics.subject_of(each.func) for name, each in bound.items()}
  others = {
    name: functools.partial(makers[subject], net, precision=precision)
    for name, subject in subjects.items()
    if subject in makers
  }
  body = scoring.make_scorer(make, bound, others)
  scorer = parallel.map_step(lambda axis_name: body, mesh, mode=config.parallel, per_row=True)
  radii = {name: each.keywords["eps"] for name, each in bound.items() if "eps" in each.keywords}
  rng = jax.random.key_data(jax.random.key(config.seed))

  def weights_of(params, model_state, eps):
    options = {name: {"eps": jnp.float32(value)} for name, value in (radii | eps).items()}
    return scoring.Weights(params, model_state, rng, options)

  batch = {name: jax.ShapeDtypeStruct((batch_size,), np.int32) for name in ("label", "id")}
  batch["image"] = jax.ShapeDtypeStruct((batch_size, *source.image_shape), np.uint8)
  with from_config(key):
    params, model_state = weights.shapes(net, source.image_shape)
    traced = scorer if config.parallel == "jit" else body
    shapes = jax.eval_shape(
      traced,
      parallel.abstract(weights_of(params, model_state, {}), mesh, PartitionSpec()),
      parallel.abstract(batch, mesh, PartitionSpec(parallel.AXIS)),
    )

  measures, lost = scoring.measures(shapes), scoring.lost(shapes)

  def score(
    params,
    model_state,
    names: Collection[str] = measures,
    eps: dict[str, float] | None = None,
  ):
    columns = scoring.score(
      scorer,
      parallel.replicate(weights_of(params, model_state, eps or {}), mesh),
      _batches(source, batch_size),
      place=functools.partial(parallel.shard_batch, mesh=mesh),
      names=(*names, *lost),
    )
    _warn_of_lost(key, columns, lost, bound)
    return columns

  return Scoring(score, measures)
