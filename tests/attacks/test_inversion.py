"""Representation inversion: a closed form, what its iterates keep, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unchecked import as_a_user  # noqa: F401

from jax_robust import attacks
from jax_robust.attacks import inversion

pytestmark = pytest.mark.fast

DRAW = np.random.default_rng(0)
WEIGHTS = (DRAW.normal(size=(12, 5)) / 3).astype(np.float32)
X, START = DRAW.uniform(0.2, 0.8, size=(2, 6, 2, 2, 3)).astype(np.float32)


def features_fn(x):
  """Five features of 12 pixels."""
  return jnp.tanh((x.reshape(len(x), -1) - 0.5) @ jnp.asarray(WEIGHTS, x.dtype))


def distance(z, x=X):
  return np.asarray(inversion.feature_distance(features_fn(jnp.asarray(z)), features_fn(x)))


def invert(x, start, features_fn=features_fn, *, step_size, **options):
  """The attack, compiled and rolled up; its step size is traced."""
  run = functools.partial(attacks.invert, features_fn, unroll=1, **options)
  return jax.jit(run)(x, start, step_size=step_size)


@functools.cache
def inverted(num_steps, step_size=0.05, keep_best=True):
  return invert(X, START, num_steps=num_steps, step_size=step_size, keep_best=keep_best)


def test_one_step_is_the_unit_gradient():
  """Of ||W z - W x||, whose gradient is known."""
  linear = lambda z: z.reshape(len(z), -1) @ WEIGHTS  # noqa: E731
  z = invert(X, START, linear, num_steps=1, step_size=0.01)
  down = ((X - START).reshape(6, 12) @ WEIGHTS @ WEIGHTS.T).reshape(X.shape)
  down /= np.linalg.norm(down.reshape(6, -1), axis=1).reshape(6, 1, 1, 1)
  np.testing.assert_allclose(z, START + 0.01 * down, atol=1e-6)


def test_features_become_those_of_x_and_the_rest_stays():
  z = inverted(200, step_size=0.01)
  assert np.all(distance(z) < 0.1 * distance(START)) and z.min() >= 0 and z.max() <= 1
  # What no feature tells is still the start's: gradients lie in the span of the weights.
  blind = np.linalg.svd(WEIGHTS.T)[2][5:]
  moved = np.asarray(z - START).reshape(6, 12)
  inside = ((z > 1e-6) & (z < 1 - 1e-6)).reshape(6, 12).all(1)
  assert inside.sum() > 2 and np.abs(moved[inside] @ blind.T).max() < 1e-5
  assert np.linalg.norm(z - X) > 0.3 * np.linalg.norm(START - X)


def test_distance_never_grows():
  """A step that is far too long: the best iterate is kept, the last one is worse."""
  found = [distance(inverted(n, step_size=2.0)) for n in (1, 3, 9, 27)]
  for before, after in zip([distance(START), *found], found, strict=False):
    assert np.all(after <= before)
  assert np.any(distance(inverted(27, step_size=2.0, keep_best=False)) > found[-1])


def test_steps_in_parts_are_the_same():
  @jax.jit
  def in_parts(x, start):
    state = inversion.begin_inversion(features_fn, x, start)
    for count in (4, 5):
      state = inversion.continue_inversion(
        features_fn, state, num_steps=count, step_size=0.05, unroll=1
      )
    return inversion.end_inversion(features_fn, state)

  z, found = in_parts(X, START)
  np.testing.assert_allclose(z, inverted(9), atol=1e-6)
  np.testing.assert_allclose(found, distance(z), atol=1e-6)


def test_result_is_independent_of_the_batch_and_one_step_size_per_image():
  rows, sizes = np.array([4, 1]), np.array([0.05, 0.2], np.float32)
  z = invert(X[rows], START[rows], num_steps=5, step_size=sizes)
  np.testing.assert_allclose(z[0], inverted(5)[4], atol=1e-6)
  np.testing.assert_allclose(z[1], inverted(5, step_size=0.2)[1], atol=1e-6)


def test_no_gradient_flows_out():
  def outer(scale, x):
    z = attacks.invert(lambda x: scale * features_fn(x), x, START, num_steps=2, unroll=1)
    return jnp.sum(z**2)

  for gradient in jax.jit(jax.grad(outer, argnums=(0, 1)))(1.0, jnp.asarray(X)):
    np.testing.assert_array_equal(gradient, jnp.zeros_like(gradient))


def test_the_image_itself_and_features_of_zero_stay_finite():
  few = {"num_steps": 3, "step_size": 0.1}
  np.testing.assert_array_equal(invert(X, X, **few), X)
  zero = invert(X, START, lambda x: 0 * features_fn(x), **few)
  np.testing.assert_array_equal(zero, START)
  lost = lambda x: jnp.where(x.reshape(6, -1) < 2, jnp.nan, x.reshape(6, -1))  # noqa: E731
  np.testing.assert_array_equal(invert(X, START, lost, **few), START)


@pytest.mark.parametrize(
  ("change", "error", "message"),
  [
    ({"x": (X * 255).astype(np.uint8)}, TypeError, "x has dtype uint8"),
    ({"x": X * 2}, ValueError, "leave"),
    ({"start": START[:3]}, ValueError, r"start has shape \(3, 2, 2, 3\)"),
    ({"start": (START * 255).astype(np.uint8)}, TypeError, "start has dtype uint8"),
    ({"num_steps": 0}, ValueError, "num_steps=0"),
    ({"step_size": -0.1}, ValueError, "step_size=-0.1"),
    ({"step_size": np.ones(4)}, ValueError, "step_size"),
    ({"step_size": None}, TypeError, "step_size=None: expected a number"),
    ({"features_fn": lambda x: (features_fn(x),)}, TypeError, "returned a tuple"),
    ({"features_fn": lambda x: features_fn(x).argmax(1)}, TypeError, "returned dtype int32"),
    ({"features_fn": lambda x: features_fn(x).sum(0)}, ValueError, r"returned shape \(5,\)"),
  ],
)
def test_what_makes_no_sense_is_refused(change, error, message):
  given = {"features_fn": features_fn, "x": X, "start": START, "num_steps": 1, **change}
  with pytest.raises(error, match=message):
    attacks.invert(given.pop("features_fn"), given.pop("x"), given.pop("start"), **given)
