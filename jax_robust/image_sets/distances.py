"""Distances of one set of images to another, in any features: FID, KID, precision and recall."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jax_robust.errors import check_count
from jax_robust.image_sets.features import check_features
from jax_robust.image_sets.neighbours import nearest

_MOST_ROWS = 10_000
"""Rows of a set that subsets are drawn of: the kernel of so many by so many is 800 MB."""

_BLOCK = 1024


def frechet_distance(candidates: Any, real: Any) -> float:
  """FID: the Fréchet distance of two Gaussians that have the sets' means and covariances.

      ‖μ₁ - μ₂‖² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½)

  The trace of the root is the sum of the singular values of A Bᵀ, where Σ₁ = AᵀA and Σ₂ = BᵀB: no
  root of a matrix is taken, and sets of fewer images than features are no special case. The value
  is biased upwards, the more the fewer images there are: compare sets of one size only.

  Guarantees:
    `gaussians_have_their_distance`: in closed form, for means and covariances that are known.
    `equal_sets_have_none`, `order_does_not_matter`.

  Args:
    candidates, real: features of one net, `[n, d]` and `[m, d]`, two rows each at least.

  Returns:
    The squared distance, at least 0.

  Raises:
    TypeError, ValueError: features that are none; a single row.

  >>> frechet_distance(np.array([[0.0], [2.0]]), np.array([[3.0], [5.0]]))
  9.0

  Reference: Heusel et al., 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local
  Nash Equilibrium", https://arxiv.org/abs/1706.08500
  """
  candidates, real = _at_least_two(candidates, real)
  means = [rows.mean(0, dtype=np.float64) for rows in (candidates, real)]
  roots = [_root(rows, mean) for rows, mean in zip((candidates, real), means, strict=True)]
  common = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
  variance = sum((root**2).sum() for root in roots)
  return max(0.0, float(((means[0] - means[1]) ** 2).sum() + variance - 2 * common))


def _root(rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
  """A matrix A of at most d rows with AᵀA the covariance, without bias."""
  centred = (rows - mean) / np.sqrt(len(rows) - 1)
  if len(rows) <= rows.shape[1]:
    return centred
  return np.asarray(np.linalg.qr(centred, mode="r"))


class KernelDistance(NamedTuple):
  """KID: mean over subsets, and their standard deviation."""

  mean: float
  std: float


def kernel_distance(
  candidates: Any, real: Any, *, subset_size: int = 1000, num_subsets: int = 100, seed: int = 0
) -> KernelDistance:
  """KID: the squared maximum mean discrepancy under the kernel (x·y/d + 1)³, without bias.

  As published it is the mean over subsets, drawn without replacement of each set, of

      mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) - 2 mean_{i,j} k(x_i, y_j)

  Guarantees:
    `has_no_bias`: of sets from one distribution the expectation is 0, and values may be negative.
    `is_its_definition`: of whole sets, computed term by term.

  Args:
    candidates, real: features of one net, `[n, d]` and `[m, d]`; of more than 10,000 rows so many
      are drawn.
    subset_size: rows of a subset; of smaller sets all rows.
    num_subsets: subsets.
    seed: of the draws.

  Returns:
    Mean and standard deviation over the subsets.

  Raises:
    TypeError, ValueError: features that are none; a single row; counts out of range.

  Reference: Bińkowski et al., 2018, "Demystifying MMD GANs", https://arxiv.org/abs/1801.01401
  """
  check_count(2, subset_size=subset_size)
  check_count(num_subsets=num_subsets)
  rng = np.random.default_rng(seed)
  x, y = _at_least_two(candidates, real)
  x, y = (rows[rng.permutation(len(rows))[:_MOST_ROWS]].astype(np.float64) for rows in (x, y))
  size = min(subset_size, len(x), len(y))
  draws = [[rng.choice(len(rows), size, replace=False) for rows in (x, y)]
           for _ in range(num_subsets)]  # fmt: skip
  of_x, of_y = ([draw[number] for draw in draws] for number in (0, 1))
  within = _kernel_means(x, x, of_x, of_x) + _kernel_means(y, y, of_y, of_y)
  values = within - 2 * _kernel_means(x, y, of_x, of_y)
  return KernelDistance(float(values.mean()), float(values.std()))


def _kernel_means(x, y, of_x, of_y) -> np.ndarray:
  """The kernel's mean over pairs of each subset; of a set with itself, over pairs of two images."""
  kernel = (x @ y.T / x.shape[1] + 1) ** 3
  if x is y:
    np.fill_diagonal(kernel, 0)
  size = len(of_x[0])
  num_pairs = size * (size - (x is y))
  sums = [kernel[np.ix_(rows, columns)].sum() for rows, columns in zip(of_x, of_y, strict=True)]
  return np.array(sums) / num_pairs


class Fidelity(NamedTuple):
  """What share of each of two sets lies among the images of the other.

  Attributes:
    precision: share of the candidates inside a real image's ball.
    recall: share of the real images inside a candidate's ball.
    density: how many real balls a candidate is in, on average, in units of k.
    coverage: share of the real images with a candidate in their ball.
  """

  precision: float
  recall: float
  density: float
  coverage: float


def fidelity(candidates: Any, real: Any, *, k: int = 3) -> Fidelity:
  """Precision, recall, density and coverage: are candidates realistic, and real images covered?

  The ball of an image reaches, closed, to the k-th nearest of its own set. Density and coverage
  hold against single outliers, whose large balls hold much.

  Guarantees:
    `equal_sets_are_faithful`: precision, recall and coverage are 1.
    `sets_apart_are_not`: all are 0.
    `is_its_definition`: over all pairs, computed in float64.

  Args:
    candidates, real: features of one net, `[n, d]` and `[m, d]`.
    k: neighbours; 3 as published for precision and recall, 5 for density and coverage.

  Returns:
    The four numbers.

  Raises:
    TypeError, ValueError: features that are none, or no more than k rows.

  >>> fidelity(np.array([[0.0], [1.0], [9.0]]), np.array([[0.0], [1.0], [2.0]]), k=1)[:2]
  (0.6666666666666666, 1.0)

  Reference: Kynkäänniemi et al., 2019, "Improved Precision and Recall Metric for Assessing
  Generative Models", https://arxiv.org/abs/1904.06991; Naeem et al., 2020, "Reliable Fidelity and
  Diversity Metrics for Generative Models", https://arxiv.org/abs/2002.09797
  """
  check_count(k=k)
  candidates, real = check_features(candidates=candidates, real=real)
  radius, candidate_radius = (
    nearest(rows, rows, k=k, exclude_self=True).distances[:, -1] for rows in (real, candidates)
  )
  in_real = _num_balls(candidates, real, radius)
  in_candidates = _num_balls(real, candidates, candidate_radius)
  closest = nearest(real, candidates).distances[:, 0]
  return Fidelity(
    precision=float((in_real > 0).mean()),
    recall=float((in_candidates > 0).mean()),
    density=float(in_real.mean() / k),
    coverage=float((closest <= radius).mean()),
  )


def _num_balls(
  points: np.ndarray, centres: np.ndarray, radii: Float[np.ndarray, " m"]
) -> Int[np.ndarray, " n"]:
  """In how many of the closed balls each point lies.

  Squared distances are products in float64, to about 1e-14 of the squares that they are made of;
  the slack keeps the point that a radius reaches to inside.
  """
  mean = centres.mean(0, dtype=np.float64)
  counts = np.zeros(len(points), int)
  for first, some in _blocks(points, mean):
    for start, block in _blocks(centres, mean):
      squares = (some**2).sum(1)[:, None] + (block**2).sum(1)[None]
      reach = radii[start : start + len(block)] ** 2
      inside = squares - 2 * some @ block.T <= reach * (1 + 1e-9) + 1e-12 * squares
      counts[first : first + len(some)] += inside.sum(1)
  return counts


def _blocks(rows: np.ndarray, mean: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  """Blocks of centred rows in float64, and where they begin."""
  for start in range(0, len(rows), _BLOCK):
    yield start, rows[start : start + _BLOCK] - mean


def _at_least_two(candidates: Any, real: Any) -> list[np.ndarray]:
  """Both sets' features, of two images at least, since one has no variance."""
  found = check_features(candidates=candidates, real=real)
  for name, rows in zip(("candidates", "real"), found, strict=True):
    if len(rows) < 2:
      raise ValueError(f"{name} has a single row: expected features [n, d] of two images or more")
  return found
