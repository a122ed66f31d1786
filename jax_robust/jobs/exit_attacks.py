"""The exit attacks job: adversarial points of every attack, scored under every rule of decision."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jax_robust import attacks
from jax_robust.atomic import write_atomically
from jax_robust.attacks.non_finite import lost_points
from jax_robust.data.evaluation import as_floats
from jax_robust.errors import ConfigError, WorkdirError, check_count, check_eps, warn
from jax_robust.evaluate import exit_attacks as attacks_lib
from jax_robust.evaluate import exit_scores
from jax_robust.runs import exits, identity, nets, pieces, workdir
from jax_robust.runs.blocks import block, from_config
from jax_robust.runs.evaluation import attack_setting
from jax_robust.types import fold_ids


def exit_attacks(config: Any, path: pathlib.Path, subject: nets.Opened) -> dict[str, Any]:
  """Attacks a multi-exit net with every aim, and scores each point under every rule; resumes."""
  options = read_options(config)
  num_exits = exits.count_exits(config, subject)
  predict = exits.make_predict(config, subject)
  thresholds = exits.find_thresholds(config, subject, predict, num_exits)[0]
  options = options._replace(thresholds=tuple(thresholds.values.tolist()))
  source, settings = subject.source, block(config, "early_exit")
  common = {
    "eps": options.eps,
    "norm": "linf",
    "seed": options.seed,
    "thresholds": options.thresholds,
    "rules": list(attacks_lib.rules(options.thresholds)),
    "data": config.data.name,
    "split": config.data.test_split,
    "num_examples": source.num_examples,
    "weights_sha256": subject.info["sha256"],
    "precision": config.evaluation.precision,
    **identity.sha256_of(source),
  }
  run, stores = make_run(config, options, subject), []
  for attempt in attacks_lib.attempts(options):
    store = pieces.Arrays(
      path / "results" / f"exit_attacks_{options.eps:.6g}_{attempt.replace(' ', '_')}",
      {
        **common,
        "attempt": attempt,
        "points": attacks_lib.points(attempt, options),
        **options.budget(attempt),
        "chunk_size": settings["chunk_size"],
      },
      range(source.num_examples),
      share=pieces.share_of("early_exit.shard", settings["shard"]),
      size=settings["chunk_size"],
      name=attempt,
    )
    for ids in store.missing():
      store.write(run(attempt, ids))
    stores.append(store)
  folders = [store.folder for store in stores]
  return write_results(config, path, folders) if pieces.wait(stores) else {}


def check(config: Any) -> None:
  """Raises ConfigError where a value of the block `early_exit` can't be used by this job."""
  exits.check_heldout(config)
  read_options(config)
  pieces.share_of("early_exit.shard", config.early_exit.shard)


def read_options(config: Any) -> attacks_lib.Options:
  """The block `early_exit`, checked; the thresholds are not known yet.

  Raises:
    ConfigError: a value that can't be used.
  """
  values = block(config, "early_exit")
  setting = attack_setting(config)
  eps = values["eps"]
  if not eps:
    if setting is None or setting.norm != "linf":
      raise ConfigError(
        "config.early_exit.eps=0 takes the radius of the l-infinity attack in evals, and there is "
        "none: set --config.early_exit.eps=8/255"
      )
    eps = setting.eps
  options = attacks_lib.Options(
    tuple(values["attacks"]), tuple(values["aims"]), (), float(eps), values["max_steps"],
    values["num_queries"], attacks.read_version(values["version"]), config.seed,
  )  # fmt: skip
  with from_config("early_exit"):
    check_eps(options.eps, "linf")
    check_count(chunk_size=values["chunk_size"], num_queries=options.num_queries)
    check_count(0, max_steps=options.max_steps)
    attacks_lib.check_options(options)
  return options


def make_run(config: Any, options: attacks_lib.Options, subject: nets.Opened):
  """`run(attempt, ids) -> content` of a piece: which rules classify each point correctly."""
  make = nets.outputs_of_weights(config, subject.net)
  size = min(config.evaluation.batch_size, config.early_exit.chunk_size)
  found = attacks_lib.make_points(make, subject.variables, options, batch_size=size)
  correct = attacks_lib.make_correct(make, subject.variables, options.thresholds)
  key = jax.random.key(options.seed)

  def run(attempt: str, ids: np.ndarray) -> dict[str, np.ndarray]:
    images, labels = subject.source.read(ids)
    x, labels = as_floats(images), np.asarray(labels, np.int32)
    keys = fold_ids(key, np.asarray(ids, np.uint32))
    clean, flags, distances = correct(x, labels)[0], [], []
    num_lost = np.zeros(len(x), np.int64)
    for x_adv in found(attempt, x, labels, keys):
      right, finite = correct(x_adv, labels)
      flags.append(np.where(finite[:, None], right, clean))  # a point that is lost is no attack
      num_lost += ~finite
      distances.append(np.linalg.norm((x_adv - x).reshape(len(x), -1), axis=1))
    if num_lost.any():
      warn(f"{attempt}: {lost_points(num_lost, ids)}")
    return {
      "id": ids,
      "label": labels,
      "clean": clean,
      "num_lost": num_lost,
      "correct": np.stack(flags, axis=1),
      "l2_distance": np.stack(distances, axis=1),
    }

  return run


def write_results(
  config: Any, path: pathlib.Path, folders: Sequence[pathlib.Path]
) -> dict[str, Any]:
  """Writes `results/exit_attacks.json` and `.md` of the pieces there are, and prints the page.

  Args:
    config: unused: the pieces say what they are.
    path: the workdir.
    folders: of the pieces, one for each attack.
  """
  del config
  result = _summarise([pieces.find([folder]) for folder in folders])
  workdir.write_result(path, "exit_attacks", result)
  page = exit_scores.markdown(result)
  write_atomically(path / "results" / "exit_attacks.md", page + "\n")
  print(page)
  print(f"numbers: {path / 'results' / 'exit_attacks.json'}")
  return {name: result[name]["deployed"]["value"] for name in ("clean", "robust")}


_COLUMNS = ("id", "label", "clean", "correct", "l2_distance")

_OF_AN_ATTEMPT = ("attempt", "points", "max_steps", "num_queries", "version", "chunk_size")


def _summarise(works: Sequence[pieces.Work]) -> dict[str, Any]:
  """An evaluation in numbers: of the images to which all attacks have come.

  Raises:
    WorkdirError: there are none; the attacks are of different evaluations.
  """
  first, columns, num_lost = works[0], [], {}
  for work in works:
    lines = identity.differing(*map(_shared, (first.identity, work.identity)))
    if lines:
      attempts = f"{first.identity['attempt']} and {work.identity['attempt']}"
      raise WorkdirError(f"the pieces of {attempts} are of two evaluations: {'; '.join(lines)}")
    chunks = list(work.contents())
    if not chunks:
      raise WorkdirError(f"no piece of {work.identity['attempt']} was evaluated")
    # What an earlier version began did not count the points that were lost.
    num_lost[work.identity["attempt"]] = sum(
      int(chunk["num_lost"].sum()) for chunk in chunks if "num_lost" in chunk
    )
    columns.append({key: np.concatenate([chunk[key] for chunk in chunks]) for key in _COLUMNS})
  ids = functools.reduce(np.intersect1d, [each["id"] for each in columns])
  named, moved, clean = {}, [], np.zeros((0, 0), bool)
  for work, each in zip(works, columns, strict=True):
    order = np.argsort(each["id"])
    rows = order[np.searchsorted(each["id"][order], ids)]
    clean, points = each["clean"][rows], work.identity["points"]
    named |= dict(zip(points, each["correct"][rows].swapaxes(0, 1), strict=True))
    if work.identity["attempt"] in attacks_lib.APART:
      moved.append(each["l2_distance"][rows])
  if not len(ids):
    raise WorkdirError("there is no image to which all attacks have come: finish the pieces")
  judged = first.identity["rules"], clean, named
  distances = np.concatenate(moved).ravel() if moved else np.zeros(0)
  distances = distances[distances > 0]  # 0 where nothing was found, or nothing was to be done
  budgets = [{k: v for k, v in work.identity.items() if k in _OF_AN_ATTEMPT} for work in works]
  return {
    **_shared(first.identity),
    "num_examples": len(ids),
    "complete": len(ids) == first.identity["num_examples"],
    "attempts": budgets,
    "num_lost": num_lost,
    **exit_scores.summarise_points(*judged),
    "flags": exit_scores.find_flags(*judged),
    "apart_distance": float(np.median(distances)) if distances.size else 0.0,
  }


def _shared(noted: Mapping[str, Any]) -> dict[str, Any]:
  """What all attacks of an evaluation have in common."""
  return {key: value for key, value in noted.items() if key not in _OF_AN_ATTEMPT}
