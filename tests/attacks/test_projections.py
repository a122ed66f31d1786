"""Projections against float64 reference solvers, and what holds for every input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize

from jax_robust import attacks

pytestmark = pytest.mark.fast

ROWS, PIXELS = 3, 6

unit = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1, width=32, allow_subnormal=False))
wide = st.one_of(
  st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.floats(-3, 3, width=32, allow_subnormal=False)
)
images = hnp.arrays(np.float32, (ROWS, PIXELS), elements=unit)
points = hnp.arrays(np.float32, (ROWS, PIXELS), elements=wide)
radii = st.one_of(
  st.sampled_from([0.0, 1e-4, 8 / 255]), st.floats(0, 4, width=32, allow_subnormal=False)
)
quick = settings(max_examples=150, deadline=None, derandomize=True)

onto_linf = jax.jit(attacks.onto_linf)
onto_l2 = jax.jit(attacks.onto_l2)
onto_l2_and_box = jax.jit(attacks.onto_l2_and_box)
onto_l1 = jax.jit(attacks.onto_l1)

NORMS = {
  "linf": lambda d: np.abs(d).max(-1),
  "l2": lambda d: np.sqrt((d**2).sum(-1)),
  "l1": lambda d: np.abs(d).sum(-1),
}


def assert_in_ball_and_box(z, x, eps, norm, slack=1e-6):
  """Distances in float64, from the float32 values as they are."""
  z64, x64 = np.asarray(z, np.float64), np.asarray(x, np.float64)
  assert np.all(NORMS[norm](z64 - x64) <= np.float64(np.float32(eps)) * (1 + slack) + 1e-30)
  assert z64.min() >= 0 and z64.max() <= 1
  assert z.dtype == x.dtype


@quick
@given(points, images, radii)
def test_linf_result_is_in_ball_and_box(v, x, eps):
  z = onto_linf(v, x, eps)
  assert np.all(np.abs(np.asarray(z) - x) <= np.float32(eps))
  assert_in_ball_and_box(z, x, eps, "linf", slack=2e-7)


def test_linf_result_is_in_ball_where_the_plain_clip_is_not():
  x = np.random.default_rng(0).integers(0, 256, (1, 10_000)).astype(np.float32) / np.float32(255)
  eps = np.float32(8 / 255)
  plain = np.clip(np.float32(2) * np.ones_like(x), x - eps, x + eps)
  assert np.mean(np.abs(plain - x) > eps) > 0.05
  z = np.asarray(onto_linf(jnp.full_like(x, 2.0), x, eps))
  assert np.all(np.abs(z - x) <= eps)
  interior = x < 1 - 2 * eps
  np.testing.assert_allclose((z - x)[interior], eps, atol=6.1e-8)


@quick
@given(points, images, radii)
def test_linf_projection_keeps_what_is_inside(v, x, eps):
  inside = np.asarray(onto_linf(v, x, eps))
  np.testing.assert_array_equal(onto_linf(inside, x, eps), inside)


@quick
@given(points, images, radii)
def test_l2_result_is_in_ball_and_box(v, x, eps):
  assert_in_ball_and_box(onto_l2(v, x, eps), x, eps, "l2")
  assert_in_ball_and_box(onto_l2_and_box(v, x, eps), x, eps, "l2")


@quick
@given(points, images, radii)
def test_l1_result_is_in_ball_and_box(v, x, eps):
  assert_in_ball_and_box(onto_l1(v, x, eps), x, eps, "l1")


@pytest.mark.parametrize(
  ("norm", "onto"), [("l2", onto_l2), ("l2_and_box", onto_l2_and_box), ("l1", onto_l1)]
)
@pytest.mark.parametrize("eps", [1e-3, 0.5, 12.0])
def test_result_is_in_ball_and_box_in_many_dimensions(norm, onto, eps):
  x = jax.random.uniform(jax.random.key(0), (4, 32, 32, 3))
  v = x + 2 * jax.random.normal(jax.random.key(1), x.shape)
  z = onto(v, x, eps)
  flat = [np.asarray(each).reshape(4, -1) for each in (z, x)]
  assert_in_ball_and_box(*flat, eps, norm[:2])
  if norm != "l2":  # the field's rule leaves some of eps unused
    distance = NORMS[norm[:2]](flat[0].astype(np.float64) - flat[1])
    np.testing.assert_allclose(distance, eps, rtol=1e-5, atol=1e-6)  # an ulp of the largest |v - x|


@quick
@given(points, images)
def test_zero_radius_is_the_identity(v, x):
  for projection in (onto_linf, onto_l2, onto_l2_and_box, onto_l1):
    np.testing.assert_array_equal(projection(v, x, 0.0), x)


def reference_l1(v, x, eps):
  """Float64, by the sorted break points of the piecewise linear sum."""
  d = v - x
  size, room = np.abs(d), np.where(d > 0, 1 - x, x)
  move = lambda a: np.minimum(np.maximum(size - a, 0), room)  # noqa: E731
  if move(0.0).sum() <= eps:
    return x + np.sign(d) * move(0.0)
  knots = np.unique(np.concatenate([[0.0], size, np.maximum(size - room, 0)]))
  sums = np.array([move(a).sum() for a in knots])
  k = np.flatnonzero(sums > eps)[-1]
  a = knots[k] + (sums[k] - eps) / (sums[k] - sums[k + 1]) * (knots[k + 1] - knots[k])
  return x + np.sign(d) * move(a)


def reference_l2(v, x, eps):
  """Float64, by a root finder on the multiplier."""
  d = v - x
  size, room = np.abs(d), np.where(d > 0, 1 - x, x)
  excess = lambda t: np.sqrt((np.minimum(t * size, room) ** 2).sum()) - eps  # noqa: E731
  t = 1.0 if excess(1.0) <= 0 else optimize.brentq(excess, 0.0, 1.0, xtol=1e-15, rtol=1e-14)
  return x + np.sign(d) * np.minimum(t * size, room)


def slsqp(v, x, eps, norm):
  """A general constrained solver; for l1 in the split variables z = x + p - q."""
  n = len(x)
  if norm == "l2":
    constraint = {"type": "ineq", "fun": lambda z: eps**2 - ((z - x) ** 2).sum()}
    bounds, start, read = [(0, 1)] * n, x, lambda z: z
  else:
    constraint = {"type": "ineq", "fun": lambda pq: eps - pq.sum()}
    bounds = [(0, 1 - each) for each in x] + [(0, each) for each in x]
    start, read = np.zeros(2 * n), lambda pq: x + pq[:n] - pq[n:]
  result = optimize.minimize(
    lambda u: ((read(u) - v) ** 2).sum(), start, bounds=bounds, constraints=constraint,
    method="SLSQP", options={"ftol": 1e-14, "maxiter": 500},
  )  # fmt: skip
  return read(result.x)


@pytest.mark.parametrize(("norm", "reference"), [("l1", reference_l1), ("l2", reference_l2)])
@pytest.mark.parametrize("seed", range(5))
def test_references_agree_with_a_general_solver(norm, reference, seed):
  draw = np.random.default_rng(seed)
  x, v, eps = draw.random(5), draw.normal(0.5, 1.5, 5), draw.uniform(0.2, 1.5)
  np.testing.assert_allclose(reference(v, x, eps), slsqp(v, x, eps, norm), atol=2e-5)


@quick
@given(points, images, radii)
def test_l1_projection_is_euclidean(v, x, eps):
  eps = float(np.float32(eps))
  expected = [
    reference_l1(*rows, eps) for rows in zip(v.astype(float), x.astype(float), strict=True)
  ]
  np.testing.assert_allclose(onto_l1(v, x, eps), expected, atol=1e-6)


@quick
@given(points, images, radii)
def test_l2_projection_is_euclidean(v, x, eps):
  eps = float(np.float32(eps))
  expected = [
    reference_l2(*rows, eps) for rows in zip(v.astype(float), x.astype(float), strict=True)
  ]
  np.testing.assert_allclose(onto_l2_and_box(v, x, eps), expected, atol=1e-6)


@pytest.mark.parametrize("projection", [onto_linf, onto_l2, onto_l2_and_box, onto_l1])
def test_radius_per_example_equals_one_by_one(projection):
  x = jax.random.uniform(jax.random.key(0), (3, 4, 4, 1))
  v = x + jax.random.normal(jax.random.key(1), x.shape)
  eps = jnp.array([0.0, 0.1, 0.7])
  together = projection(v, x, eps)
  for i in range(3):
    alone = projection(v[i : i + 1], x[i : i + 1], float(eps[i]))
    np.testing.assert_allclose(together[i : i + 1], alone, atol=1e-7)


@pytest.mark.parametrize("norm", ["linf", "l2", "l2_and_box", "l1"])
def test_float64_is_projected_in_float64(norm):
  with jax.enable_x64(True):
    draw = np.random.default_rng(0)
    x, v = draw.random((2, 9)), draw.normal(0.5, 1, (2, 9))
    z = getattr(attacks, f"onto_{norm}")(jnp.asarray(v), jnp.asarray(x), 0.3)
    assert z.dtype == jnp.float64
    reference = {
      "linf": lambda v, x, eps: np.clip(np.clip(v, x - eps, x + eps), 0, 1),
      "l2": lambda v, x, eps: np.clip(x + (v - x) * eps / np.linalg.norm(v - x), 0, 1),
      "l2_and_box": reference_l2,
      "l1": reference_l1,
    }[norm]
    expected = [reference(*rows, 0.3) for rows in zip(v, x, strict=True)]
    np.testing.assert_allclose(z, expected, atol=1e-14)
