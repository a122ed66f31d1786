"""The certification job: one or several models, one or several sigmas; resumes, shards, merges."""

import functools
import itertools
import pathlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jax_robust import paths, smoothing
from jax_robust.data import draws, sources
from jax_robust.data.evaluation import as_floats
from jax_robust.errors import (
  ConfigError,
  WorkdirError,
  check_labels,
  check_name,
  check_one,
  check_sigma,
  check_weight,
)
from jax_robust.evaluate import smoothing_plots
from jax_robust.runs import (
  build,
  denoisers,
  devices,
  identity,
  nets,
  piece_files,
  pieces,
  weights,
  workdir,
)
from jax_robust.runs.blocks import block, from_config
from jax_robust.train import metrics

LOG = "certify.tsv"
"""The field's log of a certification that is complete, in its folder."""

IMAGES_AT_ONCE = 256

_GRID = 0.25  # radii of the tables, in units of the image


def certify(config: Any, path: pathlib.Path) -> dict[str, Any]:
  """Certifies a smoothed model, or several, image by image: CERTIFY, into a log that grows."""
  options = read_options(config)
  share = pieces.share_of("smoothing.shard", options["shard"])
  source = build.load_test(config, _classes_of_nets(config, path, options))
  describe = functools.cache(functools.partial(_describe, config, source))
  denoiser = denoisers.open_denoiser(config, source)
  stores = []
  for net in nets.each_net(config, path, source, options["weights"]):
    for sigma in _sigmas(options, net):
      place = path / "results" / f"certify_{net.name}_sigma{sigma:g}"
      images, common = describe(_draw_of(config, place))
      belongs_to = {"net": net.name, "sigma": sigma, **common}
      belongs_to |= {"trained_sigma": net.sigma, "weights_sha256": net.sha256}
      belongs_to |= denoiser.identity
      name = f"{net.name} at sigma {sigma:g}"
      store = pieces.Rows(place, belongs_to, images, share=share, name=name)
      logits_fn = denoiser.before(net.logits_fn, sigma)
      _fill(store, config, source, _make_sampling(config, options, source, logits_fn, sigma))
      stores.append(store)
  folders = [store.folder for store in stores]
  return write_results(config, path, folders) if pieces.wait(stores) else {}


def _describe(config, source, draw: str) -> tuple[Sequence[int], dict[str, Any]]:
  """The images to certify, and what the rows of every net and sigma belong to."""
  options = read_options(config)
  images, is_drawn = select(options, source, draw=draw)
  names = ("n0", "n", "alpha", "noise", "radii", "tolerance", "start", "stop", "skip", "max")
  return images, {
    **{name: options[name] for name in names},
    "seed": config.seed,
    "precision": config.evaluation.precision,
    **nets.noted_exit(config),
    "data": config.data.name,
    "split": config.data.test_split,
    "num_images": len(images),
    "num_classes": source.num_classes,
    **({"draw": draws.BY_CLASS, "draw_seed": draws.SEED} if is_drawn else {}),
    **identity.sha256_of(source, np.asarray(images)),
  }


def _draw_of(config, place: pathlib.Path) -> str:
  """How the images of a folder are drawn: as its rows were, if any; as `data.draw` says."""
  begun, rule = piece_files.noted_identity(place), build.draw_rule(config)
  if rule == draws.BY_CLASS and begun and begun.get("max") and "draw" not in begun:
    return draws.FIRST  # begun before images were drawn by class, or of a set that has no more
  return rule


def _classes_of_nets(config, path: pathlib.Path, options):
  """The classes of the first net; `nets.load_net` refuses others that differ."""
  for reference in options["weights"]:
    return weights.noted_classes(pathlib.Path(paths.named_run(reference)[1]))
  return weights.classes_of_model(config, path)


def check(config: Any) -> None:
  """Raises ConfigError where a value of the block `smoothing` can't be used."""
  pieces.share_of("smoothing.shard", read_options(config)["shard"])


def read_options(config: Any) -> dict[str, Any]:
  """The block `smoothing`, checked.

  Raises:
    ConfigError: a value that can't be used.
  """
  options = block(config, "smoothing")
  if options["skip"] < 1 or min(options["start"], options["stop"], options["max"]) < 0:
    raise ConfigError(
      f"smoothing.skip={options['skip']}, start={options['start']}, stop={options['stop']}, "
      f"max={options['max']}: expected skip at least 1, the others at least 0"
    )
  if options["radii"] and options["tolerance"]:
    raise ConfigError("smoothing.radii and smoothing.tolerance are both given: keep one")
  with from_config("smoothing"):
    check_one(tolerance=options["tolerance"])
    check_weight(radii=np.asarray(options["radii"], np.float64))
    for sigma in (*options["sigma_list"], options["sigma"] or 1.0):
      check_sigma(sigma)
    smoothing.check_budget(**{name: options[name] for name in ("n0", "n", "alpha")})
    check_name("noise", options["noise"], smoothing.NOISES)
  return options


def select(
  options: Mapping[str, Any], source: sources.Source, *, draw: str = draws.FIRST
) -> tuple[Sequence[int], bool]:
  """The images that are certified: every `skip`-th of the split between `start` and `stop`.

  Of these, `max` are taken if there are more: the first ones, or of each class its share.

  Args:
    options: the block `smoothing`.
    source: the split.
    draw: `first`, or `class`.

  Returns:
    Their numbers, increasing, and whether they were drawn by class.

  Raises:
    ConfigError: there is none.
  """
  skip, num_examples = options["skip"], source.num_examples
  first = -(-options["start"] // skip) * skip
  chosen = range(first, min(options["stop"] or num_examples, num_examples), skip)
  if not chosen:
    raise ConfigError(
      f"smoothing.start={options['start']}, stop={options['stop']}, skip={options['skip']} leave "
      f"none of the {num_examples} images"
    )
  if not 0 < options["max"] < len(chosen):
    return chosen, False
  among = sources.select(source, np.asarray(chosen), source.name)
  if draw == draws.FIRST:
    sources.warn_if_sorted(among, options["max"])
    return chosen[: options["max"]], False
  rows = draws.order(sources.labels_of(among))[: options["max"]]
  return tuple(chosen[row] for row in sorted(rows.tolist())), True


def _sigmas(options, net: nets.Net) -> tuple[float, ...]:
  """The noise levels to certify at; says where they are not the trained one."""
  sigmas: Sequence[Any] = options["sigma_list"] or (options["sigma"] or net.sigma,)
  if not all(sigmas):
    raise ConfigError(
      f"smoothing.sigma is 0, and {net.name} does not say which noise it was trained under: set "
      "--config.smoothing.sigma"
    )
  for sigma in () if options["denoiser"] else sigmas:
    if net.sigma is None:
      metrics.report(f"{net.name} does not say which noise it was trained under, if any")
    elif sigma != net.sigma:
      metrics.report(f"{net.name} was trained under sigma {net.sigma:g}, not {sigma:g}")
  return tuple(map(float, sigmas))


def _fill(store: pieces.Rows, config, source, sampling: Callable) -> None:
  """Certifies the images of this share that are in no log."""
  there = checked_rows(pieces.find([store.folder])) if store.ids_there else []
  radii = [_radius_of(row) for row in there if row["id"] in store.ids_there]

  def note():
    error = 1.96 * np.std(radii) / np.sqrt(len(radii))
    return f"ACR {np.mean(radii):.4f} ± {error:.4f}"

  rng = jax.random.key(config.seed)
  for ids in store.missing(IMAGES_AT_ONCE):
    images, labels = source.read(ids)
    check_labels(labels, source.num_classes)
    x = as_floats(images)
    began = time.perf_counter()
    with jax.default_matmul_precision(config.evaluation.precision):
      for place, found in sampling(x, rng, ids):
        now = time.perf_counter()
        row = {"id": int(ids[place]), "label": int(labels[place]), **found}
        row["seconds"] = round(now - began, 6)
        radii.append(_radius_of(row))
        store.write(row, note=note)
        began = now


def checked_rows(work: pieces.Work) -> list[dict[str, Any]]:
  """The rows of a certification, each recomputed from its votes; the labels are those of its data.

  Raises:
    WorkdirError: one is not what its votes prove, with the file and the line to delete.
  """
  identity, rows = work.identity, list(work.contents())
  given: dict[str, Any] = {name: identity.get(name) for name in ("sigma", "n", "alpha")}
  if None in given.values():  # of another kind of job
    return rows
  try:
    _check_classes(rows, identity.get("num_classes"))
    smoothing.check_certificates(rows, **given, radii=identity.get("radii", ()))
    labels = np.array([row["label"] for row in rows])
  except (ValueError, TypeError, KeyError) as error:
    key = re.match(r"(?:id|image) (\d+)", str(error))
    where = work.where(int(key[1])) if key else f"{work.pieces[0].path}:"
    raise WorkdirError(
      f"{where} {error}. It was changed or is damaged: delete that line, whose row is then "
      "computed again, or move the file away"
    ) from error
  expected = identity.get("labels_sha256")
  if expected and not work.num_missing and smoothing.digest_labels(labels) != expected:
    raise WorkdirError(
      f"{work.pieces[0].path}: its labels are not those of the images that it says it is of "
      "(labels_sha256): move the file away"
    )
  return rows


def _check_classes(rows: Sequence[Mapping[str, Any]], num_classes: int | None) -> None:
  """Raises ValueError for a row of a class that there is not; earlier logs do not note how many."""
  for row in rows if num_classes is not None else ():
    if not (0 <= row["label"] < num_classes and row["predict"] < num_classes):
      raise ValueError(
        f"id {row['id']}: label={row['label']}, predict={row['predict']}, where the log is of "
        f"num_classes={num_classes}"
      )


def _radius_of(row: Mapping[str, Any]) -> float:
  """What an image adds to the average certified radius."""
  return row["radius"] * (row["predict"] == row["label"])


def _make_sampling(config, options, source, logits_fn, sigma: float) -> Callable:
  """`(x, rng, ids) -> iterator of (place, row)`: CERTIFY, or one of its adaptive forms."""
  sampler = smoothing.Sampler(
    logits_fn, image_shape=source.image_shape, noise=options["noise"],
    batch_size=options["batch_size"], devices=devices.local_devices(config.parallel),
  )  # fmt: skip
  common: dict[str, Any] = {name: options[name] for name in ("n0", "n", "alpha")}
  common["sigma"] = sigma

  def rows(x, rng, ids) -> Iterator[tuple[int, dict[str, Any]]]:
    if options["radii"]:
      for place, _, found in smoothing.each_decision(
        sampler, x, rng, np.asarray(options["radii"]), ids=ids, **common
      ):
        yield place, _row_at(found, options["radii"])
    elif options["tolerance"]:
      for place, _, found in smoothing.each_interval(
        sampler, x, rng, options["tolerance"], ids=ids, **common
      ):
        yield place, {**_row(found), "upper_radius": float(found.upper_radius)}
    else:
      for place, votes, found in smoothing.each_certificate(sampler, x, rng, ids=ids, **common):
        yield place, {"selected": int(np.argmax(votes[smoothing.SELECTION])), **_row(found)}

  return rows


def _row(found) -> dict[str, Any]:
  """Of CERTIFY, or of a radius to within a tolerance: the class, its votes, what they prove."""
  return {
    "predict": int(found.label),
    "radius": float(found.radius),
    "lower_bound": float(found.lower_bound),
    "count": int(found.count),
    "total": int(found.total),
  }


def _row_at(found, radii) -> dict[str, Any]:
  """Of decisions: the largest radius that was certified, and what each decision took."""
  return {
    "predict": int(found.label),
    "radius": float(max(itertools.compress(radii, found.certified), default=0.0)),
    "certified": found.certified.astype(bool).tolist(),
    "num_draws": found.num_draws.tolist(),
    "total": int(found.num_draws.max()),
  }


def write_results(
  config: Any, path: pathlib.Path, folders: Sequence[pathlib.Path]
) -> dict[str, Any]:
  """Writes the log, the numbers and a picture of each folder that is complete, and a table of all.

  Args:
    config: not looked at.
    path: the workdir.
    folders: of the pieces, one for each model and sigma.
  """
  del config
  results, logs, pictures = {}, {}, {}
  for folder in folders:
    work = pieces.find([folder])
    if not work.is_complete(folder.name):
      results[folder.name] = {**work.identity, "complete": False, "num_rows": len(work.owners)}
      continue
    rows = checked_rows(work)
    log = smoothing.make_log(
      **{key: [row[key] for row in rows] for key in ("label", "predict", "radius", "seconds")},
      idx=[row["id"] for row in rows],
      name=folder.name,
      header={**work.identity, smoothing.ROWS_SHA256: ""},
    )
    smoothing.write_log(folder / LOG, log)
    method = f"{work.identity['net']}, sigma {work.identity['sigma']:g}"
    results[folder.name], logs[method] = _summarise(work.identity, rows, log), log
    workdir.write_result(path, folder.name, results[folder.name], kind="certify")
    pictures[path / "results" / f"{folder.name}.png"] = {method: log}
  for picture, drawn in pictures.items():  # when all numbers are written
    smoothing_plots.draw_certified_accuracy(picture, drawn)
  if logs:
    print(smoothing.markdown_table(logs))
  if len(logs) > 1:
    smoothing_plots.draw_certified_accuracy(path / "results" / "certify.png", logs)
  return results


def _summarise(
  identity: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], log: smoothing.CertifyLog
) -> dict[str, Any]:
  """A certification in numbers."""
  most = smoothing.max_radius(sigma=identity["sigma"], n=identity["n"], alpha=identity["alpha"])
  radii = np.arange(0.0, most + _GRID / 2, _GRID)
  band = smoothing.certified_accuracy_band(log, radii)
  result = {
    **identity,
    "complete": True,
    "average_certified_radius": smoothing.estimate_average_radius(log)._asdict(),
    "certified_accuracy": [
      {"radius": float(r), "value": float(v), "interval": [float(low), float(high)]}
      for r, v, low, high in zip(radii, band.value, band.low, band.high, strict=True)
    ],
    "abstained": int(np.sum(log.predict == smoothing.ABSTAIN)),
    "draws_per_image": float(np.mean([row["total"] for row in rows])),
    "seconds_per_image": float(np.mean(log.seconds)),
  }
  if "certified" in rows[0]:
    result["decisions"] = {
      "radii": identity["radii"],
      "certified": np.mean([row["certified"] for row in rows], axis=0).tolist(),
      "draws": np.mean([row["num_draws"] for row in rows], axis=0).tolist(),
    }
  if "selected" in rows[0]:
    confidence = np.array([row["count"] / row["total"] for row in rows])
    correct = np.array([row["selected"] == row["label"] for row in rows])
    result["calibration_error"] = smoothing.expected_calibration_error(confidence, correct)
  return result
