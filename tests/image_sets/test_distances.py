"""FID of Gaussians, KID term by term and without bias, precision and recall of known sets."""

import functools

import numpy as np
import pytest
import rows
from scipy import linalg
from scipy.spatial.distance import cdist

from jax_robust.image_sets.distances import (
  Fidelity,
  fidelity,
  frechet_distance,
  kernel_distance,
)

pytestmark = pytest.mark.fast


def made(num, *, num_features=6, seed=0, offset=0.0):
  return np.random.default_rng(seed).normal(size=(num, num_features)) + offset


def exactly(mean, covariance, num=40, seed=0):
  """Rows whose mean and covariance are exactly these."""
  drawn = made(num, num_features=len(mean), seed=seed)
  drawn -= drawn.mean(0)
  white = np.linalg.solve(np.linalg.cholesky(np.cov(drawn.T)), drawn.T).T
  return white @ np.linalg.cholesky(covariance).T + mean


def test_gaussians_have_their_distance():
  """With covariances that commute Σ (√a - √b)² along the axes; others by SciPy's root."""
  a, b = np.array([1.0, 4.0, 0.25]), np.array([9.0, 1.0, 0.25])
  mean = np.array([1.0, -2.0, 0.5])
  found = frechet_distance(exactly(mean, np.diag(a)), exactly(0 * mean, np.diag(b), num=25, seed=1))
  assert found == pytest.approx((mean**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum())
  one, other = (np.cov(made(9, num_features=3, seed=seed).T) for seed in (2, 3))
  root = linalg.sqrtm(one @ other).real
  expected = (mean**2).sum() + np.trace(one + other - 2 * root)
  assert frechet_distance(exactly(mean, one), exactly(0 * mean, other)) == pytest.approx(expected)


def test_fewer_images_than_features_are_no_special_case():
  """The limit of what a little isotropic noise makes regular; features of zeros change nothing."""
  x, y = made(5, num_features=9), made(7, num_features=9, seed=1)
  one, other = (np.cov(rows.T) + 1e-9 * np.eye(9) for rows in (x, y))
  root = linalg.sqrtm(one @ other).real
  expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(one + other - 2 * root)
  assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-3)
  wide = [np.pad(rows, ((0, 0), (0, 50))) for rows in (made(30), made(30, seed=1))]
  assert frechet_distance(*wide) == pytest.approx(frechet_distance(made(30), made(30, seed=1)))


def test_equal_sets_have_none():
  x = made(50).astype(np.float32)
  assert frechet_distance(x, x[::-1]) < 1e-9


def test_order_does_not_matter():
  x, y = made(50), made(30, seed=1, offset=0.2)
  assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x))


def test_kernel_distance_is_its_definition():
  x, y = made(7), made(9, seed=1, offset=0.5)
  kernel = lambda a, b: (a @ b / 6 + 1) ** 3  # noqa: E731
  within = lambda z: np.mean([kernel(a, b) for a in z for b in z if a is not b])  # noqa: E731
  between = np.mean([kernel(a, b) for a in x for b in y[:7]])
  xs, ys = list(x), list(y[:7])
  found = kernel_distance(x, y[:7], num_subsets=2)
  assert found.mean == pytest.approx(within(xs) + within(ys) - 2 * between)
  assert found.std == pytest.approx(0, abs=1e-12)  # every subset is the whole set
  assert kernel_distance(x, y, subset_size=4).std > 0


def test_kernel_distance_has_no_bias():
  """The mean over many pairs of sets lies within four standard errors of 0, which biased is not."""
  values = [
    kernel_distance(made(20, seed=seed), made(20, seed=seed + 1000), num_subsets=1).mean
    for seed in range(200)
  ]
  error = np.std(values) / np.sqrt(len(values))
  assert abs(np.mean(values)) < 4 * error
  assert min(values) < 0
  bias = 2 * np.mean((np.square(made(4000)).sum(1) / 6 + 1) ** 3 - 1) / 20
  assert bias > 8 * error  # were pairs of an image with itself counted


def test_kernel_distance_goes_by_its_seed():
  x, y = made(40), made(40, seed=1)
  draw = lambda seed: kernel_distance(x, y, subset_size=10, num_subsets=5, seed=seed)  # noqa: E731
  assert draw(0) == draw(0) != draw(1)


def test_equal_sets_are_faithful():
  x = made(60).astype(np.float32)
  found = fidelity(x, x.copy())
  assert found == Fidelity(1, 1, 4 / 3, 1)  # a ball of k = 3 neighbours holds its centre too


def test_sets_apart_are_not():
  assert fidelity(made(60), made(60, seed=1, offset=50.0)) == Fidelity(0, 0, 0, 0)


def test_a_set_of_one_mode_is_precise_and_recalls_half():
  few = functools.partial(made, 60, num_features=2)
  real = np.concatenate([few(), few(seed=1, offset=50.0)])
  found = fidelity(few(seed=2) * 0.5, real)
  assert found.precision > 0.9 and found.recall < 0.5 and found.coverage <= 0.5
  wide = fidelity(real, few(seed=2))
  assert 0.3 < wide.precision <= 0.5 and wide.recall > 0.9


def test_fidelity_is_its_definition():
  x, y = made(50), made(40, seed=1, offset=0.5)
  radius = lambda z: np.sort(cdist(z, z), 1)[:, 3]  # noqa: E731
  inside = cdist(x, y) <= radius(y)[None]
  back = cdist(y, x) <= radius(x)[None]
  expected = (inside.any(1).mean(), back.any(1).mean(), inside.sum(1).mean() / 3,
              inside.any(0).mean())  # fmt: skip
  np.testing.assert_allclose(fidelity(x, y), expected)
  assert 0.2 < expected[0] < 0.95 and 0.2 < expected[1] < 0.95


def test_duplicates_lie_in_balls_of_no_radius():
  x = np.repeat(made(3) + 1000, 5, 0)
  assert fidelity(x, x).precision == 1


def test_bad_input():
  bad = {
    "one image": ((frechet_distance, made(1), made(4)), "candidates has a single row"),
    "one real image": ((kernel_distance, made(4), made(1)), "real has a single row"),
    "other features": ((frechet_distance, made(4), made(4, num_features=2)), "real has 2 features"),
    "too few": ((fidelity, made(3), made(9)), "k=3: the pool has 3 rows"),
    "NaN": ((fidelity, made(9), np.full((9, 6), np.nan)), "real holds NaN"),
  }
  rows.assert_all_refused(bad, lambda call: call[0](*call[1:]))
  counts = {
    "k": ((fidelity, {"k": 0}), "k=0"),
    "subset": ((kernel_distance, {"subset_size": 1}), "subset_size=1"),
    "subsets": ((kernel_distance, {"num_subsets": 0}), "num_subsets=0"),
  }
  rows.assert_all_refused(counts, lambda call: call[0](made(9), made(9), **call[1]))
