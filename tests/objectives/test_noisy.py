"""Noises of a batch: their law, and that each is its example's own; the warm-up by epochs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jax_robust.objectives import noisy
from jax_robust.types import Progress

KEYS = jax.random.split(jax.random.key(1), 40)
X = jnp.zeros((40, 8, 8, 2))


@pytest.fixture(scope="module")
def noises():
  return np.asarray(noisy.draw_noises(KEYS, X, 5))


def test_noises_are_standard_normal(noises):
  assert noises.shape == (40, 5, 8, 8, 2) and noises.dtype == np.float32
  assert scipy.stats.kstest(noises.ravel(), "norm").pvalue > 0.01
  count = noises.size
  assert abs(noises.mean()) < 4 / count**0.5
  assert abs(noises.var() - 1) < 4 * (2 / count) ** 0.5


def test_noises_are_independent(noises):
  """Of each other, over the examples and over the noises of one."""
  flat = noises.reshape(200, -1)
  correlations = flat @ flat.T / flat.shape[1]
  np.fill_diagonal(correlations, 0)
  assert np.abs(correlations).max() < 6 / flat.shape[1] ** 0.5


def test_a_noise_does_not_depend_on_how_many(noises):
  for count in (1, 3):
    np.testing.assert_array_equal(noisy.draw_noises(KEYS, X, count), noises[:, :count])


def test_a_noise_is_its_examples_own(noises):
  """Whoever else is in the batch, and in whatever order."""
  order = np.random.default_rng(0).permutation(40)
  np.testing.assert_array_equal(noisy.draw_noises(KEYS[order], X, 5), noises[order])
  np.testing.assert_array_equal(noisy.draw_noises(KEYS[7:9], X[:2], 5), noises[7:9])


def test_copies_of_an_example_are_neighbours():
  x = np.arange(12.0).reshape(2, 3, 2, 1)
  noises = np.arange(48.0).reshape(2, 4, 3, 2, 1) / 100
  copies = np.asarray(noisy.noisy_copies(jnp.asarray(x), jnp.asarray(noises)))
  expected = [x[i] + noises[i, j] for i in range(2) for j in range(4)]
  np.testing.assert_allclose(copies, expected, rtol=1e-6)

  outputs = np.arange(24.0).reshape(8, 3)
  split = noisy.split_copies(outputs, 4)
  np.testing.assert_array_equal(split, [outputs[:4], outputs[4:]])
  np.testing.assert_array_equal(noisy.repeat(jnp.arange(2), 4), [0] * 4 + [1] * 4)


def test_soft_prediction_is_the_mean_of_probabilities():
  outputs = np.random.default_rng(0).normal(size=(5, 4, 3))
  probs = np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)
  np.testing.assert_allclose(noisy.mean_probs(outputs), probs.mean(1), rtol=1e-5)
  np.testing.assert_allclose(noisy.log_mean_probs(outputs), np.log(probs.mean(1)), rtol=1e-5)


def test_a_vanished_probability_has_a_logarithm_and_no_gradient():
  outputs = jnp.array([[[300.0, 0.0]] * 2])
  value, gradient = jax.value_and_grad(lambda z: noisy.log_mean_probs(z)[0, 1])(outputs)
  np.testing.assert_allclose(value, np.log(1e-20), rtol=1e-5)
  np.testing.assert_array_equal(gradient, 0)
  assert np.abs(jax.grad(lambda z: noisy.log_mean_probs(z)[0, 1])(outputs / 10)).max() > 0.1


def test_warmup_by_epochs():
  factors = [float(noisy.warmup_factor(Progress(0, epoch), 10)) for epoch in range(12)]
  np.testing.assert_allclose(factors, [*np.arange(1, 11) / 10, 1, 1], rtol=1e-6)
  for warmup in (1, 0, 0.5):
    assert noisy.warmup_factor(Progress(0, 0.0), warmup) == 1


def test_warmup_is_constant_within_an_epoch():
  """Counted in steps as the update counts them, also where an epoch is no whole number of steps."""
  steps_per_epoch = 60_000 / 64
  factor = jax.jit(
    jax.vmap(lambda step: noisy.warmup_factor(Progress(step, step / steps_per_epoch), 10))
  )
  steps = np.arange(11_000)
  epochs = steps * 64 // 60_000
  np.testing.assert_allclose(factor(steps), np.minimum(1, (epochs + 1) / 10), rtol=1e-6)
