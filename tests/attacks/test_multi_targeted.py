"""MultiTargeted: every class is made for, and the best point of all runs is kept."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import attacks, losses

KEY = jax.random.key(0)
BALL = attacks.linf_ball(0.1)


def run(logits_fn, x, labels, ball=BALL, **options):
  options = {"num_steps": 10, "num_restarts": 1, **options}
  attack = functools.partial(attacks.multi_targeted, logits_fn, ball=ball, **options)
  return jax.jit(attack)(x, labels, KEY)


def interior(num_rows=3, num_pixels=6):
  x = jax.random.uniform(KEY, (num_rows, num_pixels), minval=0.35, maxval=0.65)
  return x, jnp.zeros(num_rows, jnp.int32)


def decoys(x):
  """Class 0 is right; 1 and 2 lead the others and never win, 3 is last and can."""
  rise = jnp.tanh(20 * (x[:, :3] - 0.5))
  return jnp.stack(
    [jnp.ones(len(x)), 0.9 + 0.05 * rise[:, 0], 0.6 + 0.3 * rise[:, 1], 5 * (x[:, 2] - 0.5)], axis=1
  )


def test_every_target_is_tried():
  x = jnp.full((4, 6), 0.5)
  labels = jnp.zeros(4, jnp.int32)
  ball = attacks.linf_ball(0.3)
  fooled = lambda x_adv: np.argmax(decoys(x_adv), axis=-1) == 3  # noqa: E731
  assert np.all(fooled(run(decoys, x, labels, ball=ball, num_targets=3)))
  assert not np.any(fooled(run(decoys, x, labels, ball=ball, num_targets=1)))
  greedy = functools.partial(attacks.pgd, ball=ball, loss_fn=losses.margin, start="zero", unroll=1)
  assert not np.any(fooled(jax.jit(functools.partial(greedy, decoys))(x, labels, KEY)))


@pytest.mark.parametrize(
  "options", [{}, {"step_size": 0.05}, {"optimizer": attacks.adam({0: 0.1})}]
)
def test_linear_optimum_is_reached(options):
  x, labels = interior()
  weights = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
  x_adv = run(lambda x: x @ weights, x, labels, **options)
  normals = weights[:, 1:] - weights[:, :1]
  optimum = np.max(x @ normals + 0.1 * np.abs(normals).sum(axis=0, keepdims=True), axis=1)
  margin = losses.margin(x_adv @ weights, labels)
  np.testing.assert_allclose(margin, optimum, atol=1e-5 * np.abs(optimum).max())


def wavy(x):
  """Many maxima for either wrong class."""
  waves = jnp.stack([jnp.sum(jnp.sin(f * x), axis=1) for f in (37.0, 53.0)], axis=1)
  return jnp.concatenate([jnp.zeros((len(x), 1)), waves], axis=1)


@pytest.mark.thorough
def test_more_runs_never_help_the_defender():
  x, labels = interior(20)
  margin = lambda **options: np.asarray(  # noqa: E731
    losses.margin(wavy(run(wavy, x, labels, step_size=0.02, **options)), labels)
  )
  one, targets, restarts = margin(num_targets=1), margin(), margin(num_restarts=4)
  assert np.all(targets >= one) and np.mean(targets) > np.mean(one) + 0.1
  assert np.all(restarts >= targets) and np.mean(restarts) > np.mean(targets) + 0.1
  # What is kept is the best iterate, not the last.
  short = margin(num_steps=1)
  assert np.all(margin(num_steps=4) >= short - 1e-6)


def test_a_run_that_found_something_can_stop():
  x, labels = interior(20)
  shifted = lambda x: wavy(x) + jnp.array([[1.0, 0.0, 0.0]])  # noqa: E731
  margin = lambda stop: np.asarray(  # noqa: E731
    losses.margin(shifted(run(shifted, x, labels, stop_when_found=stop, num_restarts=3)), labels)
  )
  first, best = margin(True), margin(False)
  np.testing.assert_array_equal(first > 0, best > 0)
  assert np.all(best >= first) and np.mean(best) > np.mean(first)


def test_a_randomised_classifier_is_attacked():
  x, labels = interior(6)
  noisy = lambda x, rng: wavy(x + 1e-3 * jax.random.normal(rng, x.shape))  # noqa: E731
  x_adv = run(noisy, x, labels)
  assert np.all(losses.margin(wavy(x_adv), labels) > losses.margin(wavy(x), labels))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_steps": 0}, "num_steps=0"),
    ({"num_targets": 0}, "num_targets=0"),
    ({"num_restarts": 0}, "num_restarts=0"),
    ({"step_size": 0.1, "optimizer": attacks.adam({0: 0.1})}, "step_size and optimizer"),
  ],
)
def test_contradictions_raise(options, message):
  x, labels = interior()
  with pytest.raises(ValueError, match=message):
    run(wavy, x, labels, **options)
