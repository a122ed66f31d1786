"""The prediction job: PREDICT over a folder of images, with abstentions; it resumes, and shards."""

import csv
import dataclasses
import functools
import hashlib
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jax_robust import smoothing
from jax_robust.atomic import write_atomically
from jax_robust.data import files
from jax_robust.data.evaluation import as_floats
from jax_robust.errors import ConfigError, WorkdirError, check_sigma
from jax_robust.jobs.certify import IMAGES_AT_ONCE
from jax_robust.runs import denoisers, devices, nets, pieces, weights, workdir
from jax_robust.runs import identity as identity_lib
from jax_robust.runs.blocks import block, from_config
from jax_robust.train import metrics

_SLACK = 1e-6  # of p-values


def predict(config: Any, path: pathlib.Path) -> dict[str, Any]:
  """Says what the smoothed model predicts for every image of a folder, or that it can't tell."""
  options = block(config, "smoothing")
  share = pieces.share_of("smoothing.shard", options["shard"])
  names, source = files.unlabelled_folder(
    options["images"], image_size=config.data.image_size or None
  )
  place, arrays, _ = weights.find(config, path)
  num_classes = weights.num_classes(place, arrays)
  source = dataclasses.replace(source, num_classes=num_classes)
  if problem := weights.shape_problem(place, source):
    raise ConfigError(
      f"smoothing.images: {problem}: bring them to one size and kind; those of another size by "
      f"--config.data.image_size, in another --workdir, with --config.init_from={place}"
    )
  net, denoiser = next(nets.each_net(config, path, source)), denoisers.open_denoiser(config, source)
  sigma = options["sigma"] or net.sigma
  if not sigma:
    raise ConfigError("smoothing.sigma is 0, and the run does not say its own: set it")
  with from_config("smoothing"):
    check_sigma(sigma)
    smoothing.check_predict_budget(n=options["n"], alpha=options["alpha"])
    sampler = smoothing.Sampler(
      denoiser.before(net.logits_fn, sigma), image_shape=source.image_shape,
      devices=devices.local_devices(config.parallel),
      **{name: options[name] for name in ("noise", "batch_size")},
    )  # fmt: skip
  predictions = functools.partial(
    smoothing.each_prediction, sampler, sigma=sigma, n=options["n"], alpha=options["alpha"]
  )
  identity = {
    "sigma": sigma,
    **{name: options[name] for name in ("n", "alpha", "noise")},
    "seed": config.seed,
    "precision": config.evaluation.precision,
    **nets.noted_exit(config),
    "weights_sha256": net.sha256,
    **denoiser.identity,
    "names_sha256": hashlib.sha256("\n".join(names).encode()).hexdigest(),
    "images_sha256": identity_lib.sha256_of(source)["images_sha256"],
  }
  place = path / "results" / "predict"
  if jax.process_index() == 0:
    _move_old_log(place, len(names))
  store = pieces.Rows(place, identity, range(len(names)), share=share)
  _fill(store, config, names, source, predictions)
  return write_results(config, path, [place]) if pieces.wait([store]) else {}


def check(config: Any) -> None:
  """Raises ConfigError where there are no images, a share is none, or other nets are named."""
  options = config.smoothing
  for key, instead in {"weights": "init_from", "sigma_list": "smoothing.sigma"}.items():
    if options[key]:
      raise ConfigError(
        f"smoothing.{key}={options[key]}: several are for the job certify, and predict takes one: "
        f"set --config.{instead}"
      )
  pieces.share_of("smoothing.shard", options.shard)
  if not options.images:
    raise ConfigError("smoothing.images is empty: name the folder of the images to predict")
  if not pathlib.Path(options.images).is_dir():
    raise ConfigError(f"smoothing.images={options.images!r}: there is no such folder")


def _move_old_log(place: pathlib.Path, num_images: int) -> None:
  """Takes over the log of an earlier version, which lay beside the folder and lacks the ids."""
  old, new = place.with_suffix(".jsonl"), place / "piece-0-of-1.jsonl"
  if old.exists():
    first, newline, rows = old.read_bytes().partition(b"\n")
    if newline and not new.exists():
      header = {**json.loads(first), "ids": [0, num_images, 1]}
      write_atomically(new, json.dumps(header).encode() + newline + rows)
    old.unlink()


def _fill(store: pieces.Rows, config, names, source, predictions) -> None:
  """Predicts the images of this share that are in no log."""
  rng = jax.random.key(config.seed)
  for ids in store.missing(IMAGES_AT_ONCE):
    x = as_floats(source.read(ids)[0])
    with jax.default_matmul_precision(config.evaluation.precision):
      for place, votes, found in predictions(x, rng, ids=ids):
        store.write({
          "id": int(ids[place]), "name": names[ids[place]], "predict": int(found.label),
          "p_value": float(found.p_value), "votes": votes[smoothing.PREDICTION].tolist(),
        })  # fmt: skip


def _checked_rows(work: pieces.Work) -> list[dict[str, Any]]:
  """The rows of a prediction that is complete, each held to its votes, the names to their digest.

  Raises:
    WorkdirError: one is not what its votes give, with the file and the line to delete.
  """
  rows, alpha = list(work.contents()), work.identity["alpha"]
  for row in rows:
    try:
      found = smoothing.predict(np.asarray(row["votes"]), alpha=alpha)
      # Sound noise adds the little by which it is not Gaussian.
      is_near = abs(row["p_value"] - float(found.p_value)) <= _SLACK
      leading = int(np.argmax(row["votes"]))
      label = smoothing.ABSTAIN if row["p_value"] > alpha else leading
      problem = "" if is_near and row["predict"] == label else f"its votes give {found}"
    except (ValueError, TypeError, KeyError) as error:
      problem = f"it is no prediction ({error!r})"
    if problem:
      raise WorkdirError(
        f"{work.where(row['id'])} id {row['id']}: {problem}. It was changed or is damaged: delete "
        "that line, whose row is then computed again, or move the file away"
      )
  names = "\n".join(str(row["name"]) for row in rows)
  if hashlib.sha256(names.encode()).hexdigest() != work.identity["names_sha256"]:
    raise WorkdirError(
      f"{work.pieces[0].path}: its names are not those of the folder that it says it is of "
      "(names_sha256): move the file away"
    )
  return rows


def write_results(
  config: Any, path: pathlib.Path, folders: Sequence[pathlib.Path]
) -> dict[str, Any]:
  """Writes `results/predict.csv`, a line an image, and `results/predict.json`, if complete.

  The columns are the image's name, its class or -1, the p-value, the share of the votes, and the
  name of the class if that is known.
  """
  class_names = weights.noted_names(config, path)
  work = pieces.find(folders)
  if not work.is_complete("predict"):
    return {**work.identity, "complete": False, "num_rows": len(work.owners)}
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  head = ("name", "predict", "p_value", "share")
  writer.writerow((*head, "class") if class_names else head)
  rows = _checked_rows(work)
  for row in rows:
    share = max(row["votes"]) / sum(row["votes"])
    cells = [row["name"], row["predict"], f"{row['p_value']:.4g}", f"{share:.4f}"]
    if class_names:
      cells.append("" if row["predict"] == smoothing.ABSTAIN else class_names[row["predict"]])
    writer.writerow(cells)
  table = path / "results" / "predict.csv"
  write_atomically(table, text.getvalue())
  abstained = sum(row["predict"] == smoothing.ABSTAIN for row in rows)
  result = {**work.identity, "num_images": len(rows), "abstained": abstained}
  workdir.write_result(path, "predict", result)
  metrics.report(f"{len(rows)} images, {abstained} abstained: {table}")
  return result
