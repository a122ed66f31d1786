"""What jobs on nets with several exits share: outputs of all exits, held-out images, thresholds."""

import functools
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust import bars, early_exit, paths
from jax_robust import config as config_lib
from jax_robust.atomic import read_bytes
from jax_robust.attacks.non_finite import lost_points
from jax_robust.data import draws
from jax_robust.data.evaluation import as_floats, eval_batches
from jax_robust.data.sources import Source
from jax_robust.early_exit.budget import check_several_exits
from jax_robust.errors import ConfigError, check_name, check_probability, near_path, shown, warn
from jax_robust.nets.exits import exits_of
from jax_robust.runs import belonging, build, nets, weights, workdir
from jax_robust.runs.blocks import from_config
from jax_robust.train import metrics
from jax_robust.types import Attack, fold_ids

RULES = ("budget", "common", "risk")
"""How thresholds are chosen by held-out images: `early_exit.choose_thresholds`,
`early_exit.common_threshold`, `early_exit.risk_control`."""


class Thresholds(NamedTuple):
  """The thresholds of a deployed model.

  Attributes:
    values: float32, one for each exit but the last.
    chosen: by what: the rule, its options and the number of held-out images, or the file they were
      read from.
  """

  values: np.ndarray
  chosen: dict[str, Any]


def check_heldout(config: Any) -> None:
  """Raises ConfigError where thresholds must be chosen, and no images were held out for that."""
  if config.early_exit.thresholds:
    return
  if not config.data.num_heldout:
    raise ConfigError(
      "config.data.num_heldout=0: the thresholds of early exits are chosen by held-out images, "
      "which the net was not trained on. Train with --config.data.num_heldout=5000 or so, or name "
      "the results/early_exit.json of a run that did: --config.early_exit.thresholds"
    )
  options = config.early_exit
  with from_config("early_exit"):
    check_name("rule", options.rule, RULES)
    check_probability(max_drop=options.max_drop, delta=options.delta, alpha=options.alpha)
    early_exit.target_fractions(options.budget, 2)


_HELD_OUT_BY = ("train_split", "num_heldout", "classes", "labels", "label_noise", "test_share")
"""Keys of `data` that decide which images of a set are held out."""


def _check_never_trained(config: Any) -> None:
  """Raises ConfigError where a run that the weights are of has held out other images of the set.

  Of weights without a config it is not known.
  """
  folder = pathlib.Path(config.init_from)
  if not (folder / "config.json").is_file():
    return
  there = config_lib.from_data(workdir.read_config(folder)).data
  rules = [draws.rule_of(data.get("draw", draws.FIRST), data.name) for data in (there, config.data)]
  changed = [key for key in _HELD_OUT_BY if there.get(key) != config.data[key]]
  changed += ["draw"] if rules[0] != rules[1] else []
  if there.name == config.data.name and changed:
    raise ConfigError(
      f"config.init_from={config.init_from!r} held out other images than "
      f"{', '.join(f'data.{key}' for key in changed)} of this config, and may have been trained on "
      "these: thresholds are chosen by images that the net has not seen; take the values of its "
      "config.json"
    )


def count_exits(config: Any, subject: nets.Opened) -> int:
  """How many exits a net has.

  Raises:
    ConfigError: fewer than two.
  """
  outputs_fn = nets.make_outputs_fn(subject.net, *subject.variables)
  num_exits = _count(outputs_fn, subject.source.image_shape)
  with from_config(f"model.name={config.model.name!r}"):
    check_several_exits(num_exits)
  return num_exits


def _count(outputs_fn: Callable, image_shape: Any) -> int:
  """How many exits there are, by a trace."""
  image = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
  return len(jax.eval_shape(lambda x: exits_of(outputs_fn(x)), image))


def heldout_images(config: Any) -> Source:
  """The held-out training images of a run, as they are: without augmentation."""
  return build.hold_out(config, build.load_train(config))[1]


def training_images(config: Any) -> Source:
  """The images that a run trains on, as they are."""
  whole = build.load_train(config)
  return build.hold_out(config, whole)[0] if config.data.num_heldout else whole


ALONE = "macs"
"""The unit of `costs_of` that leaves earlier exits out, and so may fall from one to the next."""


def costs_of(subject: nets.Opened, num_exits: int) -> dict[str, list[float]]:
  """What leaving at each exit costs, by unit; of a net that does not tell, exits passed."""
  if not hasattr(subject.net, "costs"):
    return {"exits_passed": [float(k + 1) for k in range(num_exits)]}
  each = subject.net.costs(subject.source.image_shape)
  return {"flops": [cost.flops for cost in each], ALONE: [cost.macs for cost in each]}


def costs_passed(costs: dict[str, list[float]]) -> dict[str, list[float]]:
  """Those of `costs_of` that count earlier exits, which run wherever several exits are asked."""
  return {unit: values for unit, values in costs.items() if unit != ALONE}


def make_predict(config: Any, subject: nets.Opened) -> Callable[[Any], tuple[jax.Array, ...]]:
  """`predict(x)`: the logits of all exits, compiled, with the weights as arguments."""
  make = nets.outputs_of_weights(config, subject.net)
  compiled = jax.jit(lambda variables, x: exits_of(make(*variables)(x)))
  return functools.partial(compiled, subject.variables)


def make_change(config: Any, subject: nets.Opened, attack: Attack) -> Callable:
  """`(x, labels, ids) -> x_adv` of an attack on all exits, compiled; keys are folded with ids."""
  make = nets.outputs_of_weights(config, subject.net)
  key = jax.random.key(config.seed)

  @jax.jit
  def change(variables, x, labels, ids):
    keys = fold_ids(key, ids)
    return attack(make(*variables), x, labels, keys)

  return functools.partial(change, subject.variables)


class Scored(NamedTuple):
  """All exits' logits of images.

  Attributes:
    outputs: `[exits, n, k]`.
    labels: `[n]`.
    num_lost: of changed images, how many had logits that were NaN or infinite: those of the image
      itself stand in their place.
    images: `[n, ...]` float32 in [0, 1], as they were scored, where they were to be kept.
  """

  outputs: np.ndarray
  labels: np.ndarray
  num_lost: int = 0
  images: np.ndarray | None = None

  @property
  def exits(self) -> tuple[jax.Array, ...]:
    """The logits of each exit, `[n, k]`, as a net returns them."""
    return tuple(map(jnp.asarray, self.outputs))


def score(
  predict: Callable,
  source: Source,
  *,
  batch_size: int,
  change: Any = None,
  keep_images: bool = False,
) -> Scored:
  """The logits of all exits for all images of a source.

  Args:
    predict: as `make_predict` returns it.
    source: images and labels.
    batch_size: rows of a batch; the last one is filled up.
    change: `(x, labels, ids) -> x`, such as an attack; default none.
    keep_images: whether the images, changed, stand in what is returned.
  """
  outputs, labels, images, num_lost = [], [], [], 0
  batches = eval_batches(source, batch_size=min(batch_size, source.num_examples))
  num_images = source.num_examples
  for batch in bars.counted(batches, "scoring", num_images, lambda each: int(each["mask"].sum())):
    x, mask = as_floats(batch["image"]), batch["mask"]
    moved = x
    if change is None:
      found = np.stack(predict(jnp.asarray(x)))
    else:
      moved = change(x, batch["label"], np.maximum(batch["id"], 0))
      found, lost = attacked_outputs(predict, x, moved, batch["id"], mask)
      num_lost += lost
    outputs.append(found[:, mask])
    labels.append(batch["label"][mask])
    if keep_images:
      images.append(np.asarray(moved)[mask])
  kept = np.concatenate(images) if images else None
  return Scored(np.concatenate(outputs, axis=1), np.concatenate(labels), num_lost, kept)


def attacked_outputs(
  predict: Callable, x: Any, x_adv: Any, ids: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, int]:
  """The logits of all exits at attacked images `[exits, b, k]`, and how many of these were lost.

  Where the logits of any exit are not finite the point is no attack, which is warned of, and those
  of the image stand in its place.

  Args:
    predict: as `make_predict` returns it.
    x, x_adv: images and attacked images, `[b, ...]`.
    ids: of the images, for the warning.
    mask: which rows are images, and do not only fill up a batch.
  """
  found = np.stack(predict(jnp.asarray(x_adv)))
  lost = ~np.isfinite(found).all(axis=(0, 2)) & mask
  if lost.any():
    warn(lost_points(lost.astype(int), ids))
    found = np.where(lost[:, None], np.stack(predict(jnp.asarray(x))), found)
  return found, int(lost.sum())


def confidences_of(scored: Scored) -> np.ndarray:
  """The confidence of each exit `[exits, n]`."""
  return np.asarray(early_exit.confidences(scored.exits))


def find_thresholds(
  config: Any, subject: nets.Opened, predict: Callable, num_exits: int
) -> tuple[Thresholds, np.ndarray | None]:
  """The thresholds of the file that the config names, or else those of its rule.

  Returns:
    The thresholds, and the confidences of the held-out images, `[exits, m]`; None where there are
    no such images.

  Raises:
    ConfigError: the file is of another model; nothing was held out.
  """
  check_heldout(config)
  options, confidences, heldout = config.early_exit, None, None
  if config.data.num_heldout:
    if subject.info["checkpoint"] == weights.INIT_FROM:
      _check_never_trained(config)
    heldout = score(predict, heldout_images(config), batch_size=config.evaluation.batch_size)
    confidences = confidences_of(heldout)
  if options.thresholds:
    values = read_thresholds(options.thresholds, subject.info["sha256"], num_exits)
    return Thresholds(values, {"file": options.thresholds}), confidences
  assert heldout is not None and confidences is not None  # `check_heldout`
  values, chosen = _choose(options, heldout, confidences, costs_of(subject, num_exits))
  chosen = {"rule": options.rule, "num_heldout": len(heldout.labels), **chosen}
  return Thresholds(values, chosen), confidences


def _choose(options, heldout: Scored, confidences, costs) -> tuple[np.ndarray, dict[str, Any]]:
  """Thresholds by the rule of the config, and its options, for the result."""
  if options.rule == "common":
    unit, values = next(iter(costs.items()))
    found = early_exit.common_threshold(
      heldout.outputs, heldout.labels, values, max_drop=options.max_drop
    )
    return found.thresholds, {
      "max_drop": options.max_drop, "unit": unit, "heldout_cost": found.cost,
      "heldout_accuracy": found.accuracy,
    }  # fmt: skip
  if options.rule == "risk":
    controlled = early_exit.risk_control(
      heldout.outputs, heldout.labels, delta=options.delta, alpha=options.alpha
    )
    return controlled.thresholds, {
      "delta": options.delta, "alpha": options.alpha, "certified": controlled.certified,
      "heldout_risk": controlled.risk, "p_value": controlled.p_value,
    }  # fmt: skip
  fractions = early_exit.target_fractions(options.budget, heldout.outputs.shape[0])
  return early_exit.choose_thresholds(confidences, fractions), {"budget": options.budget}


def thresholds_sha256(values: np.ndarray, weights_sha256: str) -> str:
  """The digest that thresholds are written with: theirs, as float32, and the weights'."""
  return hashlib.sha256(weights_sha256.encode() + np.asarray(values, "<f4").tobytes()).hexdigest()


def read_thresholds(path: str, sha256: str, num_exits: int) -> np.ndarray:
  """The thresholds that a `results/early_exit.json` says, for the weights they were chosen for.

  Raises:
    ConfigError: it is no such file, or of other weights; thresholds that are not those that were
      written (one of an earlier version has no digest, which is said), or another number of them
      than the net needs.
  """
  key = f"config.early_exit.thresholds={path!r}"
  try:
    found = json.loads(read_bytes(path))
    values, theirs = found["deployed"]["thresholds"], found["weights"]["sha256"]
    expected = found["deployed"].get("thresholds_sha256")
  except OSError as error:
    raise ConfigError(f"{key}: {error.strerror}{near_path(pathlib.Path(path))}") from error
  except (ValueError, TypeError, KeyError, RecursionError) as error:
    raise ConfigError(
      f"{key} is no results/early_exit.json, as the job early_exit writes it ({error!r})"
    ) from error
  if theirs != sha256:
    raise ConfigError(
      f"{key} was chosen for weights of sha256 {str(theirs)[:12]}…, and these are {sha256[:12]}…: "
      "thresholds of another model say nothing about this one; run the job early_exit on it"
    )
  with from_config("early_exit.thresholds"):
    checked = early_exit.check_thresholds(values, num_exits)
  if expected is None:
    metrics.report(f"{path}: of an earlier version, without a digest of its thresholds: unverified")
  elif expected != thresholds_sha256(checked, sha256):
    raise ConfigError(
      f"{key}: its thresholds {shown(values)} are not those that were written (thresholds_sha256): "
      "the file was changed or is damaged; run the job early_exit again"
    )
  return checked


def load_deployed(
  folder: str, *, thresholds: str = "", checkpoint: str = "", batch_size: int = 256
) -> Callable[[np.ndarray], early_exit.Answers]:
  """A trained run as it is deployed: `answers(x)`, float images in [0, 1] in, `Answers` out.

  Args:
    folder: the workdir of a run on which the job `early_exit` was run.
    thresholds: a `results/early_exit.json` of the same weights; default the workdir's.
    checkpoint: 'best' or 'latest'; default that of the run's config.
    batch_size: images that enter at once.

  Raises:
    ConfigError: no thresholds, or those of other weights; a net that can't be run block by block.
    WorkdirError: the folder is no workdir.
  """
  path, thresholds = pathlib.Path(paths.expand(folder)), paths.expand(thresholds)
  config = config_lib.from_data(workdir.read_config(path))
  config.evaluation.checkpoint = checkpoint or config.evaluation.checkpoint
  noted = belonging.read_data(path / workdir.DATA)
  net = build.model(config, noted["num_classes"])
  _, arrays, _ = weights.find(config, path)
  params, model_state = weights.fit(arrays, net, noted["image_shape"], name=str(path))
  run_block = nets.make_run_block(net, params, model_state, precision=config.evaluation.precision)
  num_exits = _count(nets.make_outputs_fn(net, params, model_state), noted["image_shape"])
  file = thresholds or str(path / "results" / "early_exit.json")
  values = read_thresholds(file, weights.digest(arrays), num_exits)
  return early_exit.make_deployed(run_block, values, num_exits=num_exits, batch_size=batch_size)
