"""Two certification logs of the same images beside each other."""

from typing import NamedTuple

import numpy as np

from jax_robust.smoothing import curves
from jax_robust.smoothing.log import CertifyLog


class Comparison(NamedTuple):
  """How the first of two logs differs from the second, image by image."""

  difference: curves.Estimate
  """Of the average certified radii: the mean over images of the difference."""
  num_larger: int
  """Images with a larger radius of the right class in the first log."""
  num_smaller: int
  num_other_class: int
  """Images of which the logs predict different classes, abstentions among them."""


def compare_logs(log: CertifyLog, other: CertifyLog, *, confidence: float = 0.95) -> Comparison:
  """Compares two methods, or ours and a published log, on the images of both.

  Images differ in how far they can be certified more than methods do: the interval of the paired
  difference is a fraction of what the two averages' own intervals suggest. The logs must have the
  same N to be compared (`convert_log`), and the same images (`select_images`).

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

  >>> from jax_robust.smoothing.log import make_log
  >>> log = make_log([0, 1], [7, 2], [7, 2], [0.5, 0.9])
  >>> found = compare_logs(log, make_log([0, 1], [7, 2], [7, 3], [0.4, 0.9]))
  >>> round(found.difference.value, 6), found.num_larger, found.num_other_class
  (0.5, 2, 1)
  """
  for name in ("idx", "label"):
    if not np.array_equal(getattr(log, name), getattr(other, name)):
      raise ValueError(
        f"{_name(log)} and {_name(other)} differ in {name}: expected logs of the same images"
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


def _name(log: CertifyLog) -> str:
  """What to call a log in an error message."""
  return log.name or "a log"
