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
WEIGHTS, OTHER = DRAW.normal(size=(2, 12, 4)).astype(np.float32)
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


def test_disentangled_images_mislead_one_net_alone():
  """Another linear net, of half the weights' direction: PGD misleads it too, unless it is told."""
  other = lambda x: 3 * jnp.tanh((x.reshape(len(x), -1) - 0.5) @ (WEIGHTS + OTHER))  # noqa: E731
  labels = other(X).argmax(1)
  targets = constructed.next_targets(labels, 4)
  options = {"eps": 0.6, "num_steps": 30, "step_size": 0.05, "unroll": 1}
  plain = jax.jit(functools.partial(constructed.move_to_targets, logits_fn, **options))
  apart = functools.partial(constructed.move_disentangled, logits_fn, [other], **options)
  found = {
    "plain": plain(X, targets, KEYS[:9]), "apart": jax.jit(apart)(X, targets, labels, KEYS[:9])
  }  # fmt: skip
  kept = {name: np.mean(other(x).argmax(1) == labels) for name, x in found.items()}
  reached = {name: np.mean(logits_fn(x).argmax(1) == targets) for name, x in found.items()}
  assert kept["apart"] > kept["plain"] + 0.3 and reached["apart"] > 0.5
  assert np.all(attacks.l2_ball(0.6).distance(found["apart"], jnp.asarray(X)) <= 0.6 * (1 + 1e-6))


def test_disentangled_loss_is_the_sum_of_one_and_the_mean_of_the_others():
  """The first step from x is along the gradient of that sum."""
  scales = (0.5, 2.0)
  others = [lambda x, s=s: s * logits_fn(1 - x) for s in scales]
  targets = constructed.next_targets(LABELS, 4)

  def total(x):
    each = [losses.cross_entropy(other(x), LABELS) for other in others]
    return jnp.sum(losses.cross_entropy(logits_fn(x), targets) + sum(each) / 2)

  down = -np.asarray(jax.jit(jax.grad(total))(X))
  down /= np.linalg.norm(down.reshape(9, -1), axis=1).reshape(9, 1, 1, 1)
  step = functools.partial(
    constructed.move_disentangled, logits_fn, others, eps=1.0, num_steps=1, step_size=1e-3
  )
  found = jax.jit(step)(X, targets, LABELS, KEYS[:9])
  np.testing.assert_allclose(found - X, 1e-3 * down, atol=1e-6)


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
    (
      lambda: constructed.move_disentangled(logits_fn, [], X, LABELS, LABELS, 0, eps=1.0),
      r"others=\(\): expected one net",
    ),
    (lambda: constructed.random_targets(KEYS, 1), "num_classes=1"),
    (lambda: constructed.next_targets(LABELS, 1), "num_classes=1"),
    (lambda: constructed.start_rows(KEYS, 0), "num_examples=0"),
  ],
)
def test_what_makes_no_sense_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
