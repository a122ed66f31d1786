"""Slowdown attacks on exits whose confidence is known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

from jax_robust import attacks, losses
from jax_robust.early_exit import answer, confidences
from jax_robust.nets.exits import select_exit

KEY = jax.random.key(0)
DRAW = np.random.default_rng(0)
NUM_IMAGES, NUM_CLASSES = 12, 4
X = jnp.asarray(DRAW.uniform(0.3, 0.7, (NUM_IMAGES, 3 * NUM_CLASSES)), jnp.float32)
LABELS = jnp.asarray(np.arange(NUM_IMAGES) % 3)  # none of class 3
BALL = attacks.linf_ball(0.1)
MIXED = jnp.asarray(DRAW.normal(size=(3, 3 * NUM_CLASSES, NUM_CLASSES)) * 3, jnp.float32)


def separate(x):
  """Three exits: each has the pixels of its own as logits, the later ones more sharply."""
  return tuple(
    scale * x[:, NUM_CLASSES * e : NUM_CLASSES * (e + 1)] for e, scale in enumerate((4.0, 8.0, 9.0))
  )


def mixed(x):
  """Three linear exits of all pixels."""
  return tuple((x - 0.5) @ weights for weights in MIXED)


def run(attack, logits_fn=mixed, **options):
  options = {"ball": BALL, "unroll": 1, **options}
  return jax.jit(lambda x: attack(logits_fn, x, LABELS, KEY, **options))(X)


@pytest.mark.parametrize(
  "ball", [BALL, attacks.l2_ball(0.1), attacks.l1_ball(0.2, sparsity=0.5)], ids=["linf", "l2", "l1"]
)
def test_early_exits_become_less_sure(ball):
  x_adv = run(attacks.slowdown, separate, ball=ball, num_steps=1, step_size=0.02, start="zero")
  before, after = confidences(separate(X)), confidences(separate(x_adv))
  assert np.all(after[:-1] < before[:-1])
  np.testing.assert_array_equal(after[-1], before[-1])  # the last exit is left alone


def test_at_the_optimum_no_early_exit_knows_anything():
  sizes = attacks.piecewise_constant({0: 0.02, 15: 0.004, 25: 0.0008, 35: 0.0002})
  x_adv = run(attacks.slowdown, separate, ball=attacks.linf_ball(0.3), num_steps=50,
              step_size=sizes)  # fmt: skip
  sure = np.asarray(confidences(separate(x_adv)))
  np.testing.assert_allclose(sure[:-1], 1 / NUM_CLASSES, atol=1e-3)
  assert sure[-1].min() > 1.1 / NUM_CLASSES


def test_apgd_takes_the_loss_of_all_exits():
  """It stays at the last exit's class, which this loss leaves alone, and finds the optimum."""
  labels, ball = jnp.argmax(separate(X)[-1], axis=1), attacks.linf_ball(0.3)
  apgd = functools.partial(attacks.apgd, loss_fn=losses.slowdown_loss(), num_steps=100)
  x_adv = jax.jit(lambda x: apgd(separate, x, labels, KEY, ball=ball, start=x))(X)
  sure = np.asarray(confidences(separate(x_adv)))
  assert confidences(separate(X))[:-1].max() > 0.5
  np.testing.assert_allclose(sure[:-1], 1 / NUM_CLASSES, atol=0.02)
  np.testing.assert_array_equal(sure[-1], confidences(separate(X))[-1])


def test_a_heavy_weight_is_pgd():
  options = {"start": "one_step", "num_steps": 5, "loss_fn": losses.margin}
  heavy = run(attacks.slowdown, weight=1e6, **options)
  assert_close(heavy, run(attacks.pgd, select_exit(mixed, "last"), **options))
  assert not np.array_equal(heavy, run(attacks.slowdown, weight=0.0, **options))


def test_cost_and_accuracy_at_once():
  """A weight trades the one for the other."""
  slow, both = (run(attacks.slowdown, weight=w, num_steps=20) for w in (0.0, 1.0))
  unsure = losses.cross_entropy_to_uniform
  assert np.mean(unsure(mixed(slow))) < np.mean(unsure(mixed(both))) < np.mean(unsure(mixed(X)))
  wrong = [np.mean(losses.cross_entropy(mixed(x)[-1], LABELS)) for x in (X, slow, both)]
  assert wrong[2] > max(wrong[:2]) + 1


def test_the_exit_taken_can_be_what_is_made_wrong():
  """All images leave at the first exit here, so that its logits are what counts."""
  first = lambda outputs: answer(outputs, [0.0, 0.0])[0]  # noqa: E731
  options = {"weight": 1e6, "num_steps": 3, "start": "zero"}
  x_adv = run(attacks.slowdown, answer_fn=first, **options)
  assert_close(x_adv, run(attacks.pgd, select_exit(mixed, 0), num_steps=3, start="zero"))


def test_a_goal_is_what_the_last_exit_is_led_to():
  goals = (LABELS + 1) % NUM_CLASSES
  x_adv = run(attacks.slowdown, goals=goals, weight=20.0, ball=attacks.linf_ball(0.3))
  assert np.all(jnp.argmax(mixed(x_adv)[-1], axis=1) == goals)
  unsure = losses.cross_entropy_to_uniform
  x_slow = run(attacks.slowdown, goals=goals)  # without a weight the goals say nothing
  assert np.all(unsure(mixed(x_slow)) < unsure(mixed(X)))


def test_the_start_is_within_one_step():
  start = functools.partial(run, attacks.slowdown, num_steps=0)
  delta = np.abs(start(step_size=0.01) - X).max(axis=1)
  assert np.all(delta <= 0.01 + 1e-6) and np.all(delta > 0.005)
  largest = np.abs(start(step_size=lambda step: 0.05 - step) - X).max()
  assert 0.03 < largest <= 0.05 + 1e-6
  with pytest.raises(ValueError, match="start='one_step' and an optimizer"):
    run(attacks.pgd, start="one_step", optimizer=attacks.adam({0: 0.1}))


def descend(delta, rows, num_steps, step_size):
  """Sign steps of one perturbation on the sum over rows, one after the other."""

  @jax.jit
  def gradient(delta):
    total = lambda d: jnp.sum(losses.cross_entropy_to_uniform(mixed(jnp.clip(X[rows] + d, 0, 1))))  # noqa: E731
    return jax.grad(total)(delta)

  for _ in range(num_steps):
    delta = jnp.clip(delta - step_size * jnp.sign(gradient(delta[None])[0]), -BALL.eps, BALL.eps)
  return delta


def test_one_perturbation_for_all_images():
  start, end = (run(attacks.universal_slowdown, num_steps=n, step_size=0.03) for n in (0, 5))
  assert start.shape == X.shape[1:] and len(np.unique(start)) == len(start)
  assert_close(end, descend(start, jnp.arange(NUM_IMAGES), 5, 0.03))
  assert np.abs(np.float64(end)).max() <= 0.1 * (1 + 1e-6)
  unsure = losses.cross_entropy_to_uniform
  assert np.sum(unsure(mixed(X + end[None]))) < np.sum(unsure(mixed(X)))


def test_one_perturbation_for_each_class():
  attack = attacks.class_universal_slowdown
  start, end = (run(attack, num_steps=n, step_size=0.03) for n in (0, 5))
  for label in range(3):
    rows = jnp.flatnonzero(label == LABELS)
    assert_close(end[label], descend(start[label], rows, 5, 0.03))
  assert len(np.unique(start[:3])) == start[:3].size
  np.testing.assert_array_equal(end[3], 0.0)  # no image of it


def test_a_perturbation_needs_one_radius_and_several_exits():
  attack = functools.partial(attacks.universal_slowdown, mixed, X, LABELS, KEY)
  with pytest.raises(ValueError, match="universal_slowdown needs an linf_ball"):
    attack(ball=attacks.l2_ball(0.1))
  with pytest.raises(ValueError, match="takes a ball of one radius"):
    attack(ball=attacks.linf_ball(np.full(NUM_IMAGES, 0.1)))
  with pytest.raises(ValueError, match="1 exit: slowdown needs a net of several"):
    run(attacks.universal_slowdown, select_exit(mixed, "last"))


def test_a_randomised_net_keeps_one_draw_per_image():
  noisy = lambda x, rng: mixed(x + 0.1 * jax.random.normal(rng, x.shape))  # noqa: E731
  delta = run(attacks.universal_slowdown, noisy, num_steps=2)
  assert delta.shape == X.shape[1:] and np.abs(delta).max() <= 0.1 * (1 + 1e-6)
