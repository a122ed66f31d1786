"""The job of attacks on exits: every point that is found counts under every rule of decision."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jax_robust.atomic import write_atomically
from jax_robust.errors import ConfigError, WorkdirError, check_count, check_eps
from jax_robust.evaluate import exit_attacks as attacks_lib
from jax_robust.evaluate import exit_scores
from jax_robust.runs import exits, identity, nets, pieces, workdir
from jax_robust.runs.blocks import block, from_config
from jax_robust.runs.evaluation import attack_setting


def exit_attacks(config: Any, path: pathlib.Path, subject: nets.Opened) -> dict[str, Any]:
  """Attacks a multi-exit net with every aim, and scores each point under every rule; resumes."""
  options = _read_options(config)
  num_exits = exits.count_exits(config, subject)
  predict = exits.make_predict(config, subject)
  thresholds = exits.find_thresholds(config, subject, predict, num_exits)[0]
  options = options._replace(thresholds=tuple(thresholds.values.tolist()))
  source, settings = subject.source, block(config, "early_exit")
  store = pieces.Arrays(
    path / "results" / f"exit_attacks_{options.eps:.6g}",
    {
      **options._asdict(),
      "norm": "linf",
      "chosen": {key: value for key, value in thresholds.chosen.items() if key != "file"},
      "points": attacks_lib.points(options),
      "rules": list(attacks_lib.rules(options.thresholds)),
      "chunk_size": settings["chunk_size"],
      "data": config.data.name,
      "split": config.data.test_split,
      "num_examples": source.num_examples,
      "weights_sha256": subject.info["sha256"],
      "precision": config.evaluation.precision,
      **identity.sha256_of(source),
    },
    range(source.num_examples),
    share=pieces.share_of("early_exit.shard", settings["shard"]),
    size=settings["chunk_size"],
  )
  _fill(store, config, options, subject)
  return write_results(config, path, [store.folder]) if pieces.wait([store]) else {}


def check(config: Any) -> None:
  """Raises ConfigError where a value of the block `early_exit` can't be used by this job."""
  exits.check_heldout(config)
  _read_options(config)
  pieces.share_of("early_exit.shard", config.early_exit.shard)


def _read_options(config: Any) -> attacks_lib.Options:
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
  version = values["version"]
  if isinstance(version, str) and version in attacks_lib.STAGES:
    version = (version,)
  elif isinstance(version, str) and "," in version:
    version = tuple(name.strip() for name in version.split(",") if name.strip())
  options = attacks_lib.Options(
    tuple(values["attacks"]), tuple(values["aims"]), (), float(eps), values["max_steps"],
    values["num_queries"], version, config.seed,
  )  # fmt: skip
  with from_config("early_exit"):
    check_eps(options.eps, "linf")
    check_count(chunk_size=values["chunk_size"], num_queries=options.num_queries)
    check_count(0, max_steps=options.max_steps)
    attacks_lib.check_options(options)
  return options


def _fill(store: pieces.Arrays, config: Any, options: attacks_lib.Options, subject) -> None:
  """Attacks the images of this share that are in no piece."""
  make = functools.partial(nets.make_outputs_fn, subject.net, precision=config.evaluation.precision)
  weights = subject.params, subject.model_state
  size = min(config.evaluation.batch_size, store.identity["chunk_size"])
  found = attacks_lib.make_points(make, weights, options, batch_size=size)
  correct = attacks_lib.make_correct(make, weights, options.thresholds)
  key = jax.random.key(options.seed)
  for ids in store.missing():
    images, labels = subject.source.read(ids)
    x, labels = images.astype(np.float32) / np.float32(255), np.asarray(labels, np.int32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.asarray(ids, np.uint32))
    content = {"id": ids, "label": labels, "clean": correct(x, labels)}
    flags, distances = [], []
    for name, x_adv in found(x, labels, keys):
      flags.append(correct(x_adv, labels))
      if name.split(", ")[0] in attacks_lib.APART:
        distances.append(np.linalg.norm((x_adv - x).reshape(len(x), -1), axis=1))
    content["correct"] = np.stack(flags, axis=1)
    content["apart_distance"] = np.stack(distances, axis=1) if distances else np.zeros((len(x), 0))
    robust = exit_scores.robust_under(content["clean"], _counted(store, content))[:, -1].mean()
    store.write(content, note=lambda robust=robust: f"deployed robust {robust:.2%}")


def _counted(store: pieces.Arrays, content) -> dict[str, np.ndarray]:
  """The flags of the points that count."""
  named = zip(store.identity["points"], content["correct"].swapaxes(0, 1), strict=True)
  return {name: flags for name, flags in named if attacks_lib.is_counted(name)}


def write_results(
  config: Any, path: pathlib.Path, folders: Sequence[pathlib.Path]
) -> dict[str, Any]:
  """Writes `results/exit_attacks.json` and `.md` of the pieces there are, and prints the page."""
  results = []
  for folder in folders:
    work = pieces.find([folder])
    chunks = list(work.contents())
    if not chunks:
      raise WorkdirError(f"{folder}: no piece was evaluated")
    results.append(_summarise(work.identity, chunks))
  main = results[0]
  workdir.write_result(path, "exit_attacks", {**main, "evaluations": results[1:]})
  page = "\n\n".join(map(exit_scores.markdown, results))
  write_atomically(path / "results" / "exit_attacks.md", page + "\n")
  print(page)
  print(f"numbers: {path / 'results' / 'exit_attacks.json'}")
  return {
    "clean": main["clean"]["deployed"]["value"],
    "robust": main["robust"]["deployed"]["value"],
  }


def _summarise(noted: dict[str, Any], chunks) -> dict[str, Any]:
  """An evaluation in numbers."""
  names = ("id", "label", "clean", "correct", "apart_distance")
  columns = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in names}
  named = dict(zip(noted["points"], columns["correct"].swapaxes(0, 1), strict=True))
  judged = noted["rules"], columns["clean"], named
  distances = columns["apart_distance"]
  distances = distances[distances > 0]  # 0 where nothing was found, or nothing was to be done
  return {
    **noted,
    "num_examples": len(columns["id"]),
    "complete": len(columns["id"]) == noted["num_examples"],
    **exit_scores.summarise_points(*judged),
    "flags": exit_scores.find_flags(*judged),
    "apart_distance": float(np.median(distances)) if distances.size else None,
  }
