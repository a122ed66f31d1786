"""Attacks made on another model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import attacks

pytestmark = pytest.mark.fast

X = jnp.full((2, 3), 0.5)


def surrogate(x):
  return 2 * x[:, ::-1] - 0.5


def victim(x):
  return x


PGD = functools.partial(attacks.pgd, ball=attacks.linf_ball(0.1), num_steps=3)


def test_victim_is_never_queried():
  def never(x):
    raise AssertionError("queried")

  labels = jnp.array([0, 2])
  made = attacks.transfer(PGD, surrogate)
  x_adv = made(never, X, labels, jax.random.key(0))
  np.testing.assert_array_equal(x_adv, made(victim, X, labels, jax.random.key(0)))


def test_transfer_is_the_attack_on_the_surrogate():
  labels, key = jnp.array([0, 2]), jax.random.key(0)
  x_adv = attacks.transfer(PGD, surrogate)(victim, X, labels, key)
  np.testing.assert_array_equal(x_adv, PGD(surrogate, X, labels, key))
  assert not np.array_equal(x_adv, PGD(victim, X, labels, key))


def test_transfer_passes_options_on():
  attack = attacks.transfer(PGD, surrogate)
  x_adv = attack(victim, X, jnp.array([0, 2]), jax.random.key(0), start="zero", num_steps=0)
  np.testing.assert_array_equal(x_adv, X)


def test_the_surrogate_may_be_randomised():
  noisy = lambda x, rng: surrogate(x) + jax.random.normal(rng, x.shape)  # noqa: E731
  attack = functools.partial(attacks.transfer(PGD, noisy), start="zero")
  x_adv = attack(victim, X, jnp.array([0, 2]), jax.random.key(0))
  assert np.all(x_adv[0] - X[0] != 0) and np.all(np.abs(x_adv - X) <= 0.1 + 1e-6)
