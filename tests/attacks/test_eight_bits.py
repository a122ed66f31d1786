"""Adversarial examples as bytes: inside the ball, no further than the point, and near it."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from unchecked import as_a_user  # noqa: F401

from jax_robust import attacks

pytestmark = pytest.mark.fast

DRAW = np.random.default_rng(0)
BYTES = DRAW.integers(0, 256, (5, 6, 6, 3), np.uint8)
BYTES[0, 0], BYTES[1, 1] = 0, 255
X = BYTES.astype(np.float32) / np.float32(255)
CASES = {
  "linf 8/255": (attacks.linf_ball, 8 / 255, np.inf),
  "linf .031": (attacks.linf_ball, 0.031, np.inf),
  "linf 1/255": (attacks.linf_ball, 1 / 255, np.inf),
  "linf 0": (attacks.linf_ball, 0.0, np.inf),
  "linf per image": (attacks.linf_ball, np.linspace(0, 0.1, 5, dtype=np.float32), np.inf),
  "l2": (attacks.l2_ball, 0.5, 2),
  "l2 exact": (functools.partial(attacks.l2_ball, exact=True), 0.5, 2),
  "l1": (attacks.l1_ball, 6.0, 1),
}


def points(ball, x=X):
  """Points of the ball, most of them on its surface."""
  return ball.project(jnp.asarray(x + DRAW.normal(size=X.shape), x.dtype), jnp.asarray(x))


def length(delta, order):
  return np.linalg.norm(delta.reshape(len(delta), -1), ord=order, axis=1)


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_in_the_ball(name):
  make, eps, order = CASES[name]
  x_adv = points(make(eps))
  found = attacks.to_uint8(x_adv, X, make(eps))
  assert found.dtype == np.uint8 and found.shape == X.shape
  moved = (found.astype(np.int64) - BYTES) / 255
  assert np.all(length(moved, order) <= np.float64(eps) * (1 + 1e-6))
  # Not so strict that little were left.
  assert np.all(np.abs(found / 255 - np.asarray(x_adv)) < 1.001 / 255)


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_no_further_than_the_point(name):
  make, eps, _ = CASES[name]
  x_adv = np.asarray(points(make(eps)), np.float64)
  moved = attacks.to_uint8(x_adv, X, make(eps)).astype(np.int64) - BYTES
  assert np.all(np.abs(moved) <= np.abs(x_adv - X) * 255 + 1e-3)
  assert np.all(moved * (x_adv - X) >= 0)


def test_whole_levels_are_kept():
  """8/255 in float32 is not eight levels: a plain floor would lose one of them."""
  ball = attacks.linf_ball(8 / 255)
  corner = ball.project(jnp.asarray(X + np.where(DRAW.random(X.shape) < 0.5, 1, -1)), X)
  corner = jnp.asarray(corner, jnp.float32)
  moved = attacks.to_uint8(corner, X, ball).astype(np.int64) - BYTES
  inside = (BYTES >= 8) & (BYTES <= 247)
  assert np.all(np.abs(moved[inside]) == 8)


def test_plain_rounding_leaves_the_ball():
  ball = attacks.linf_ball(7.6 / 255)
  x_adv = points(ball)
  plain = np.rint(np.asarray(x_adv) * 255).astype(int)
  assert np.abs(plain - BYTES).max() == 8
  assert np.abs(attacks.to_uint8(x_adv, X, ball).astype(int) - BYTES).max() == 7


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_does_not_hold_bytes(dtype):
  x = jnp.asarray(X, dtype)
  with pytest.raises(TypeError, match="dtype .*: to_uint8"):
    attacks.to_uint8(x, x, attacks.linf_ball(8 / 255))


def test_what_is_no_point_of_the_ball_is_refused():
  ball = attacks.linf_ball(0.03)
  for x_adv, x, message in (
    (X, X + np.float32(0.4) / 255, r"leave \[0, 1\]|images .* are no multiple of 1/255"),
    (np.clip(X + 0.03 + 1e-4, 0, 1), X, "x_adv: images .* are outside the ball"),
    (X[:2], X, r"x_adv has shape \(2, 6, 6, 3\): expected that of x"),
    (BYTES, X, "dtype uint8"),
    (X + 1, X, r"leave \[0, 1\]"),
  ):
    with pytest.raises((TypeError, ValueError), match=message):
      attacks.to_uint8(x_adv, x, ball)
  with pytest.raises(TypeError, match="expected a ball"):
    attacks.to_uint8(X, X, 0.03)


def test_a_radius_per_pixel():
  eps = np.zeros(X.shape[1:], np.float32)
  eps[:3] = 0.02
  ball = attacks.linf_ball(eps)
  x_adv = attacks.fgsm(
    lambda x: x.reshape(len(x), -1)[:, :3], jnp.asarray(X), np.zeros(5, int), 0, ball=ball
  )
  moved = attacks.to_uint8(x_adv, X, ball).astype(int) - BYTES
  assert np.abs(moved).max() <= 5 and not moved[:, 3:].any()
  with pytest.raises(ValueError, match="outside the ball"):
    attacks.to_uint8(x_adv, X, attacks.linf_ball(eps / 2))
