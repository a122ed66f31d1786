"""Complementarity: whether images of a set lie nearest to training, test or their own images."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jax_robust.errors import check_options
from jax_robust.evaluate.intervals import Interval, binomial_interval
from jax_robust.image_sets.features import check_features
from jax_robust.image_sets.neighbours import nearest

POOLS = ("train", "test", "self")
"""Where a nearest neighbour may be; of equal distances the first of these counts."""


class Places(NamedTuple):
  """Where the nearest neighbour of each image of a candidate set is.

  Attributes:
    pool: number of the pool in `POOLS`, `[n]`.
    row: row in that pool, `[n]`.
    distance: l2 distance, float64 `[n]`.
  """

  pool: Int[np.ndarray, " n"]
  row: Int[np.ndarray, " n"]
  distance: Float[np.ndarray, " n"]


def nearest_places(candidates: Any, train: Any, test: Any, *, block_size: int = 1024) -> Places:
  """Where the nearest neighbour of each candidate is: in train, in test, or among the candidates.

  A share depends on the size of a pool, so that all must be of one size; that of the candidates
  lacks the query itself.

  Guarantees:
    `images_of_one_kind_are_even`: of candidates from the distribution of train and test, each pool
      has a third, n/(3 n - 1) for train and test to be exact.
    `copies_are_theirs`: copies of training images are of train, images far from all others but
      near one another of self.

  Args:
    candidates, train, test: features of one net, `[n, d]` each.
    block_size: as that of `nearest`.

  Returns:
    Pool, row and distance of each.

  Raises:
    TypeError, ValueError: features that are none, or of other sizes than one another.

  >>> train, test = np.array([[0.0], [1.0]]), np.array([[5.0], [6.0]])
  >>> nearest_places(np.array([[0.1], [5.8]]), train, test).pool.tolist()
  [0, 1]

  Reference: Gowal et al., 2021, "Doing More with Less" (arXiv:2110.09468), in LPIPS' features.
  """
  candidates, train, test = check_features(candidates=candidates, train=train, test=test)
  sizes = {"candidates": len(candidates), "train": len(train), "test": len(test)}
  if len(set(sizes.values())) > 1 or len(candidates) < 2:
    told = ", ".join(f"{name} {size}" for name, size in sizes.items())
    raise ValueError(
      f"pools of {told} images: shares depend on the sizes of pools, expected one size of at least "
      "2; cut all to the smallest"
    )
  found = [
    nearest(candidates, pool, exclude_self=name == "self", block_size=block_size)
    for name, pool in zip(POOLS, (train, test, candidates), strict=True)
  ]
  distances, rows = (np.concatenate(each, 1) for each in zip(*found, strict=True))
  pool = distances.argmin(1)
  each = np.arange(len(pool))
  return Places(pool, rows[each, pool], distances[each, pool])


def shares(pool: Int[np.ndarray, " n"]) -> dict[str, Interval]:
  """The share of images whose nearest neighbour is in each pool, with exact 95 % intervals.

  The intervals are for images that are drawn anew beside the same pools. They take images for
  independent of one another, which those of the candidates' own pool are only nearly.

  Args:
    pool: `Places.pool`.

  >>> {name: round(each.value, 2) for name, each in shares(np.array([0, 0, 2])).items()}
  {'train': 0.67, 'test': 0.0, 'self': 0.33}
  """
  counts = np.bincount(pool, minlength=len(POOLS))
  return {
    name: binomial_interval(int(count), len(pool))
    for name, count in zip(POOLS, counts, strict=True)
  }


def profile_distance(profile: Mapping[str, float], reference: Mapping[str, float]) -> float:
  """The total variation distance of two profiles, half the sum of |difference|: 0 to 1.

  It is the share of images that would have to change pools.

  Args:
    profile, reference: share by pool.

  Raises:
    ConfigError: pools that are not those of both.

  >>> even = {"train": 1 / 3, "test": 1 / 3, "self": 1 / 3}
  >>> round(profile_distance({"train": 1.0, "test": 0.0, "self": 0.0}, even), 4)
  0.6667
  """
  check_options("profile", profile, reference)
  check_options("reference", reference, profile)
  return 0.5 * sum(abs(profile[name] - reference[name]) for name in profile)
