"""Sampling, ascent directions and the pytree of a ball."""

import fractions

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jax_robust import attacks
from jax_robust.types import as_keys

MAKE = {
  "linf": attacks.linf_ball,
  "l2": attacks.l2_ball,
  "l2_exact": lambda eps: attacks.l2_ball(eps, exact=True),
  "l1": attacks.l1_ball,
}
every_ball = pytest.mark.parametrize("name", MAKE)

# A radius is traced, so that each ball compiles once for all tests.
project = jax.jit(lambda ball, z, x: ball.project(z, x))
distance = jax.jit(lambda ball, z, x: ball.distance(z, x))
ascent = jax.jit(lambda ball, gradient: ball.ascent(gradient))
sample = jax.jit(lambda ball, keys, x: ball.sample(keys, x))


@every_ball
def test_result_is_in_ball_and_box(name):
  ball = MAKE[name](0.3)
  x = jax.random.uniform(jax.random.key(0), (6, 4, 4, 3))
  z = project(ball, x + jax.random.normal(jax.random.key(1), x.shape), x)
  assert np.all(distance(ball, z, x) <= 0.3 * (1 + 1e-6))
  assert np.all(distance(ball, z, x) > 0.2)
  assert z.min() >= 0 and z.max() <= 1


@pytest.mark.parametrize("name", ["linf", "l2"])
def test_projection_can_be_differentiated(name):
  # Rounding, which has no derivative, must not stand in the way. Outside, a ray ends on the face.
  x = jnp.full((1, 2), 0.5)
  onto = lambda v: MAKE[name](0.25).project(v, x)[0]  # noqa: E731
  inside = jax.jit(jax.jacobian(onto))(jnp.array([[0.55, 0.45]]))[:, 0]
  np.testing.assert_allclose(inside, np.eye(2), atol=1e-5)
  outside = jax.jit(jax.jacobian(onto))(jnp.array([[0.95, 0.95]]))[:, 0]
  np.testing.assert_allclose(outside @ np.ones(2), 0.0, atol=1e-5)


@every_ball
def test_zero_radius_is_the_identity(name):
  ball = MAKE[name](0.0)
  x = jax.random.uniform(jax.random.key(0), (3, 5))
  np.testing.assert_array_equal(project(ball, x + 1.0, x), x)
  np.testing.assert_array_equal(x + sample(ball, as_keys(jax.random.key(0), 3), x), x)


@pytest.mark.parametrize("name", ["linf", "l2", "l1"])
def test_sample_is_uniform(name):
  # For a uniform point of a d-dimensional ball, (distance / eps)^d is uniform on [0, 1].
  eps, shape = 0.3, (2000, 2, 3)
  ball, x = MAKE[name](eps), jnp.zeros(shape)
  delta = sample(ball, as_keys(jax.random.key(0), shape[0]), x)
  assert delta.shape == x.shape and delta.dtype == x.dtype
  radii = np.asarray(distance(ball, delta, x), np.float64) / eps
  assert radii.max() <= 1 + 1e-6
  assert stats.kstest(radii**6, "uniform").pvalue > 1e-3
  # No pixel and no sign is preferred.
  flat = np.asarray(delta).reshape(shape[0], -1)
  for pixel in range(1, 6):
    assert stats.ks_2samp(flat[:, 0], flat[:, pixel]).pvalue > 1e-3
  assert stats.ks_2samp(flat.ravel(), -flat.ravel()).pvalue > 1e-3


@every_ball
def test_sample_of_a_row_depends_on_its_key_only(name):
  ball, keys = MAKE[name](0.3), as_keys(jax.random.key(7), 5)
  x = jnp.zeros((5, 3, 3, 1))
  delta = sample(ball, keys, x)
  np.testing.assert_array_equal(sample(ball, keys[3:4], x[3:4]), delta[3:4])
  assert not np.array_equal(delta[0], delta[1])


@pytest.mark.parametrize("scale", [1e-37, 1.0, 1e37])
@pytest.mark.parametrize(("name", "order"), [("linf", np.inf), ("l2", 2), ("l1", 1)])
def test_ascent_has_unit_norm(name, order, scale):
  gradient = scale * jax.random.uniform(jax.random.key(0), (4, 3, 7), minval=-1.0)
  direction = np.asarray(ascent(MAKE[name](0.3), gradient)).reshape(4, -1)
  np.testing.assert_allclose(np.linalg.norm(direction, order, axis=1), 1.0, rtol=1e-6)
  assert np.all((direction * np.asarray(gradient).reshape(4, -1)) >= 0)


@every_ball
def test_zero_gradient_gives_zero(name):
  gradient = jnp.zeros((2, 6)).at[1, 2].set(-3.0)
  direction = np.asarray(ascent(MAKE[name](0.3), gradient))
  np.testing.assert_array_equal(direction, [[0] * 6, [0, 0, -1, 0, 0, 0]])


@every_ball
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_gradient_counts_as_zero(name, value):
  ball = MAKE[name](0.3)
  gradient = jax.random.normal(jax.random.key(0), (2, 6))
  spoilt, cleaned = (gradient.at[0, 2].set(each) for each in (value, 0.0))
  np.testing.assert_array_equal(ascent(ball, spoilt), ascent(ball, cleaned))


def test_l1_ascent_moves_the_largest_share():
  gradient = jnp.array([[5.0, -1.0, 3.0, -4.0, 2.0]])
  for sparsity, moved in [
    (0.0, [1, 0, 0, 0, 0]),
    (0.4, [1, 0, 0, -1, 0]),
    (1.0, [1, -1, 1, -1, 1]),
  ]:
    direction = ascent(attacks.l1_ball(1.0, sparsity=sparsity), gradient)
    np.testing.assert_allclose(direction[0], np.array(moved) / np.abs(moved).sum(), rtol=1e-6)
  per_example = attacks.l1_ball(1.0, sparsity=jnp.array([0.0, 1.0]))
  direction = ascent(per_example, np.tile(gradient, (2, 1)))
  np.testing.assert_array_equal(np.count_nonzero(direction, axis=1), [1, 5])


@every_ball
def test_one_compilation_serves_every_radius(name):
  chex.clear_trace_counter()

  @jax.jit
  @chex.assert_max_traces(n=1)
  def counted(ball, z, x):
    return ball.project(z, x)

  x = jnp.full((2, 4), 0.5)
  near, far = (counted(MAKE[name](eps), x + 0.2, x) for eps in (0.01, 0.05))
  ball = MAKE[name](0.0)
  np.testing.assert_allclose(distance(ball, near, x), 0.01, rtol=1e-5)
  np.testing.assert_allclose(distance(ball, far, x), 0.05, rtol=1e-5)


def test_distance_is_the_norm():
  x = jnp.zeros((1, 2, 2))
  z = jnp.array([[[3.0, 0.0], [-4.0, 0.0]]])
  for name, expected in [("linf", 4.0), ("l2", 5.0), ("l2_exact", 5.0), ("l1", 7.0)]:
    np.testing.assert_allclose(distance(MAKE[name](1.0), z, x), [expected], rtol=1e-6)


@pytest.mark.parametrize("make", [attacks.linf_ball, attacks.l2_ball, attacks.l1_ball])
def test_radius_is_checked(make):
  assert make(fractions.Fraction(8, 255)).eps == 8 / 255
  for eps in (-0.1, float("nan"), float("inf")):
    with pytest.raises(ValueError, match="eps="):
      make(eps)
