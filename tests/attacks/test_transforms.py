"""What of a multi-exit classifier is attacked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import attacks

X = jnp.full((2, 3), 0.5)


def exits(x):
  return x, 3 * x, -x


def test_exit_at_picks_one():
  for k in (0, 1, 2, -1):
    np.testing.assert_array_equal(attacks.exit_at(exits, k)(X), exits(X)[k])


def test_mean_of_exits_averages_logits():
  np.testing.assert_allclose(attacks.mean_of_exits(exits)(X), X, rtol=1e-6)


def test_attacks_take_them():
  attack = attacks.make_attack("fgsm", eps=0.1)
  labels = jnp.zeros(2, jnp.int32)
  of_last = attack(attacks.exit_at(exits, -1), X, labels, jax.random.key(0))
  of_first = attack(attacks.exit_at(exits, 0), X, labels, jax.random.key(0))
  np.testing.assert_allclose(of_last - X, X - of_first, atol=1e-7)


def test_misuse_raises():
  with pytest.raises(ValueError, match="k=3: expected an exit from 0 to 2"):
    attacks.exit_at(exits, 3)(X)
  for transform in (attacks.mean_of_exits, lambda fn: attacks.exit_at(fn, 0)):
    with pytest.raises(ValueError, match="one array"):
      transform(lambda x: x)(X)
