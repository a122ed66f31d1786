"""Attacks made on another model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import attacks

pytestmark = pytest.mark.fast

X, LABELS = jnp.full((2, 3), 0.5), jnp.array([0, 2])


def surrogate(x):
  return 2 * x[:, ::-1] - 0.5


def victim(x):
  return x


PGD = functools.partial(attacks.pgd, ball=attacks.linf_ball(0.1), num_steps=3)


def run(attack, logits_fn, **options):
  """The attack on the images, as one program."""
  return jax.jit(lambda x: attack(logits_fn, x, LABELS, jax.random.key(0), **options))(X)


def test_victim_is_never_queried():
  def never(x):
    raise AssertionError("queried")

  made = attacks.transfer(PGD, surrogate)
  np.testing.assert_array_equal(run(made, never), run(made, victim))


def test_transfer_is_the_attack_on_the_surrogate():
  x_adv = run(attacks.transfer(PGD, surrogate), victim)
  np.testing.assert_array_equal(x_adv, run(PGD, surrogate))
  assert not np.array_equal(x_adv, run(PGD, victim))


def test_transfer_passes_options_on():
  x_adv = run(attacks.transfer(PGD, surrogate), victim, start="zero", num_steps=0)
  np.testing.assert_array_equal(x_adv, X)


def test_the_surrogate_may_be_randomised():
  noisy = lambda x, rng: surrogate(x) + jax.random.normal(rng, x.shape)  # noqa: E731
  x_adv = run(attacks.transfer(PGD, noisy), victim, start="zero")
  assert np.all(x_adv[0] - X[0] != 0) and np.all(np.abs(x_adv - X) <= 0.1 + 1e-6)
