"""What a certification amounts to: the field's log, numbers, a table, pictures; and its pieces."""

import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jax_robust import smoothing
from jax_robust.errors import WorkdirError
from jax_robust.evaluate import smoothing_plots
from jax_robust.runs import row_log, workdir
from jax_robust.runs.chunks import differing
from jax_robust.train import metrics

LOG = "certify.tsv"
"""The field's log of a certification that is complete, in its folder."""

_SECONDS_BETWEEN_LINES = 10.0
_GRID = 0.25  # radii of the tables, in units of the image


class Progress:
  """Lines of progress: images, rate, time left, and the average certified radius so far."""

  def __init__(
    self,
    name: str,
    sigma: float,
    num_images: int,
    rows: Sequence[Mapping[str, Any]],
    report: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
  ):
    self._name, self._num_images, self._report, self._clock = name, num_images, report, clock
    self._sigma, self._resumed, self._done = sigma, len(rows), 0
    self._sum, self._squares = 0.0, 0.0
    for row in rows:
      self._count(row)
    self._began = self._last = clock()
    if rows:
      report(f"{name} at sigma {sigma:g}: {len(rows)} of {num_images} images are there already")

  def _count(self, row):
    value = row["radius"] * (row["predict"] == row["label"])
    self._done += 1
    self._sum += value
    self._squares += value**2

  def add(self, row: Mapping[str, Any]) -> None:
    """Counts an image; says so from time to time, and at the end."""
    self._count(row)
    now = self._clock()
    if now - self._last < _SECONDS_BETWEEN_LINES and self._done < self._num_images:
      return
    self._last = now
    rate = (self._done - self._resumed) / max(now - self._began, 1e-9)
    left = (self._num_images - self._done) / rate
    mean = self._sum / self._done
    deviation = math.sqrt(max(self._squares / self._done - mean**2, 0.0))
    error = 1.96 * deviation / math.sqrt(self._done)
    self._report(
      f"{self._name} at sigma {self._sigma:g}: {self._done}/{self._num_images}  "
      f"{rate:.3g} images/s  eta {_clock_time(left)}  ACR {mean:.4f} ± {error:.4f}"
    )


def _clock_time(seconds: float) -> str:
  """Seconds as h:mm:ss."""
  minutes, seconds = divmod(round(seconds), 60)
  return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def write(folder: pathlib.Path, places: Sequence[pathlib.Path]) -> dict[str, Any]:
  """Writes what the pieces in each place amount to, if they are complete; prints a table of all."""
  results, logs = {}, {}
  for place in places:
    identity, rows, missing = collect([place])
    if missing:
      results[place.name] = {**identity, "complete": False, "num_rows": len(rows)}
      metrics.report(
        f"{place.name}: {len(rows)} of {identity['num_images']} images are here; job=merge puts "
        "pieces together"
      )
      continue
    log = to_log(rows, place.name, identity)
    smoothing.write_log(place / LOG, log)
    method = f"{identity['net']}, sigma {identity['sigma']:g}"
    results[place.name], logs[method] = summarise(identity, rows, log), log
    workdir.write_result(folder, place.name, results[place.name])
    smoothing_plots.draw_certified_accuracy(folder / "results" / f"{place.name}.png", {method: log})
  if logs:
    print(smoothing.markdown_table(logs))
  if len(logs) > 1:
    smoothing_plots.draw_certified_accuracy(folder / "results" / "certify.png", logs)
  return results


def collect(
  places: Sequence[pathlib.Path],
) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
  """The rows of all piece logs, in order of their ids, and how many images are missing.

  Logs may grow meanwhile; one that has not its first line yet has no rows.

  Raises:
    WorkdirError: logs of different jobs, or an image that two of them have.
  """
  files = [file for place in places for file in sorted(place.glob("piece-*.jsonl"))]
  files = [file for file in files if row_log.has_header(file)]
  if not files:
    raise WorkdirError(f"{', '.join(map(str, places))}: there is no piece-*.jsonl")
  identity, rows, owners = None, {}, {}
  for file in files:
    header, found = row_log.read(file)
    if identity is None:
      identity = header["identity"]
    lines = differing(header["identity"], identity)
    if lines:
      raise WorkdirError(f"{file} is of another job than {files[0]}:\n  " + "\n  ".join(lines))
    for key in found.keys() & rows.keys():
      raise WorkdirError(f"image {key} is in {owners[key]} and in {file}: overlap")
    rows |= found
    owners |= dict.fromkeys(found, file)
  assert identity is not None
  return identity, [rows[key] for key in sorted(rows)], identity["num_images"] - len(rows)


def merge(path: pathlib.Path, pieces: Sequence[pathlib.Path]) -> dict[str, Any]:
  """Puts the pieces of certifications together in `path`; refuses gaps, overlaps and strangers."""
  names = sorted({place.name for piece in pieces for place in piece.glob("results/certify_*/")})
  if not names:
    raise WorkdirError(f"{', '.join(map(str, pieces))}: no piece holds a certification")
  targets = []
  for name in names:
    places = [piece / "results" / name for piece in pieces]
    for place in places:
      if not place.is_dir():
        raise WorkdirError(f"{name} is not in every piece: {place.parent.parent} lacks it")
    identity, rows, missing = collect(places)
    if missing:
      raise WorkdirError(
        f"gap: {missing} of the {identity['num_images']} images of {name} are in no piece: finish "
        "the pieces, then merge"
      )
    target = path / "results" / name
    with row_log.RowLog(target / "piece-0-of-1.jsonl", identity) as log:
      for row in rows:
        if row["id"] not in log.rows:
          log.append(row)
    targets.append(target)
  return write(path, targets)


def to_log(
  rows: Sequence[Mapping[str, Any]], name: str, identity: Mapping[str, Any]
) -> smoothing.CertifyLog:
  """Rows as the field's log."""
  return smoothing.make_log(
    **{key: [row[key] for row in rows] for key in ("label", "predict", "radius", "seconds")},
    idx=[row["id"] for row in rows],
    name=name,
    header=identity,
  )


def summarise(
  identity: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], log: smoothing.CertifyLog
) -> dict[str, Any]:
  """A certification in numbers."""
  most = smoothing.max_radius(sigma=identity["sigma"], n=identity["n"], alpha=identity["alpha"])
  radii = np.arange(0.0, most + _GRID / 2, _GRID)
  band = smoothing.certified_accuracy_band(log, radii)
  average = smoothing.estimate_average_radius(log)
  result = {
    **identity,
    "complete": True,
    "average_certified_radius": average._asdict(),
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
