"""Constructed sets: what their targets and starts depend on, and what the moved images keep."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jax_robust import attacks, losses
from jax_robust.generate import constructed
from jax_robust.types import fold_ids

pytestmark = pytest.mark.fast

KEYS = fold_ids(jax.random.key(0), jnp.arange(20_000))
DRAW = np.random.default_rng(1)
WEIGHTS = DRAW.normal(size=(12, 4)).astype(np.float32)
X = DRAW.uniform(size=(9, 2, 2, 3)).astype(np.float32)
LABELS = jnp.asarray(DRAW.integers(0, 4, 9))


def logits_fn(x):
  return 3 * jnp.tanh((x.reshape(len(x), -1) - 0.5) @ WEIGHTS)


@functools.cache
def moved(num_steps, eps=0.5, step_size=0.1):
  make = functools.partial(
    constructed.move_to_targets, logits_fn, num_steps=num_steps, eps=eps, unroll=1
  )
  return jax.jit(make)(X, constructed.next_targets(LABELS, 4), KEYS[:9], step_size=step_size)


def loss(x):
  return np.asarray(losses.cross_entropy(logits_fn(x), constructed.next_targets(LABELS, 4)))


def test_next_targets_are_the_next_class():
  assert constructed.next_targets(jnp.arange(10), 10).tolist() == [*range(1, 10), 0]


def test_targets_are_independent():
  """Uniform over all classes, whatever the label, whose images have keys of no other kind."""
  targets = np.asarray(constructed.random_targets(KEYS, 10))
  labels = np.random.default_rng(0).integers(0, 10, len(targets))
  counts = np.bincount(10 * labels + targets, minlength=100).reshape(10, 10)
  assert scipy.stats.chisquare(counts.sum(0)).pvalue > 1e-3
  assert scipy.stats.chi2_contingency(counts).pvalue > 1e-3
  assert abs(np.mean(targets == labels) - 0.1) < 0.01


def test_starts_are_independent():
  """Uniform over all images, and independent of the targets that the same keys give."""
  starts = np.asarray(constructed.start_rows(KEYS, 10))
  assert scipy.stats.chisquare(np.bincount(starts, minlength=10)).pvalue > 1e-3
  targets = np.asarray(constructed.random_targets(KEYS, 10))
  counts = np.bincount(10 * starts + targets, minlength=100).reshape(10, 10)
  assert scipy.stats.chi2_contingency(counts).pvalue > 1e-3


def test_an_images_draw_depends_on_its_number_alone():
  some = constructed.random_targets(fold_ids(jax.random.key(0), jnp.array([7, 3])), 10)
  assert some.tolist() == constructed.random_targets(KEYS, 10)[jnp.array([7, 3])].tolist()


def test_moved_images_are_in_ball_and_box():
  found = moved(20)
  assert found.min() >= 0 and found.max() <= 1
  assert np.all(attacks.l2_ball(0.5).distance(found, jnp.asarray(X)) <= 0.5 * (1 + 1e-6))
  assert np.mean(logits_fn(found).argmax(1) == constructed.next_targets(LABELS, 4)) > np.mean(
    logits_fn(X).argmax(1) == constructed.next_targets(LABELS, 4)
  )


def test_loss_never_grows():
  found = [loss(X), *(loss(moved(n, step_size=3.0)) for n in (1, 4, 16))]
  for before, after in itertools.pairwise(found):
    assert np.all(after <= before)
  assert np.all(found[-1] < found[0])


def test_a_target_may_be_the_images_own_class():
  own = logits_fn(X).argmax(1)
  found = constructed.move_to_targets(logits_fn, X, own, 0, eps=0.5, num_steps=2, unroll=1)
  before, after = (losses.cross_entropy(logits_fn(x), own) for x in (X, found))
  assert np.all(after < before)


def test_bytes_are_the_nearest():
  found = moved(20)
  stored = np.asarray(constructed.to_nearest_bytes(found))
  assert stored.dtype == np.uint8 and np.abs(stored / 255 - found).max() <= 1 / 510 + 1e-6


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: constructed.move_to_targets(logits_fn, X, LABELS, 0, eps=0.0), "eps=0.0: expected"),
    (lambda: constructed.move_to_targets(logits_fn, X, LABELS, 0, eps=-1), "eps=-1: expected"),
    (lambda: constructed.move_to_targets(logits_fn, X, LABELS + 4, 0, eps=1.0), "outside 0 to 3"),
    (lambda: constructed.random_targets(KEYS, 1), "num_classes=1"),
    (lambda: constructed.next_targets(LABELS, 1), "num_classes=1"),
    (lambda: constructed.start_rows(KEYS, 0), "num_examples=0"),
  ],
)
def test_what_makes_no_sense_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
