"""Attacks on several exits: closed form on linear exits, and the largest average loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

from jax_robust import attacks, losses
from jax_robust.early_exit import early_exit
from jax_robust.nets import select_exit

EPS = 0.1
DRAW = np.random.default_rng(0)
MATRICES = tuple(jnp.asarray(DRAW.normal(size=(6, 2)) * s, jnp.float32) for s in (1, 2, 4))
X = jnp.asarray(DRAW.uniform(0.3, 0.7, (9, 6)), jnp.float32)
LABELS = jnp.asarray(DRAW.integers(0, 2, 9))
KEY = jax.random.key(0)
FGSM = functools.partial(attacks.fgsm, ball=attacks.linf_ball(EPS))
average = losses.over_exits(losses.cross_entropy)


def net(x):
  return tuple(x @ matrix for matrix in MATRICES)


def run(attack, logits_fn=net, **options):
  """The attack on the images, as one program."""
  return jax.jit(lambda x: attack(logits_fn, x, LABELS, KEY, **options))(X)


@jax.jit
def average_at(x):
  """The mean loss over the exits, of each image."""
  return average(net(x), LABELS)


def optimum(k):
  """Of two classes, each linear: every pixel moves against the label's side."""
  slope = np.asarray(MATRICES[k][:, 1] - MATRICES[k][:, 0])
  side = np.where(np.asarray(LABELS) == 0, 1, -1)[:, None]
  return np.asarray(X) + EPS * side * np.sign(slope)


@pytest.mark.parametrize("k", range(3))
def test_an_aimed_attack_is_optimal_at_its_exit(k):
  assert_close(run(attacks.aimed(FGSM, k)), optimum(k))


def test_the_taken_exit_is_attacked():
  outputs = net(X)
  known = jnp.max(jax.nn.softmax(outputs[0]), axis=1)
  threshold = float(jnp.sort(known)[4]) + 1e-4
  deployed = functools.partial(early_exit, thresholds=(threshold, 1e8))
  expected = np.where(np.asarray(known >= threshold)[:, None], optimum(0), optimum(2))
  assert_close(run(attacks.aimed(FGSM, deployed)), expected)


def test_the_log_of_the_mean_softmax_is_ascended():
  found = run(attacks.aimed(FGSM, "mean"))
  loss = lambda x: losses.cross_entropy(select_exit(net, "mean")(x), LABELS).sum()  # noqa: E731
  assert_close(found, X + EPS * np.sign(jax.jit(jax.grad(loss))(X)))


def test_average_loss_is_no_smaller():
  found = average_at(run(attacks.max_average(FGSM)))
  singles = np.stack([average_at(np.float32(optimum(k))) for k in range(3)])
  assert_close(found, singles.max(axis=0))
  assert len(set(singles.argmax(axis=0))) > 1


def test_points_that_are_not_finite_are_not_kept():
  lost = jnp.full_like(X, jnp.nan)
  found = attacks.largest_average(net, [lost, X], LABELS, KEY)
  np.testing.assert_array_equal(found, X)


def test_options_and_randomness_are_handed_on():
  def noisy(x, rng):
    return tuple(z + 0.01 * jax.random.normal(rng, z.shape) for z in net(x))

  attack = functools.partial(attacks.pgd, ball=attacks.linf_ball(EPS))
  found = run(attacks.max_average(attack), noisy, num_steps=1, start="zero")
  assert_close(attacks.linf_ball(EPS).distance(found, X), jnp.full(9, EPS), 1e-4)


def test_an_exit_that_is_none_is_refused():
  with pytest.raises(ValueError, match="exit=3: expected 0 to 2"):
    attacks.aimed(FGSM, 3)(net, X, LABELS, KEY)
