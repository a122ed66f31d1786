"""Which images of a labelled set to keep: pure functions of what is known of each image.

A filter returns a mask, True for the images that are kept, or one with what is to be said of it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jax_robust.errors import (
  as_numbers,
  brought_by,
  check_count,
  check_labels,
  check_name,
  check_share,
)
from jax_robust.image_sets.features import check_features

RULES = ("boundary", "spread")
"""How images are chosen by their clusters: see `by_clusters`."""

Mask = Bool[np.ndarray, " n"]


def top_share(labels: Any, confidence: Any, share: float) -> Mask:
  """The most confident images of each class.

  Guarantees:
    `share_of_every_class`: of n images of a class, n · share rounded up are kept; of equally
      confident ones the first.

  Args:
    labels: integers `[n]`.
    confidence: numbers `[n]`.
    share: of each class, in [0, 1].

  Raises:
    TypeError, ValueError: no labels, another number of confidences, NaN, a share outside [0, 1].

  >>> top_share([0, 0, 0, 1], [0.2, 0.9, 0.4, 0.1], 0.5).tolist()
  [False, True, True, True]

  Reference: Wang et al., 2023, https://arxiv.org/abs/2302.04638, keep a fifth of each class.
  """
  labels = _labels(labels)
  values = as_numbers(confidence, "confidence")
  if values.shape != labels.shape or np.isnan(values).any():
    raise ValueError(
      f"confidence has shape {list(values.shape)} and {int(np.isnan(values).sum())} NaN: expected "
      f"a number for each of {len(labels)} labels"
    )
  check_share(share=share)
  kept = np.zeros(len(labels), bool)
  for label in np.unique(labels):
    rows = np.flatnonzero(labels == label)
    order = np.argsort(-values[rows], kind="stable")
    kept[rows[order[: _ceil(share * len(rows))]]] = True
  return kept


class Balanced(NamedTuple):
  """Images in equal numbers for every class.

  Attributes:
    kept: mask `[n]`.
    count: images that every class was to have.
    short: by class, how many images it lacks for that.
  """

  kept: Mask
  count: int
  short: Mapping[int, int]


def balance(labels: Any, num_classes: int, *, count: int = 0, seed: int = 0) -> Balanced:
  """As many images of every class, drawn at random; a class that has fewer keeps all of them.

  Guarantees:
    `equal_numbers`: every class that is not short has `count` images.

  Args:
    labels: integers `[n]`, below `num_classes`.
    num_classes: of the set.
    count: images of a class; 0 for as many as the rarest class has, of those that have any.
    seed: of the draw.

  Raises:
    TypeError, ValueError: no labels, or a number out of range.

  >>> found = balance([0, 0, 0, 1, 1], 3)
  >>> found.kept.sum(), found.count, found.short
  (np.int64(4), 2, {2: 2})
  """
  labels = _labels(labels, num_classes)
  check_count(num_classes=num_classes)
  check_count(0, count=count, seed=seed)
  there = np.bincount(labels, minlength=num_classes)
  wanted = count or int(there[there > 0].min())
  kept, draw = np.zeros(len(labels), bool), _random_order(len(labels), seed)
  for label in range(num_classes):
    kept[draw[labels[draw] == label][:wanted]] = True
  lacking = {label: wanted - int(n) for label, n in enumerate(there) if n < wanted}
  return Balanced(kept, wanted, lacking)


def random_subset(num_images: int, num_samples: int, *, seed: int = 0) -> Mask:
  """A random subset of so many images, or all where there are no more.

  Raises:
    ValueError: a number out of range.

  >>> random_subset(10, 4).sum()
  np.int64(4)
  """
  check_count(num_images=num_images, num_samples=num_samples)
  check_count(0, seed=seed)
  kept = np.zeros(num_images, bool)
  kept[_random_order(num_images, seed)[:num_samples]] = True
  return kept


def fit_clusters(features: Any, num_clusters: int, *, seed: int = 0) -> Float[np.ndarray, "k d"]:
  """Centres of clusters of features, by mini-batch k-means of scikit-learn.

  Args:
    features: `[n, d]`.
    num_clusters: how many, at most n.
    seed: of the centres that it starts from, and of the batches.

  Raises:
    TypeError, ValueError: features that are none, or fewer images than clusters.
    ImportError: there is no scikit-learn, and which extra brings it.
  """
  with brought_by("train"):
    from sklearn.cluster import MiniBatchKMeans

  (features,) = check_features(features=features)
  check_count(num_clusters=num_clusters)
  check_count(0, seed=seed)
  if num_clusters > len(features):
    raise ValueError(f"num_clusters={num_clusters}: there are {len(features)} images, too few")
  fitted = MiniBatchKMeans(num_clusters, random_state=seed, n_init=3, batch_size=1024)
  return fitted.fit(features).cluster_centers_


class Place(NamedTuple):
  """Where images lie among clusters.

  Attributes:
    cluster: the one whose centre is nearest, `[n]`.
    gap: how much further away the second nearest centre is, `[n]`; 0 on the boundary between two.
  """

  cluster: Int[np.ndarray, " n"]
  gap: Float[np.ndarray, " n"]


def place_among(features: Any, centres: Any) -> Place:
  """Where images lie among the centres of clusters, of which there are two or more.

  >>> place_among([[1.0], [1.5], [9.0]], [[0.0], [4.0]]).gap.tolist()
  [2.0, 1.0, 4.0]
  """
  features, centres = check_features(features=features, centres=centres)
  if len(centres) < 2:
    raise ValueError("centres has 1 row: between clusters there is a boundary from two on")
  clusters, gaps = [], []
  for start in range(0, len(features), 1024):
    rows = features[start : start + 1024].astype(np.float64)
    distances = np.linalg.norm(rows[:, None] - centres[None], axis=-1)
    two = np.partition(distances, 1, axis=1)
    clusters.append(distances.argmin(1))
    gaps.append(two[:, 1] - two[:, 0])
  return Place(np.concatenate(clusters), np.concatenate(gaps))


def by_clusters(
  place: Place, share: float, *, rule: str = "boundary", boundary_share: float = 0.5, seed: int = 0
) -> Mask:
  """A share of the images, chosen by where they lie among clusters.

  With 'boundary', of the n · share images that are kept, `boundary_share` are those with the
  smallest gap, that is nearest to the boundary between two clusters, and the others are drawn at
  random from the rest. With 'spread', all clusters keep equal numbers, drawn at random; what a
  small cluster lacks is shared by the others.

  Guarantees:
    `keeps_the_share`: n · share images are kept, rounded to the nearest number, 1 at least.

  Args:
    place: of the images.
    share: that is kept, in [0, 1].
    rule: a name in `RULES`.
    boundary_share: of those that are kept by 'boundary', in [0, 1].
    seed: of the draw.

  Raises:
    ValueError: a rule that is none, or a share outside [0, 1].

  Reference: Ghosh, Xu and Zhang, 2025, "Efficient Semi-Supervised Adversarial Training via Latent
  Clustering-Based Data Reduction", https://arxiv.org/abs/2501.10466, keep images near the boundary
  beside others, so that neither prevails. Only its abstract was at hand: that the clusters are
  those of mini-batch k-means, the gap as the measure, and a half at random are choices of ours, as
  are the features and the share in a job. 'spread' is no method of theirs.
  """
  check_name("rule", rule, RULES)
  check_share(share=share, boundary_share=boundary_share)
  check_count(0, seed=seed)
  total = len(place.gap)
  count, draw = max(round(share * total), 1), _random_order(total, seed)
  if rule == "boundary":
    near = np.argsort(place.gap, kind="stable")[: round(boundary_share * count)]
    rest = draw[~np.isin(draw, near)][: count - len(near)]
    chosen = np.concatenate([near, rest])
  else:
    chosen = np.concatenate([
      draw[place.cluster[draw] == cluster][:quota]
      for cluster, quota in enumerate(equal_quotas(np.bincount(place.cluster), count))
    ])  # fmt: skip
  kept = np.zeros(total, bool)
  kept[chosen] = True
  return kept


def equal_quotas(sizes: Any, total: int) -> Int[np.ndarray, " k"]:
  """Shares of a total, equal to within one, but no larger than the sizes; the last get less.

  >>> equal_quotas([1, 5, 9], 9).tolist()
  [1, 4, 4]
  """
  sizes = np.asarray(sizes)
  quotas, left = np.zeros(len(sizes), int), int(total)
  while left and (more := np.flatnonzero(sizes > quotas)).size:
    each = left // len(more)
    more, each = (more, each) if each else (more[:left], 1)
    given = np.minimum(sizes[more] - quotas[more], each)
    quotas[more] += given
    left -= int(given.sum())
  return quotas


def _labels(labels: Any, num_classes: int | None = None) -> Int[np.ndarray, " n"]:
  """Labels as an array `[n]` with an image at least."""
  found = np.asarray(labels)
  if found.ndim != 1 or not len(found) or not np.issubdtype(found.dtype, np.integer):
    raise ValueError(
      f"labels are {found.dtype}{list(found.shape)}: expected integers [n], of an image at least"
    )
  check_labels(found, num_classes)
  return found


def _random_order(count: int, seed: int) -> Int[np.ndarray, " n"]:
  """A random order of so many rows; raw bits and a sort, which NumPy promises for all versions."""
  return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")


def _ceil(number: float) -> int:
  """A number rounded up; .07 · 100, which is 7.000000000000001, is 7."""
  return int(np.ceil(round(number, 9)))
