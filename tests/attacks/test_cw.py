"""CW in l2: the least distance to a linear boundary, the search over c, and what eps does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_net import KEY, interior, least_distance, linear

from jax_robust import attacks, losses

FAR = attacks.l2_ball(10.0)


def cw(x, labels, ball=FAR, logits_fn=linear, **options):
  options = {"num_steps": 250, "num_searches": 8, **options}
  return jax.jit(functools.partial(attacks.cw_l2, logits_fn, ball=ball, **options))(x, labels, KEY)


def test_linear_optimum_is_approached():
  x, labels = interior()
  x_adv = cw(x, labels)
  assert np.all(np.argmax(linear(x_adv), axis=-1) != labels)
  distance, optimum = np.asarray(FAR.distance(x_adv, x)), least_distance(x, labels)
  assert np.all(distance >= optimum * (1 - 1e-4))
  assert np.sum(optimum > 0.02) >= 8  # the rest are less than a step of Adam away
  assert np.all(distance <= np.where(optimum > 0.02, optimum * 1.01, optimum + 0.002))


def test_optimum_at_the_box_is_approached():
  # Pixels on the faces, where tanh saturates: some can only move away, some not at all.
  normal = np.array([0.9, -0.4, 0.2, -1.3, 0.6, 0.5], np.float32)
  x = jnp.array([[0.97, 0.0, 0.0, 0.1, 1.0, 0.0]])
  score = lambda z: (z - x) @ normal - 0.3  # noqa: E731
  logits_fn = lambda z: jnp.stack([jnp.zeros(1), score(z)], axis=1)  # noqa: E731
  x_adv = cw(x, jnp.array([0]), logits_fn=logits_fn, num_steps=2000)
  # The optimum moves every pixel by min(t |w|, room).
  room = np.where(normal > 0, 1 - x[0], x[0])
  steps = np.linspace(0, 2, 200_001)[:, None]
  shifts = np.minimum(steps * np.abs(normal), room)
  optimum = np.linalg.norm(shifts[np.argmax(shifts @ np.abs(normal) >= 0.3)])
  assert score(x_adv)[0] > 0
  assert optimum * (1 - 1e-4) <= FAR.distance(x_adv, x)[0] <= optimum * 1.01


def test_result_is_misclassified_or_x():
  x, labels = interior()
  optimum = least_distance(x, labels)
  eps = float(np.median(optimum))
  x_adv = cw(x, labels, ball=attacks.l2_ball(eps))
  fooled = np.argmax(linear(x_adv), axis=-1) != labels
  assert np.all(fooled[optimum < 0.99 * eps]) and not np.any(fooled[optimum > eps])
  np.testing.assert_array_equal(x_adv[~fooled], x[~fooled])
  np.testing.assert_array_equal(x_adv[fooled], cw(x, labels)[fooled])  # eps guides nothing


def test_what_is_misclassified_already_stays():
  x, labels = interior()
  x_adv = cw(x, (labels + 1) % 4, num_steps=3)
  np.testing.assert_array_equal(x_adv, x)


def test_c_is_searched_for():
  x, labels = interior()
  x, labels = (rows[least_distance(x, labels) > 0.02] for rows in (x, labels))
  options = {"initial_c": 1e-6, "num_steps": 100}
  assert not np.any(FAR.distance(cw(x, labels, num_searches=1, **options), x))
  found = cw(x, labels, num_searches=10, **options)
  assert np.all(np.argmax(linear(found), axis=-1) != labels)
  # Too large a c ignores the distance; halving it finds nearer points.
  large = {"initial_c": 1e3, "num_steps": 20, "learning_rate": 0.1}
  once, often = (
    np.asarray(FAR.distance(cw(x, labels, num_searches=n, **large), x)) for n in (1, 10)
  )
  assert np.all(often <= once) and np.mean(often) < 0.9 * np.mean(once)


def test_confidence_is_reached():
  x, labels = interior()
  x_adv = cw(x, labels, confidence=0.2)
  assert np.all(losses.margin(linear(x_adv), labels) >= 0.2 - 1e-6)
  assert np.all(FAR.distance(x_adv, x) > FAR.distance(cw(x, labels), x))


def test_probabilities_stand_for_their_arg_max():
  x, labels = interior(3)
  options = {"num_steps": 20, "num_searches": 2, "initial_c": 10.0, "learning_rate": 0.1}
  np.testing.assert_array_equal(
    cw(x, 0.9 * jax.nn.one_hot(labels, 4) + 0.025, **options), cw(x, labels, **options)
  )


def test_contradictions_raise():
  x, labels = interior(2)
  for name in ("num_steps", "num_searches"):
    with pytest.raises(ValueError, match=f"{name}=0: expected a whole number, at least 1"):
      cw(x, labels, **{name: 0})
