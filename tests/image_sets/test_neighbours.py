"""The nearest neighbours are those of scikit-learn's exact search."""

import numpy as np
import pytest
import rows

from jax_robust.image_sets import neighbours
from jax_robust.image_sets.features import check_features
from jax_robust.image_sets.neighbours import nearest

pytestmark = pytest.mark.fast


def made(num, *, num_features=6, seed=0, offset=0.0):
  return np.random.default_rng(seed).normal(size=(num, num_features)).astype(np.float32) + offset


def scikit_learns(queries, pool, k, exclude_self=False):
  """Distances and indices in float64, the query itself left out by its row."""
  from sklearn.neighbors import NearestNeighbors

  search = NearestNeighbors(n_neighbors=k + exclude_self, algorithm="brute")
  search.fit(pool.astype(np.float64))
  distances, indices = search.kneighbors(queries.astype(np.float64))
  if exclude_self:
    assert (indices[:, 0] == np.arange(len(queries))).all()
  return distances[:, int(exclude_self) :], indices[:, int(exclude_self) :]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_finds_what_scikit_learn_finds(k, exclude_self):
  """Far from the origin, too, where ‖q‖² + ‖p‖² - 2 q·p of float32 would hold no digit."""
  pool = made(100, offset=1000.0)
  queries = pool if exclude_self else made(45, seed=1, offset=1000.0)
  found = nearest(queries, pool, k=k, exclude_self=exclude_self, block_size=32)
  distances, indices = scikit_learns(queries, pool, k, exclude_self)
  np.testing.assert_array_equal(found.indices, indices)
  np.testing.assert_allclose(found.distances, distances, rtol=1e-6)
  assert found.distances.dtype == np.float64


def test_distances_are_exact():
  """Of rows that float32 products can't tell apart, the nearest is found and its distance holds."""
  base = made(1, num_features=50, seed=2).astype(np.float64) * 100
  steps = np.arange(1, 9)[::-1, None] * 1e-4
  pool = np.concatenate([base + steps, -base])
  found = nearest(base, pool)
  assert found.indices.item() == 7
  np.testing.assert_allclose(found.distances.item(), 1e-4 * np.sqrt(50), rtol=1e-6)


def test_equal_rows_keep_their_order():
  pool = np.repeat(made(3), 2, 0)
  found = nearest(pool[::2], pool, k=2, block_size=2)
  np.testing.assert_array_equal(found.indices, [[0, 1], [2, 3], [4, 5]])
  np.testing.assert_array_equal(found.distances, 0)


def test_blocks_do_not_matter():
  queries, pool = made(45, seed=1), made(100)
  first = nearest(queries, pool, k=3, block_size=32)
  second = nearest(queries, pool, k=3)
  np.testing.assert_array_equal(first.indices, second.indices)
  np.testing.assert_array_equal(first.distances, second.distances)


def test_sets_of_many_sizes_share_a_program():
  nearest(made(45), made(100), block_size=32)
  compiled = neighbours._merge._cache_size()
  nearest(made(70), made(33), block_size=32)
  nearest(made(33), made(64), block_size=32)
  assert neighbours._merge._cache_size() == compiled


def test_all_of_a_small_pool():
  found = nearest(made(3), made(3), k=2, exclude_self=True)
  np.testing.assert_array_equal(np.sort(found.indices, 1), [[1, 2], [0, 2], [0, 1]])


def test_bytes_are_features():
  pixels = np.array([[0, 255], [250, 3]], np.uint8)
  assert nearest(np.array([[255, 0]], np.uint8), pixels).indices.item() == 1
  (given,) = check_features(pixels=pixels)
  assert given.dtype == np.float32


def test_bad_input():
  good = {"queries": made(3), "pool": made(4)}
  spoilt = made(4)
  spoilt[2, 1] = np.nan
  bad = {
    "text": ({"pool": np.array([["a"]])}, "pool has dtype <U1: expected real numbers"),
    "images": ({"queries": np.zeros((2, 4, 4, 3))}, r"queries has shape \(2, 4, 4, 3\)"),
    "no rows": ({"pool": np.zeros((0, 6))}, r"pool has shape \(0, 6\)"),
    "another net": ({"pool": np.zeros((4, 5))}, "pool has 5 features an image and queries has 6"),
    "NaN": ({"pool": spoilt}, r"pool holds NaN or infinity in row 2 \(1 such rows\)"),
    "k of zero": ({"k": 0}, "k=0"),
    "many k": ({"k": 5}, "k=5: the pool has 4 rows; expected k at most as many"),
    "own rows": ({"exclude_self": True}, "exclude_self with 3 queries and a pool of 4"),
    "k of own": (
      {"queries": made(4), "exclude_self": True, "k": 4},
      "k=4: the pool has 4 rows, a query not being its own neighbour",
    ),
    "no flag": ({"exclude_self": "yes"}, "exclude_self='yes'"),
    "no block": ({"block_size": 0}, "block_size=0"),
  }
  rows.assert_all_refused(bad, lambda changes: nearest(**{**good, **changes}))
