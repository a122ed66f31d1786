"""Nearest neighbours by matrix products of blocks, measured again in float64."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jax_robust.errors import check_count, check_flag
from jax_robust.image_sets.features import check_features

_SPARE = 8
"""How many more candidates than neighbours the device returns, to be measured again."""

_MOST_VALUES = 2**24
"""Of the float64 differences that the host holds at once: 128 MB."""


class Neighbours(NamedTuple):
  """The nearest rows of a pool for each query, the nearest first.

  Attributes:
    distances: l2 distances, float64 `[n, k]`.
    indices: rows of the pool, `[n, k]`.
  """

  distances: Float[np.ndarray, "n k"]
  indices: Int[np.ndarray, "n k"]


def nearest(
  queries: Any, pool: Any, *, k: int = 1, exclude_self: bool = False, block_size: int = 1024
) -> Neighbours:
  """The k nearest rows of a pool for each query, among all rows of the pool, in l2.

  The device finds the k + 8 rows of smallest ‖q‖² + ‖p‖² - 2 q·p in float32, of features that are
  centred and scaled to at most 1; the host measures the distances of these in float64, as norms
  of differences, and keeps the k smallest. Whatever the sizes, one program is compiled for each
  block size and number of features.

  Guarantees:
    `finds_what_scikit_learn_finds`: indices and distances, for k of one and of several.
    `distances_are_exact`: to float64's rounding, those of the rows that are returned. A nearer row
      is missed only where more than 8 rows further away look nearer in float32, that is where
      nine squared distances lie within about d · 6e-8 · (‖q‖ + ‖p‖)² of one another.
    `equal_rows_keep_their_order`: of rows at one distance the first of the candidates comes first.
    `blocks_do_not_matter`.

  Args:
    queries: features `[n, d]`.
    pool: features `[m, d]`.
    k: neighbours a query; meant to be small.
    exclude_self: whether the queries are the pool, and row i is not a neighbour of query i.
    block_size: rows of a block; the device holds two blocks of features and their distances.

  Returns:
    Distances and indices, `[n, k]`.

  Raises:
    TypeError, ValueError: features that are none (`check_features`), k or block_size below 1, fewer
      than k rows to choose from, `exclude_self` with another number of queries than of rows.

  >>> found = nearest(np.array([[0.9], [2.2]]), np.array([[0.0], [1.0], [2.0]]))
  >>> found.indices.ravel().tolist(), found.distances.ravel().round(3).tolist()
  ([1, 2], [0.1, 0.2])
  """
  check_count(k=k, block_size=block_size)
  check_flag(exclude_self=exclude_self)
  queries, pool = check_features(queries=queries, pool=pool)
  _check_enough(len(queries), len(pool), k, exclude_self)
  num_candidates = min(k + _SPARE, len(pool) - exclude_self)
  size = min(block_size, _power_of_two(max(len(queries), len(pool))))
  mean, scale = _centre(pool)
  prepared = lambda rows: ((rows - mean) / scale).astype(np.float32)  # noqa: E731
  found = []
  for start, block in _blocks(queries, size):
    best = _start(size, num_candidates)
    for first, pool_block in _blocks(pool, size):
      best = _merge(best, prepared(block), prepared(pool_block), start, first, len(pool),
                    exclude_self=exclude_self)  # fmt: skip
    rows = queries[start : start + size]
    found.append(_measure(rows, pool, np.asarray(best.indices)[: len(rows)], k))
  return Neighbours(*map(np.concatenate, zip(*found, strict=True)))


class _Best(NamedTuple):
  """The nearest candidates so far: minus their squared distances, and their rows."""

  values: Float[Array, "b c"]
  indices: Int[Array, "b c"]


def _check_enough(num_queries: int, num_pool: int, k: int, exclude_self: bool) -> None:
  """Raises unless each query has k rows to choose from."""
  if exclude_self and num_queries != num_pool:
    raise ValueError(
      f"exclude_self with {num_queries} queries and a pool of {num_pool}: give the pool itself as "
      "queries, or leave exclude_self out"
    )
  if k > num_pool - exclude_self:
    own = ", a query not being its own neighbour" if exclude_self else ""
    raise ValueError(f"k={k}: the pool has {num_pool} rows{own}; expected k at most as many")


def _centre(pool: np.ndarray) -> tuple[np.ndarray, Any]:
  """What rows are moved and divided by, so that float32 holds their squares well."""
  mean = pool.mean(0, dtype=np.float64).astype(pool.dtype)
  spread = max(float(np.abs(rows - mean).max()) for _, rows in _slices(pool, 1024))
  return mean, pool.dtype.type(spread or 1.0)


def _slices(rows: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
  """Slices of so many rows, and where they begin."""
  for start in range(0, len(rows), size):
    yield start, rows[start : start + size]


def _blocks(rows: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
  """Blocks of exactly `size` rows, the last filled up with its first row, and where they begin."""
  for start, block in _slices(rows, size):
    lacking = size - len(block)
    yield start, np.concatenate([block, np.repeat(block[:1], lacking, 0)]) if lacking else block


def _start(size: int, num_candidates: int) -> _Best:
  """No candidates yet."""
  shape = (size, num_candidates)
  return _Best(jnp.full(shape, -jnp.inf), jnp.zeros(shape, jnp.int32))


@functools.partial(jax.jit, static_argnames="exclude_self")
def _merge(best, queries, pool, start, first, num_pool, *, exclude_self: bool) -> _Best:
  """The nearest candidates, those of one more block of the pool included."""
  product = jnp.matmul(queries, pool.T, precision="highest")  # no TF32 or bfloat16
  squared = (queries**2).sum(1)[:, None] + (pool**2).sum(1)[None] - 2 * product
  row = first + jnp.arange(len(pool), dtype=jnp.int32)
  out = jnp.broadcast_to(row >= num_pool, squared.shape)
  if exclude_self:
    out |= row[None] == (start + jnp.arange(len(queries), dtype=jnp.int32))[:, None]
  values = jnp.concatenate([best.values, jnp.where(out, -jnp.inf, -squared)], 1)
  indices = jnp.concatenate([best.indices, jnp.broadcast_to(row, squared.shape)], 1)
  values, place = jax.lax.top_k(values, best.values.shape[1])
  return _Best(values, jnp.take_along_axis(indices, place, 1))


def _measure(queries, pool, candidates, k: int) -> tuple[np.ndarray, np.ndarray]:
  """The k nearest of each query's candidates by their distances in float64, and these."""
  candidates = np.sort(candidates, 1)  # so that of equal distances the first row comes first
  at_once = max(1, _MOST_VALUES // (candidates.shape[1] * pool.shape[1]))
  distances = np.empty(candidates.shape)
  for start, rows in _slices(queries, at_once):
    some = slice(start, start + len(rows))
    difference = pool[candidates[some]].astype(np.float64) - rows[:, None].astype(np.float64)
    distances[some] = np.sqrt(np.einsum("nkd,nkd->nk", difference, difference))
  order = np.argsort(distances, 1, kind="stable")[:, :k]
  return np.take_along_axis(distances, order, 1), np.take_along_axis(candidates, order, 1)


def _power_of_two(number: int) -> int:
  """The least power of two that is not less."""
  return 1 << (number - 1).bit_length()
