"""Images that are there twice: the same pixels, or so near that training gains nothing by both."""

import hashlib
import itertools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from jax_robust.errors import check_count, check_positive
from jax_robust.image_sets.features import check_features
from jax_robust.image_sets.neighbours import nearest

SIDE = 8
"""Pixels of a thumbnail's side."""

DISTANCE = 0.03
"""Between thumbnails of which one counts as a near-duplicate of the other: 7.65 grey levels."""

MOST_NEIGHBOURS = 4096
"""More than any image has duplicates: a larger count tells of a distance that is too large."""

ALONE = -1
"""In place of a row: there is none that it is a duplicate of."""


def pixel_digests(images: Any) -> UInt64[np.ndarray, "n 2"]:
  """128 bits of the BLAKE2 digest of each image's pixels; equal ones are equal images.

  Args:
    images: uint8 `[n, h, w, c]`.

  Raises:
    TypeError: images of another type, of which equal ones may have different bytes.

  >>> pixel_digests(np.zeros((2, 4, 4, 3), np.uint8)).shape
  (2, 2)
  """
  images = _images(images)
  digests = [hashlib.blake2b(each.tobytes(), digest_size=16).digest() for each in images]
  return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2).astype(np.uint64)


def thumbnails(images: Any, *, side: int = SIDE) -> Float[np.ndarray, "n d"]:
  """Images shrunk to so many pixels a side, as rows between which l2 distances are plain to read.

  A pixel of a thumbnail is the mean over the area that it covers, so that shrinking also blurs:
  recompression, noise and shifts of a pixel are seen little. Rows are divided by the root of their
  length, so that their l2 distance is the root mean square difference of two thumbnails, of
  pixels in [0, 1].

  Guarantees:
    `distance_is_rms`: of images that differ by a constant, that constant.

  Args:
    images: uint8 `[n, h, w, c]`.
    side: of a thumbnail; an image that is smaller keeps its size.

  Raises:
    TypeError: images of another type.
    ValueError: a side below 1.

  >>> thumbnails(np.full((1, 32, 32, 3), 255, np.uint8)).shape
  (1, 192)
  """
  images = _images(images)
  check_count(side=side)
  rows, columns = (_averaging(size, min(side, size)) for size in images.shape[1:3])
  x = images.astype(np.float32) / np.float32(255)
  small = np.einsum("ph,nhwc,qw->npqc", rows, x, columns, optimize=True)
  return small.reshape(len(x), -1) / np.float32(np.sqrt(small[0].size))


class Found(NamedTuple):
  """What a search found of each image of a set.

  Attributes:
    of: the row that the image is a duplicate of, `[n]`, or `ALONE`; in the set itself an earlier
      one that stays, so that leaving out all duplicates leaves one of each.
    distance: to that row, `[n]`; NaN where there is none.
  """

  of: Int[np.ndarray, " n"]
  distance: Float[np.ndarray, " n"]

  @property
  def is_duplicate(self) -> Bool[np.ndarray, " n"]:
    """Which images are duplicates."""
    return self.of != ALONE


def exact_within(digests: Any) -> Found:
  """Images whose pixels an earlier one of the set has.

  >>> exact_within(np.array([[1, 1], [2, 2], [1, 1]], np.uint64)).of.tolist()
  [-1, -1, 0]
  """
  _, first, group = np.unique(_digests(digests), return_index=True, return_inverse=True)
  of = first[group.ravel()]
  return _found(np.where(of == np.arange(len(of)), ALONE, of))


def exact_against(digests: Any, reference: Any) -> Found:
  """Images whose pixels one of a reference set has; the first of these."""
  ours, theirs = _digests(digests), _digests(reference)
  known, first = np.unique(theirs, return_index=True)
  place = np.minimum(np.searchsorted(known, ours), len(known) - 1)
  return _found(np.where(known[place] == ours, first[place], ALONE))


class Pairs(NamedTuple):
  """Images of a set that lie near one another, each pair once, by the first and then the second.

  Attributes:
    first, second: rows `[p]`, first < second.
    distance: between them, `[p]`.
  """

  first: Int[np.ndarray, " p"]
  second: Int[np.ndarray, " p"]
  distance: Float[np.ndarray, " p"]


def near_pairs(features: Any, distance: float = DISTANCE) -> Pairs:
  """All pairs of images of a set within a distance of each other.

  Args:
    features: `[n, d]`, such as `thumbnails`; all n² distances are measured, block by block.
    distance: in l2, above 0.

  Raises:
    TypeError, ValueError: features that are none, or a distance within which an image has more than
      `MOST_NEIGHBOURS` others.

  >>> near_pairs([[0.0], [5.0], [0.1], [0.2]], 0.15).second.tolist()
  [2, 3]
  """
  check_positive(distance=distance)
  (features,) = check_features(features=features)
  rows, count, parts = np.arange(len(features)), min(4, len(features)), []
  while len(rows):
    found = nearest(features[rows], features, k=count)  # itself is among them
    is_near = found.distances <= distance
    is_whole = ~is_near[:, -1] | (count == len(features))  # none further away is near
    place, rank = np.nonzero(is_near & is_whole[:, None] & (found.indices > rows[:, None]))
    parts.append((rows[place], found.indices[place, rank], found.distances[place, rank]))
    rows, count = rows[~is_whole], min(4 * count, len(features))
    if len(rows) and count > MOST_NEIGHBOURS:
      raise ValueError(
        f"distance={distance}: image {rows[0]} has more than {MOST_NEIGHBOURS // 4} others within "
        "it; choose a smaller one, of which near-duplicates are few"
      )
  first, second, gap = map(np.concatenate, zip(*parts, strict=True))
  order = np.lexsort((second, first))
  return Pairs(first[order], second[order], gap[order])


def near_within(num_images: int, pairs: Pairs) -> Found:
  """Which images of a set to leave out for no two to be near: those near an earlier one that stays.

  Guarantees:
    `no_two_that_stay_are_near`, and `left_out_is_near_one_that_stays`: the nearest of the earlier
      ones that stay.

  >>> near_within(4, near_pairs([[0.0], [5.0], [0.1], [0.2]], 0.15)).of.tolist()
  [-1, -1, 0, -1]
  """
  check_count(num_images=num_images)
  of, gap = np.full(num_images, ALONE), np.full(num_images, np.nan)
  order = np.argsort(pairs.second, kind="stable")
  for second, rows in itertools.groupby(order.tolist(), lambda row: int(pairs.second[row])):
    stay = [row for row in rows if of[pairs.first[row]] == ALONE]
    if stay:
      nearest_row = min(stay, key=lambda row: pairs.distance[row])
      of[second], gap[second] = pairs.first[nearest_row], pairs.distance[nearest_row]
  return Found(of, gap)


def near_against(features: Any, reference: Any, distance: float = DISTANCE) -> Found:
  """Images that lie within a distance of one of a reference set; the nearest of these.

  Args: features and distance as those of `near_pairs`; `reference` are features of the same kind.
  """
  check_positive(distance=distance)
  found = nearest(features, reference)
  gap, of = found.distances[:, 0], found.indices[:, 0]
  is_near = gap <= distance
  return Found(np.where(is_near, of, ALONE), np.where(is_near, gap, np.nan))


def _images(images: Any) -> np.ndarray:
  """Images as an array of bytes."""
  found = np.asarray(images)
  if found.dtype != np.uint8 or found.ndim != 4 or 0 in found.shape:
    raise TypeError(
      f"images are {found.dtype}{list(found.shape)}: expected uint8 [n, height, width, channels]"
    )
  return found


def _averaging(size: int, side: int) -> Float[np.ndarray, "p h"]:
  """The matrix that averages `size` pixels to `side`, by the share of each that is covered."""
  edges = np.arange(side + 1) * (size / side)
  pixels = np.arange(size)
  low = np.maximum(edges[:-1, None], pixels)
  high = np.minimum(edges[1:, None], pixels + 1)
  return (np.maximum(high - low, 0) * (side / size)).astype(np.float32)


def _digests(digests: Any) -> np.ndarray:
  """Digests as one value each, which can be sorted."""
  found = np.asarray(digests)
  if found.dtype != np.uint64 or found.ndim != 2 or found.shape[1] != 2 or not len(found):
    raise TypeError(
      f"digests are {found.dtype}{list(found.shape)}: expected uint64 [n, 2], of pixel_digests"
    )
  return np.ascontiguousarray(found).view([("high", "u8"), ("low", "u8")]).ravel()


def _found(of: np.ndarray) -> Found:
  """Exact duplicates, at distance 0."""
  return Found(of, np.where(of == ALONE, np.nan, 0.0))
