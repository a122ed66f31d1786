"""Comparing two certification logs of the same images, image by image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jax_robust.smoothing import curves
from jax_robust.smoothing.log import CertifyLog, make_log

_OF_ALL_IMAGES = (
  "num_images", "start", "stop", "skip", "max", "draw", "draw_seed", "images_sha256",
  "labels_sha256",
)  # fmt: skip
"""Settings in a header that say which images a log is of."""


class Comparison(NamedTuple):
  """How the first of two logs differs from the second, image by image.

  Attributes:
    difference: of the average certified radii: the mean over images of the difference.
    num_larger: images with a larger radius of the right class in the first log.
    num_smaller: images with a smaller one.
    num_other_class: images for which the logs predict different classes, abstentions among them.
  """

  difference: curves.Estimate
  num_larger: int
  num_smaller: int
  num_other_class: int


def select_images(log: CertifyLog, idx: Sequence[int] | Int[np.ndarray, " m"]) -> CertifyLog:
  """The rows of some images, to compare logs on the same ones.

  Args:
    log: with all of them.
    idx: numbers of the images, increasing, `[m]`.

  Raises:
    ValueError: the log lacks one of them.

  >>> log = make_log([0, 20, 40], [7, 2, 1], [7, 2, 1], [0.5, 0.4, 0.3])
  >>> select_images(log, [0, 40]).radius.tolist()
  [0.5, 0.3]
  """
  idx = np.asarray(idx)
  missing = np.setdiff1d(idx, log.idx)
  if missing.size:
    raise ValueError(f"{log.name or 'the log'} has no image {missing[0]} ({missing.size} missing)")
  rows = np.searchsorted(log.idx, idx)
  columns = (log.idx, log.label, log.predict, log.radius, log.seconds)
  header = log.header
  if len(rows) < len(log.idx):  # what it says of all images no longer holds
    header = {key: value for key, value in header.items() if key not in _OF_ALL_IMAGES}
  return make_log(*(column[rows] for column in columns), name=log.name, header=header)


def compare_logs(log: CertifyLog, other: CertifyLog, *, confidence: float = 0.95) -> Comparison:
  """Compares two methods, or ours and a published log, on the images of both.

  How far an image can be certified differs more between images than between methods: the interval
  of the paired difference is a fraction of what the two averages' own intervals suggest. The logs
  must have the same N to be compared (`convert_log`), and the same images (`select_images`).

  Guarantees:
    `intervals_cover`: the difference of the population lies inside about as often as `confidence`
      says.

  Args:
    log: the rows.
    other: what they are compared with.
    confidence: of the interval, in (0, 1).

  Returns:
    The comparison; the difference is above 0 where the first log's average is the larger one.

  Raises:
    ValueError: the logs are not of the same images, labels and number of draws; no rows;
      confidence out of range.

  >>> log = make_log([0, 1], [7, 2], [7, 2], [0.5, 0.9])
  >>> found = compare_logs(log, make_log([0, 1], [7, 2], [7, 3], [0.4, 0.9]))
  >>> round(found.difference.value, 6), found.num_larger, found.num_other_class
  (0.5, 2, 1)
  """
  for name in ("idx", "label"):
    if not np.array_equal(getattr(log, name), getattr(other, name)):
      raise ValueError(
        f"{log.name or 'a log'} and {other.name or 'a log'} differ in {name}: expected logs of the "
        "same images"
      )
  draws = [each.header.get("n") for each in (log, other)]
  if None not in draws and draws[0] != draws[1]:
    raise ValueError(
      f"n={draws[0]} and n={draws[1]}: expected one number of draws; see convert_log"
    )
  differences = curves.true_radii(log) - curves.true_radii(other)
  return Comparison(
    curves.estimate_mean(differences, confidence=confidence),
    int(np.sum(differences > 0)),
    int(np.sum(differences < 0)),
    int(np.sum(log.predict != other.predict)),
  )
