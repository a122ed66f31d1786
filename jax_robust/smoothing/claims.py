"""What a certificate may claim: checked against its votes, its settings and its header when read.

A radius is only as good as the votes behind it. Rows that keep their counts are recomputed from
them; of rows that do not, the settings say how large a radius can be at all.
"""

import hashlib
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from jax_robust.errors import check_sigma, first_few
from jax_robust.smoothing import bounds
from jax_robust.smoothing.sequences import lower_sequence

LARGEST = 1e4
"""No radius is larger: it is the distance between black and white images of 10^8 values."""

_EXTREME = 8.0  # of Phi^-1: the next probabilities are 1 in float64
_SIGMA_IN_NAME = re.compile(r"(?:sigma|noise)[_=-]?([0-9]{1,6}(?:\.[0-9]{1,6})?)", re.IGNORECASE)
_SLACK = 1e-9  # of probabilities: other versions of SciPy, and noise that is Gaussian to 1e-11


def largest_radius(header: Mapping[str, Any], path: str | os.PathLike = "") -> float:
  """The largest radius that the settings of a log allow.

  Args:
    header: whose `sigma`, `n` and `alpha` are used, as far as they are there.
    path: of the log: where the header has no sigma, the names of the file or its folder may
      (`sigma0.25`, `noise_0.5`).

  Raises:
    ValueError: a setting that is none.

  >>> round(largest_radius({"sigma": 1.0, "n": 100_000, "alpha": 0.001}), 5)
  3.81146
  >>> round(largest_radius({}, "mnist_sigma0.25.tsv"), 3), largest_radius({})
  (2.0, 10000.0)
  """
  values: dict[str, Any] = {key: header.get(key) for key in ("sigma", "n", "alpha")}
  for key, value in values.items():
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not is_number:
      raise ValueError(f"its header says {key}={_short(value)}: expected a number")
  if values["sigma"] is None:
    found = [
      float(text)
      for part in pathlib.Path(path).parts[-2:]
      for text in _SIGMA_IN_NAME.findall(part)
      if float(text)
    ]
    return min(_EXTREME * max(found), LARGEST) if found else LARGEST
  check_sigma(values["sigma"])
  if None in values.values():
    return min(_EXTREME * values["sigma"], LARGEST)
  bounds.check_budget(n=values["n"], alpha=values["alpha"])
  return bounds.max_radius(**values)


def half_unit(radius: float) -> float:
  """Half a unit of the third significant digit, the last one that published logs print."""
  return 0.5 * 10.0 ** (math.floor(math.log10(radius)) - 2) if radius > 0 else 0.0


def radius_problem(
  idx: Int[np.ndarray, " n"],
  radius: Float[np.ndarray, " n"],
  header: Mapping[str, Any],
  path: str | os.PathLike = "",
) -> str | None:
  """Which radius is above what the settings allow, by more than the rounding of its print."""
  try:
    most = largest_radius(header, path)
  except (ValueError, OverflowError) as error:
    return str(error)
  row = int(np.argmax(radius)) if len(radius) else 0
  if not len(radius) or radius[row] - most <= half_unit(float(radius[row])):
    return None
  return (
    f"image {idx[row]} has radius={radius[row]:g}, which is above {most:.6g}, the largest that "
    + (
      "its sigma, n and alpha allow"
      if None not in map(header.get, ("sigma", "n", "alpha"))
      else "is possible, as far as its settings are known"
    )
  )


def header_problem(
  header: Mapping[str, Any],
  idx: Int[np.ndarray, " n"],
  label: Int[np.ndarray, " n"],
  predict: Int[np.ndarray, " n"],
) -> str | None:
  """What the rows of a log contradict its header in: how many, which images, labels or classes."""
  count = header.get("num_images", len(idx))
  if count != len(idx):
    return f"there are {len(idx)} rows, its header says num_images={_short(count)}"
  first, step = header.get("start"), header.get("skip")
  is_range = "num_images" in header and "draw" not in header  # images are drawn since `draw`
  if type(first) is int and type(step) is int and step > 0 and is_range:
    first = -(-first // step) * step
    different = np.flatnonzero(idx != first + step * np.arange(len(idx)))
    if different.size:
      row = int(different[0])
      return f"image {idx[row]} stands where its header says {first + step * row}"
  classes = header.get("num_classes")
  if isinstance(classes, (int, float)) and len(idx) and max(label.max(), predict.max()) >= classes:
    return f"a class is {max(label.max(), predict.max())}, its header says num_classes={classes}"
  sha256 = header.get("labels_sha256")
  if sha256 is not None and sha256 != digest_labels(label):
    return "its labels are not those of its header's labels_sha256"
  return None


def digest_labels(label: Int[np.ndarray, " n"]) -> str:
  """The sha256 of labels in the order of their images, as a certification notes it."""
  return hashlib.sha256(np.ascontiguousarray(label, np.int64).tobytes()).hexdigest()


def check_certificates(
  rows: Sequence[Mapping[str, Any]],
  *,
  sigma: float,
  n: int,
  alpha: float,
  radii: Sequence[float] = (),
) -> None:
  """Recomputes certificates from what they keep of their votes.

  Guarantees:
    `a_changed_certificate_is_refused`: a class, bound or radius that is not what the votes prove.
      Of `certify_within`, which keeps its last votes alone, a bound below what these prove, or
      above what as many votes for one class would; of `certify_at`, which keeps decisions, a radius
      that is not the largest of the certified ones.

  Args:
    rows: with `id`, `label`, `predict`, `radius` and what the certification's form keeps: `count`,
      `total`, `lower_bound`, `selected`; `upper_radius`; or `certified` and `num_draws`.
    sigma, n, alpha: of the certification.
    radii: of `certify_at`.

  Raises:
    ValueError: a row that is not what it was computed from, by its id, or that lacks a value.

  >>> row = {"id": 7, "label": 1, "predict": 1, "selected": 1, "count": 990, "total": 1000}
  >>> row |= {"lower_bound": bounds.lower_bound(990, 1000, alpha=0.001).item(), "radius": 5.0}
  >>> check_certificates([row], sigma=0.5, n=1000, alpha=0.001)
  Traceback (most recent call last):
  ...
  ValueError: id 7: radius=5, where its votes give 0.989005
  """
  if not rows:
    return
  try:
    columns = {
      key: np.asarray([row[key] for row in rows])
      for key in ("id", "label", "predict", "radius", "total")
    }
    problem = (
      _decision_problem(rows, columns, radii)
      if "certified" in rows[0]
      else _bound_problem(rows, columns, sigma, n, alpha)
    )
  except (KeyError, TypeError) as error:
    raise ValueError(f"a row has not what a certificate has ({error!r})") from error
  problem = problem or radius_problem(
    columns["id"], columns["radius"].astype(np.float64), {"sigma": sigma, "n": n, "alpha": alpha}
  )
  if problem:
    raise ValueError(problem)


def _bound_problem(rows, columns, sigma, n, alpha) -> str | None:
  """What in rows that have a bound does not follow from their votes."""
  count, low = (np.asarray([row[key] for row in rows]) for key in ("count", "lower_bound"))
  total, predict, radius = columns["total"], columns["predict"], columns["radius"]
  if not all(np.issubdtype(each.dtype, np.integer) for each in (count, total, predict)):
    raise TypeError("count, total or predict is no integer")
  bad = (count < 0) | (count > total) | (total < 1) | (total > 100 * math.ceil(n / 100))
  if problem := _first(columns, bad, "count", count, "0 to as many as were drawn", total):
    return problem
  if "upper_radius" in rows[0]:
    pairs, places = np.unique(np.stack([count, total]), axis=1, return_inverse=True)
    least, most = (
      special.ndtr(lower_sequence(k, pairs[1], alpha=alpha))[np.ravel(places)]
      for k in (pairs[0], pairs[1])
    )
  else:
    least = most = bounds.lower_bound(count, total, alpha=alpha)
  bad = ~((low >= least - 1e-6 * ("upper_radius" in rows[0]) - _SLACK) & (low <= most + _SLACK))
  if problem := _first(columns, bad, "lower_bound", low, "its votes give", least):
    return problem
  expected = bounds.radius(low, sigma=sigma)
  bad = ~(np.abs(radius - expected) <= _SLACK * (1 + expected))
  if problem := _first(columns, bad, "radius", radius, "its votes give", expected):
    return problem
  selected = np.asarray([row.get("selected", row["predict"]) for row in rows])
  decided = np.where(low >= 0.5, selected, bounds.ABSTAIN)
  bad = (predict != decided) | ((low >= 0.5) & (decided < 0)) | (columns["label"] < 0)
  return _first(columns, bad, "predict", predict, "its votes give", decided)


def _decision_problem(rows, columns, radii) -> str | None:
  """What in rows of decisions does not follow from them."""
  certified = np.asarray([row["certified"] for row in rows])
  if certified.shape != (len(rows), len(radii)) or certified.dtype != bool:
    raise TypeError(f"certified has shape {certified.shape}: expected {(len(rows), len(radii))}")
  expected = np.max(np.where(certified, np.asarray(radii, np.float64), 0.0), axis=1, initial=0.0)
  bad = ~(np.abs(columns["radius"] - expected) <= _SLACK)
  if problem := _first(columns, bad, "radius", columns["radius"], "it certified", expected):
    return problem
  bad = (columns["predict"] >= 0) != certified.any(axis=1)
  return _first(columns, bad, "predict", columns["predict"], "certified is", certified.any(axis=1))


def _first(columns, bad, name: str, found, what: str, expected) -> str | None:
  """The first row that is bad, in words."""
  places = np.flatnonzero(bad)
  if not places.size:
    return None
  row = places[0]
  more = f" (so do ids {first_few(columns['id'][places[1:]])})" if places.size > 1 else ""
  values = [f"{v:.6g}" if isinstance(v, np.floating) else v for v in (found[row], expected[row])]
  return f"id {columns['id'][row]}: {name}={values[0]}, where {what} {values[1]}{more}"


def _short(value: Any) -> str:
  """A value in at most 60 characters."""
  text = repr(value)
  return text if len(text) <= 60 else text[:57] + "..."
