"""The certification job: one or several nets, one or several sigmas; it resumes, and shards."""

import itertools
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_robust import smoothing
from jax_robust.errors import ConfigError, check_labels, check_name, check_sigma
from jax_robust.jobs import certify_results
from jax_robust.runs import build, check, chunks, devices, nets, workdir
from jax_robust.runs.blocks import block, from_config, read_piece
from jax_robust.runs.row_log import RowLog
from jax_robust.train import metrics, parallel

IMAGES_AT_ONCE = 256

_SECONDS_BETWEEN_LOOKS = 1.0


def certify(config: Any, folder: str) -> dict[str, Any]:
  """Certifies a smoothed net, or several, image by image: CERTIFY, into a log that grows."""
  check.check(config)
  options = read_options(config)
  has_own_nets = bool(config.init_from or options["weights"])
  if jax.process_count() > 1:
    # JAX's own handler only takes a note, for checkpoints; here every row is on disk already.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
  with workdir.claimed(folder, create=has_own_nets) as path:
    workdir.write_identity(path, config)
    source = build.load_split(config, config.data.test_split)
    images = select(options, source.num_examples)
    hashes = chunks.sha256_of(source, images)
    found = {}
    for net in nets.each_net(config, path, source, options["weights"]):
      for sigma in _sigmas(options, net):
        job = Job(config, options, net, sigma, source, images, hashes)
        place = path / "results" / f"certify_{net.name}_sigma{sigma:g}"
        with RowLog(place / piece_file(options), identity_of(job)) as log:
          _fill(job, log, _rows_in(place))
        found[place.name] = place
    _wait_for_peers(list(found.values()), images[options["piece"][0] :: options["piece"][1]])
    if jax.process_index() == 0:
      return certify_results.write(path, list(found.values()))
    return {}


def _wait_for_peers(places, ids: np.ndarray) -> None:
  """Waits until all processes have certified their share of this piece, which their logs tell.

  One may be ready long before another, and a collective then gives up: Gloo's first after 30 s.
  """
  while jax.process_count() > 1:
    if all(np.isin(ids, list(_rows_in(place))).all() for place in places):
      return
    time.sleep(_SECONDS_BETWEEN_LOOKS)


def _rows_in(place) -> dict[int, dict[str, Any]]:
  """The rows that are there already, by id, from whichever number of processes or pieces."""
  return {row["id"]: row for row in certify_results.collect([place])[1]}


class Job(NamedTuple):
  """What is certified: `net` under noise `sigma` at the images `images` of `source`."""

  config: Any
  options: dict[str, Any]
  net: nets.Net
  sigma: float
  source: Any
  images: np.ndarray
  hashes: Mapping[str, str]


def read_options(config: Any) -> dict[str, Any]:
  """The block `smoothing`, checked.

  Raises:
    ConfigError: a value that can't be used.
  """
  options = block(config, "smoothing")
  options["piece"] = read_piece("smoothing.shard", options["shard"])
  if options["skip"] < 1 or min(options["start"], options["stop"], options["max"]) < 0:
    raise ConfigError(
      f"smoothing.skip={options['skip']}, start={options['start']}, stop={options['stop']}, "
      f"max={options['max']}: expected skip at least 1, the others at least 0"
    )
  if options["radii"] and options["tolerance"]:
    raise ConfigError("smoothing.radii and smoothing.tolerance are both given: keep one")
  if options["tolerance"] < 0 or min(options["radii"], default=0) < 0:
    raise ConfigError(
      f"smoothing.radii={options['radii']}, smoothing.tolerance={options['tolerance']}: expected "
      "numbers in units of the image, none negative"
    )
  with from_config("smoothing"):
    for sigma in (*options["sigma_list"], options["sigma"] or 1.0):
      check_sigma(sigma)
    smoothing.check_budget(**{name: options[name] for name in ("n0", "n", "alpha")})
    check_name("noise", options["noise"], smoothing.NOISES)
  return options


def select(options: Mapping[str, Any], num_examples: int) -> np.ndarray:
  """The images that are certified: every `skip`-th of the split between `start` and `stop`.

  Raises:
    ConfigError: there is none.
  """
  stop = min(options["stop"] or num_examples, num_examples)
  chosen = np.arange(options["start"], max(stop, options["start"]))
  chosen = chosen[chosen % options["skip"] == 0]
  chosen = chosen[: options["max"] or None]
  if not chosen.size:
    raise ConfigError(
      f"smoothing.start={options['start']}, stop={options['stop']}, skip={options['skip']} leave "
      f"none of the {num_examples} images"
    )
  return chosen


def _sigmas(options, net: nets.Net) -> tuple[float, ...]:
  """The noise levels to certify at; says where they are not the trained one."""
  sigmas = options["sigma_list"] or (options["sigma"] or net.sigma,)
  if not all(sigmas):
    raise ConfigError(
      f"smoothing.sigma is 0, and {net.name} does not say which noise it was trained under: set "
      "--config.smoothing.sigma"
    )
  for sigma in sigmas:
    if net.sigma is None:
      metrics.report(f"{net.name} does not say which noise it was trained under, if any")
    elif sigma != net.sigma:
      metrics.report(f"{net.name} was trained under sigma {net.sigma:g}, not {sigma:g}")
  return tuple(map(float, sigmas))


def piece_file(options: Mapping[str, Any]) -> str:
  """The log of this process' share of this piece."""
  piece, num_pieces = _share(options)
  return f"piece-{piece}-of-{num_pieces}.jsonl"


def _share(options) -> tuple[int, int]:
  """Which share of the images is this process', and of how many: processes share a piece."""
  piece, num_pieces = options["piece"]
  return piece + num_pieces * jax.process_index(), num_pieces * jax.process_count()


def identity_of(job: Job) -> dict[str, Any]:
  """What the rows of a log depend on."""
  names = ("n0", "n", "alpha", "noise", "radii", "tolerance", "start", "stop", "skip", "max")
  return {
    "net": job.net.name,
    "sigma": job.sigma,
    **{name: job.options[name] for name in names},
    "seed": job.config.seed,
    "precision": job.config.evaluation.precision,
    "data": job.config.data.name,
    "split": job.config.data.test_split,
    "num_images": len(job.images),
    "trained_sigma": job.net.sigma,
    "weights_sha256": job.net.sha256,
    **job.hashes,
  }


def _fill(job: Job, log: RowLog, there: Mapping[int, Any]) -> None:
  """Certifies the images of this share that are not there, in this log or another."""
  piece, num_pieces = _share(job.options)
  mine = job.images[piece::num_pieces]
  missing = mine[~np.isin(mine, list(there))]
  if not missing.size:
    return
  done = [there[key] for key in mine.tolist() if key in there]
  progress = certify_results.Progress(job.net.name, job.sigma, len(mine), done, metrics.report)
  rng = jax.random.key(job.config.seed)
  sampling = _make_sampling(job)
  for ids in np.array_split(missing, -(-len(missing) // IMAGES_AT_ONCE)):
    images, labels = job.source.read(ids)
    check_labels(labels, job.source.num_classes)
    x = images.astype(np.float32) / np.float32(255)
    began = time.perf_counter()
    with jax.default_matmul_precision(job.config.evaluation.precision):
      for place, row in sampling(x, rng, ids):
        now = time.perf_counter()
        log.append({
          "id": int(ids[place]), "label": int(labels[place]), **row,
          "seconds": round(now - began, 6),
        })  # fmt: skip
        progress.add(log.rows[int(ids[place])])
        began = now


def _make_sampling(job: Job):
  """`(x, rng, ids) -> iterator of (place, row)`: CERTIFY, or one of its adaptive forms."""
  options = job.options
  mesh = parallel.data_mesh(jax.local_device_count(), devices=jax.local_devices())
  sampler = smoothing.Sampler(
    job.net.logits_fn, image_shape=job.source.image_shape, noise=options["noise"],
    batch_size=options["batch_size"],
    devices=devices.row_devices(mesh, mode=job.config.parallel),
  )  # fmt: skip
  common = {"sigma": job.sigma, **{name: options[name] for name in ("n0", "n", "alpha")}}

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
