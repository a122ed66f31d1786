"""A generator: one Gaussian per class, fitted to the training images in pixel space.

The simplest one that is known to help: no object can be seen in its images, yet a share of them in
every batch raises robust accuracy (Gowal et al., Improving Robustness using Generated Data, 2021).
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator

import numpy as np

from jax_robust.data.sources import Samples, Stream, label_problem, layout_problem
from jax_robust.errors import brought_by, check_count, check_name, check_share

COVARIANCES = ("full", "pca", "diagonal", "shrinkage")
BALANCES = ("equal", "as_fitted")


@dataclasses.dataclass(frozen=True)
class ClassGaussian:
  """x = mean + factorᵀ z + scale · z′, with z, z′ standard normal: r + d numbers for one image.

  Args:
    mean: float32 [d], d pixels times channels, 1 being white.
    factor: float32 [r, d], or None.
    scale: float32 [d], or None.
  """

  mean: np.ndarray
  factor: np.ndarray | None = None
  scale: np.ndarray | None = None

  def draw(self, rng: np.random.Generator, num: int) -> np.ndarray:
    """Draws float32 [num, d], neither clipped nor rounded."""
    x = np.tile(self.mean, (num, 1))
    if self.factor is not None:
      x += rng.standard_normal((num, len(self.factor)), np.float32) @ self.factor
    if self.scale is not None:
      x += rng.standard_normal((num, len(self.mean)), np.float32) * self.scale[None]
    return x


def fit(
  images: np.ndarray,
  *,
  covariance: str = "full",
  rank: int | None = None,
  shrinkage: float | None = None,
) -> ClassGaussian:
  """Fits the Gaussian of one class, without ever forming the d × d covariance S.

  With Xc the n centred images as rows, S = Xcᵀ Xc / (n − 1), and Xcᵀ z / √(n − 1) with
  z ~ N(0, Iₙ) has covariance S exactly, whatever its rank: n may be smaller than d, and nothing is
  inverted.

  Guarantees:
    `moments`: before clipping, samples have the mean of the images and, for "full", covariance S.

  Args:
    images: uint8 [n, h, w, c] of one class, n at least 2.
    covariance: "full": S. "pca": S cut to its `rank` largest eigenvalues. "diagonal": its diagonal
      only. "shrinkage": (1 − s) S + s (tr S / d) I with s = `shrinkage`.
    rank: Number of principal components for "pca".
    shrinkage: Weight in [0, 1] for "shrinkage"; None takes Ledoit and Wolf's.

  Returns:
    The Gaussian.

  Raises:
    ValueError: for arguments that do not fit.

  >>> images = np.random.default_rng(0).integers(0, 256, (5, 2, 2, 1)).astype(np.uint8)
  >>> fit(images).factor.shape
  (5, 4)

  Reference: Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance
  matrices, 2004.
  """
  _check_options(covariance, rank, shrinkage)
  images = np.asarray(images)
  if images.dtype != np.uint8 or images.ndim != 4 or len(images) < 2:
    raise ValueError(
      f"images: {images.dtype} {list(images.shape)}, expected uint8 [n, h, w, c] with n >= 2"
    )
  x = images.reshape(len(images), -1).astype(np.float32) / 255
  mean = x.mean(0, dtype=np.float64).astype(np.float32)
  x -= mean[None]
  x /= np.float32(np.sqrt(len(x) - 1))
  if covariance == "diagonal":
    return ClassGaussian(
      mean, scale=np.sqrt(np.square(x, dtype=np.float64).sum(0)).astype(np.float32)
    )
  if covariance == "pca":
    return ClassGaussian(mean, factor=_principal(x, int(rank)))  # pyrefly: ignore
  if covariance == "full":
    return ClassGaussian(mean, factor=x)
  shrinkage = _ledoit_wolf(x) if shrinkage is None else shrinkage
  variance = shrinkage * np.square(x, dtype=np.float64).sum() / x.shape[1]
  return ClassGaussian(
    mean,
    factor=x * np.float32(np.sqrt(1 - shrinkage)),
    scale=np.full(x.shape[1], np.sqrt(variance), np.float32),
  )


@dataclasses.dataclass(frozen=True)
class ChunkStream(Stream):
  """A stream whose batches are chunks that can be drawn by themselves.

  Args:
    num_chunks: how many there are.
    chunks: `chunks(numbers)` yields (images, labels) of those chunks, in the order of the stream.
  """

  num_chunks: int
  chunks: Callable[[Collection[int]], Iterator[Samples]]


def sample_chunks(
  images: np.ndarray,
  labels: np.ndarray,
  *,
  num_examples: int,
  num_classes: int,
  seed: int = 0,
  balance: str = "equal",
  chunk_size: int = 1024,
  covariance: str = "full",
  rank: int | None = None,
  shrinkage: float | None = None,
) -> ChunkStream:
  """Fits a Gaussian per class and returns its samples, for `data.shard_writer.write_shards`.

  Samples are clipped to [0, 1] and rounded to uint8, as the originals are kept; their label is the
  class of their Gaussian. They come sorted by class, drawn when they are read, a chunk at a time.

  Guarantees:
    `reproducible`: chunk k of class c is a function of (seed, c, k) and of that class's images
      alone.
    `counts`: each class has its share, to within one sample.

  Args:
    images: uint8 [n, h, w, c], the originals; training images only.
    labels: integers [n] in `[0, num_classes)`.
    num_examples: Samples in all.
    num_classes: Number of classes.
    seed: Of all that is drawn, not negative.
    balance: "equal": as many samples of each class, to within one. "as_fitted": in the originals'
      shares, to within one.
    chunk_size: Samples in a chunk at most; it is part of the seed.
    covariance: As `fit` takes it.
    rank: As `fit` takes it.
    shrinkage: As `fit` takes it.

  Returns:
    The samples, as a stream of chunks any of which can be drawn by itself.

  Raises:
    ValueError: for arguments that do not fit, and for a class with samples to draw but fewer than
      two images.

  >>> images = np.random.default_rng(0).integers(0, 256, (6, 2, 2, 1)).astype(np.uint8)
  >>> samples = sample_chunks(images, np.arange(6) % 2, num_examples=5, num_classes=2)
  >>> [labels.tolist() for _, labels in samples.batches()]
  [[0, 0], [1, 1, 1]]
  """
  _check_options(covariance, rank, shrinkage)
  check_name("balance", balance, BALANCES)
  check_count(num_examples=num_examples, chunk_size=chunk_size, num_classes=num_classes)
  check_count(0, seed=seed)
  num_examples, chunk_size, num_classes = int(num_examples), int(chunk_size), int(num_classes)
  images, labels = np.asarray(images), np.asarray(labels)
  if problem := layout_problem(images, labels) or label_problem(labels, num_classes):
    raise ValueError(f"{problem} (of the originals)")
  present = np.bincount(labels, minlength=num_classes)
  weights = np.ones(num_classes, np.int64) if balance == "equal" else present
  edges = np.concatenate([[0], np.cumsum(weights)]) * num_examples // weights.sum()
  counts = np.diff(edges)
  short = np.flatnonzero((counts > 0) & (present < 2))
  if short.size:
    raise ValueError(
      f"labels: class {short[0]} has {present[short[0]]} images; a Gaussian takes two at least"
    )

  def chunks(numbers: Collection[int] | None = None) -> Iterator[Samples]:
    number = -1
    for label, count in enumerate(counts.tolist()):
      gaussian = None  # one in memory at a time
      for chunk, start in enumerate(range(0, count, chunk_size)):
        number += 1
        if numbers is not None and number not in numbers:
          continue
        gaussian = gaussian or fit(
          images[labels == label], covariance=covariance, rank=rank, shrinkage=shrinkage
        )
        rng = np.random.default_rng((seed, label, chunk))
        # A chunk is drawn whole and then cut: its samples do not depend on how many are wanted.
        x = gaussian.draw(rng, chunk_size)[: count - start]
        yield _to_uint8(x).reshape(-1, *images.shape[1:]), np.full(len(x), label, np.int32)

  num_chunks = int(np.sum(-(-counts // chunk_size)))
  image_shape = images.shape[1:]
  return ChunkStream(
    "Gaussian samples", num_examples, image_shape, num_classes, chunks, num_chunks, chunks
  )


def _check_options(covariance, rank, shrinkage) -> None:
  """Refuses options of `fit` that do not fit one another."""
  check_name("covariance", covariance, COVARIANCES)
  for name, value, owner in (("rank", rank, "pca"), ("shrinkage", shrinkage, "shrinkage")):
    if value is not None and covariance != owner:
      raise ValueError(f"{name}={value}: belongs to covariance={owner!r}, not {covariance!r}")
  if covariance == "pca":
    check_count(rank=rank)
  if shrinkage is not None:
    check_share(shrinkage=shrinkage)


def _to_uint8(x: np.ndarray) -> np.ndarray:
  """Clips to [0, 1] and rounds to 255ths."""
  return np.round(np.clip(x, 0, 1) * 255).astype(np.uint8)


def _principal(x: np.ndarray, rank: int) -> np.ndarray:
  """The `rank` largest principal components of centred, scaled rows, as rows of their lengths."""
  limit = min(len(x) - 1, x.shape[1])
  if rank > limit:
    raise ValueError(
      f"rank={rank}: expected 1 to {limit} for {len(x)} images of {x.shape[1]} numbers"
    )
  # The eigenvectors of the smaller Gram matrix: n × n or d × d, in double precision.
  x = x.astype(np.float64)
  if len(x) < x.shape[1]:
    _, vectors = np.linalg.eigh(x @ x.T)
    return (vectors[:, -rank:].T @ x).astype(np.float32)
  values, vectors = np.linalg.eigh(x.T @ x)
  lengths = np.sqrt(np.maximum(values[-rank:], 0))
  return (vectors[:, -rank:] * lengths[None]).T.astype(np.float32)


def _ledoit_wolf(x: np.ndarray) -> float:
  """The shrinkage that minimises the expected squared error, for centred rows over √(n − 1)."""
  with brought_by("train"):
    from sklearn.covariance import ledoit_wolf_shrinkage

  return float(ledoit_wolf_shrinkage(x * np.sqrt(len(x) - 1), assume_centered=True))
