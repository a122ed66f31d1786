"""The prediction job: PREDICT over a folder of images, with abstentions; it resumes."""

import csv
import dataclasses
import functools
import hashlib
import io
import pathlib
from typing import Any

import jax
import numpy as np

from jax_robust import smoothing
from jax_robust.data import files
from jax_robust.errors import ConfigError, check_sigma
from jax_robust.jobs.certify import IMAGES_AT_ONCE
from jax_robust.runs import check, devices, nets, weights, workdir
from jax_robust.runs.blocks import block, from_config
from jax_robust.runs.row_log import RowLog
from jax_robust.train import metrics, parallel


def predict(config: Any, folder: str) -> dict[str, Any]:
  """Says what the smoothed net predicts for every image of a folder, or that it can't tell."""
  check.check(config)
  options = block(config, "smoothing")
  if not options["images"]:
    raise ConfigError("smoothing.images is empty: name the folder of the images to predict")
  if jax.process_count() > 1:
    raise ConfigError(f"job=predict with {jax.process_count()} processes: run one, on all devices")
  if not pathlib.Path(options["images"]).is_dir():
    raise ConfigError(f"smoothing.images={options['images']!r}: there is no such folder")
  names, source = files.unlabelled_folder(options["images"])
  with workdir.claimed(folder, create=bool(config.init_from)) as path:
    workdir.write_identity(path, config)
    num_classes = weights.num_classes(config, path)
    net = next(nets.each_net(config, path, dataclasses.replace(source, num_classes=num_classes)))
    sigma = options["sigma"] or net.sigma
    if not sigma:
      raise ConfigError("smoothing.sigma is 0, and the run does not say its own: set it")
    with from_config("smoothing"):
      check_sigma(sigma)
      smoothing.check_predict_budget(n=options["n"], alpha=options["alpha"])
      sampler = smoothing.Sampler(
        net.logits_fn, image_shape=source.image_shape,
        devices=devices.row_devices(parallel.data_mesh(jax.device_count()), mode=config.parallel),
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
      "weights_sha256": net.sha256,
      "names_sha256": hashlib.sha256("\n".join(names).encode()).hexdigest(),
    }
    with RowLog(path / "results" / "predict.jsonl", identity) as log:
      _fill(config, names, source, predictions, log)
      rows = [log.rows[i] for i in range(len(names))]
    _write_csv(path / "results" / "predict.csv", rows)
    abstained = sum(row["predict"] == smoothing.ABSTAIN for row in rows)
    result = {**identity, "num_images": len(rows), "abstained": abstained}
    workdir.write_result(path, "predict", result)
    metrics.report(f"{len(rows)} images, {abstained} abstained: {path / 'results' / 'predict.csv'}")
    return result


def _fill(config, names, source, predictions, log: RowLog) -> None:
  """Predicts the images that the log does not have."""
  missing = np.setdiff1d(np.arange(len(names)), list(log.rows))
  rng = jax.random.key(config.seed)
  for ids in np.array_split(missing, max(-(-len(missing) // IMAGES_AT_ONCE), 1)):
    if not ids.size:
      break
    x = source.read(ids)[0].astype(np.float32) / np.float32(255)
    with jax.default_matmul_precision(config.evaluation.precision):
      for place, votes, found in predictions(x, rng, ids=ids):
        log.append({
          "id": int(ids[place]), "name": names[ids[place]], "predict": int(found.label),
          "p_value": float(found.p_value), "votes": votes[smoothing.PREDICTION].tolist(),
        })  # fmt: skip
    metrics.report(f"{len(log.rows)}/{len(names)} images")


def _write_csv(path: pathlib.Path, rows) -> None:
  """One line an image: its name, the class or -1, the p-value, the share of votes."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(("name", "predict", "p_value", "share"))
  for row in rows:
    share = max(row["votes"]) / sum(row["votes"])
    writer.writerow((row["name"], row["predict"], f"{row['p_value']:.4g}", f"{share:.4f}"))
  workdir.write_file(path, text.getvalue().encode())
