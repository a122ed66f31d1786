"""PGD: closed forms on linear classifiers, its optimisers, starts, and what it keeps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_robust import attacks, losses

KEY = jax.random.key(0)
WEIGHT = np.array([0.9, -0.4, 0.2, -1.3, 0.6, 0.05], np.float32)


def linear(x):
  """Two classes, z_1 - z_0 = w (x - 1/2): the optimum against label 0 is known in every ball."""
  score = (x - 0.5) @ jnp.asarray(WEIGHT, x.dtype)
  return jnp.stack([jnp.zeros_like(score), score], axis=1)


def pgd(logits_fn, x, labels, **options):
  """The attack, jitted and rolled up: op by op or unrolled it takes far longer to compile."""
  attack = functools.partial(attacks.pgd, logits_fn, **{"unroll": 1, **options})
  return jax.jit(attack)(x, labels, KEY)


def interior(num_rows=3):
  x = jax.random.uniform(KEY, (num_rows, 6), minval=0.35, maxval=0.65)
  return x, jnp.zeros(num_rows, jnp.int32)


OPTIMA = {
  "linf": (attacks.linf_ball(0.1), 0.1 * np.sign(WEIGHT)),
  "l2": (attacks.l2_ball(0.3), 0.3 * WEIGHT / np.linalg.norm(WEIGHT)),
  "l2_exact": (attacks.l2_ball(0.3, exact=True), 0.3 * WEIGHT / np.linalg.norm(WEIGHT)),
  "l1": (attacks.l1_ball(0.3, sparsity=0.0), np.array([0, 0, 0, -0.3, 0, 0])),
}


@pytest.mark.parametrize("name", OPTIMA)
@pytest.mark.parametrize(
  ("attack", "loss_fn"),
  [
    (attacks.fgsm, losses.cross_entropy),
    (functools.partial(attacks.pgd, num_steps=6, step_size=5.0, unroll=1), losses.margin),
  ],
)
def test_linear_optimum_is_reached(name, attack, loss_fn):
  x, labels = interior()
  ball, shift = OPTIMA[name]
  x_adv = jax.jit(functools.partial(attack, linear, ball=ball, loss_fn=loss_fn))(x, labels, KEY)
  np.testing.assert_allclose(x_adv - x, np.tile(shift, (3, 1)), atol=1e-6)


@pytest.mark.parametrize("optimizer", [None, attacks.adam({0: 0.1, 5: 0.01})])
def test_linear_optimum_is_reached_at_the_box(optimizer):
  x = jnp.array([[0.05, 0.02, 0.98, 0.5, 0.99, 0.0]])
  x_adv = pgd(linear, x, jnp.array([0]), ball=attacks.linf_ball(0.1), optimizer=optimizer)
  np.testing.assert_allclose(x_adv, np.clip(x + 0.1 * np.sign(WEIGHT)[None], 0, 1), atol=1e-6)


def test_exact_l2_projection_reaches_the_optimum_that_the_fields_rule_misses():
  x = jnp.array([[0.95, 0.5, 0.5, 0.1, 0.5, 0.5]])
  moved = {}
  for exact in (True, False):
    ball = attacks.l2_ball(0.5, exact=exact)
    x_adv = pgd(linear, x, jnp.array([0]), ball=ball, num_steps=30, step_size=0.5)
    moved[exact] = float(((x_adv - x) @ WEIGHT)[0])
  # The optimum moves every pixel by min(t |w|, room), with t from ||shift|| = eps.
  room = np.where(WEIGHT > 0, 1 - x[0], x[0])
  fraction = next(
    t
    for t in np.linspace(5, 0, 100_001)
    if np.linalg.norm(np.minimum(t * abs(WEIGHT), room)) <= 0.5
  )
  best = np.minimum(fraction * abs(WEIGHT), room) @ abs(WEIGHT)
  np.testing.assert_allclose(moved[True], best, rtol=1e-4)
  assert moved[False] < 0.99 * best


def test_adam_on_the_input_follows_its_formula():
  x, labels = interior()
  sizes = {0: 0.01, 3: 0.002}
  x_adv = pgd(
    linear, x, labels, ball=attacks.linf_ball(1.0), num_steps=5, optimizer=attacks.adam(sizes),
    start="zero",
  )  # fmt: skip
  z, w = np.asarray(x, np.float64), WEIGHT.astype(np.float64)
  first, second = np.zeros_like(z), np.zeros_like(z)
  for t in range(1, 6):
    # d/dz of -log softmax_0 = p_1 w
    gradient = (1 / (1 + np.exp(-(z - 0.5) @ w)))[:, None] * w
    first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
    size = 0.01 if t <= 3 else 0.002
    z = z + size * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-9)
  np.testing.assert_allclose(x_adv, z, atol=1e-6)


def test_step_size_schedule_counts_steps():
  x, labels = interior()
  x_adv = pgd(
    linear, x, labels, ball=attacks.linf_ball(1.0), num_steps=3, start="zero",
    step_size=attacks.piecewise_constant({0: 0.1, 2: 0.02}),
  )  # fmt: skip
  np.testing.assert_allclose(x_adv - x, np.tile(0.22 * np.sign(WEIGHT), (3, 1)), atol=1e-6)


def test_optimizer_state_is_per_example():
  # Normalised by the norm of its own gradient; a shared optimiser would mix the rows' scales.
  x, labels = interior()
  scaled = lambda x: jnp.array([[1.0], [10.0], [100.0]]) * linear(x)  # noqa: E731
  optimizer = optax.chain(optax.normalize_by_update_norm(), optax.sgd(0.05))
  ball = attacks.l2_ball(1.0)
  x_adv = pgd(scaled, x, labels, ball=ball, num_steps=1, optimizer=optimizer, start="zero")
  np.testing.assert_allclose(np.linalg.norm(x_adv - x, axis=1), 0.05, rtol=1e-4)


def test_non_finite_gradient_does_not_spoil_the_other_pixels():
  x, labels = interior()
  x = x.at[:, 2].set(0.0)
  spoilt = lambda x: linear(x) + jnp.sqrt(x[:, 2:3]) * jnp.array([[1.0, -1.0]])  # noqa: E731
  for options in ({"step_size": 0.1}, {"optimizer": attacks.adam({0: 0.1})}):
    x_adv = pgd(
      spoilt, x, labels, ball=attacks.linf_ball(0.1), num_steps=2, start="zero", **options
    )
    expected = jnp.clip(x + 0.1 * np.sign(WEIGHT)[None], 0, 1).at[:, 2].set(0.0)
    np.testing.assert_allclose(x_adv, expected, atol=1e-6)


def test_starts():
  x, labels = interior(200)
  ball = attacks.linf_ball(0.1)
  start = functools.partial(pgd, linear, x, labels, ball=ball, num_steps=0)
  np.testing.assert_array_equal(start(start="zero"), x)
  np.testing.assert_allclose(jnp.std(start(start="uniform") - x), 0.1 / np.sqrt(3), rtol=0.05)
  np.testing.assert_allclose(jnp.std(start(start="normal") - x), 1e-3, rtol=0.05)
  np.testing.assert_array_equal(start(start=x + 0.05), x + 0.05)
  np.testing.assert_allclose(start(start=x + 0.5), x + 0.1, atol=1e-7)


def wavy(x):
  """A loss with many maxima, so that neither the last iterate nor one start is the best."""
  score = jnp.sum(jnp.sin(40 * x), axis=1)
  return jnp.stack([jnp.zeros_like(score), score], axis=1)


@pytest.mark.thorough
def test_best_is_no_worse_than_last():
  x, labels = interior(20)
  attack = functools.partial(
    pgd, wavy, x, labels, ball=attacks.linf_ball(0.2), num_steps=5, step_size=0.1
  )  # fmt: skip
  loss = lambda z: np.asarray(losses.cross_entropy(wavy(z), labels))  # noqa: E731
  last, best = loss(attack()), loss(attack(keep_best=True))
  restarted, both = loss(attack(num_restarts=3)), loss(attack(num_restarts=3, keep_best=True))
  assert np.all(best >= last) and np.any(best > last + 0.1)
  assert np.all(restarted >= last) and np.any(restarted > last + 0.1)
  assert np.all(both >= np.maximum(best, restarted))
  # The start itself counts: one step as large as this leaves a maximum that it started on.
  at_top = pgd(wavy, x, labels, ball=attacks.linf_ball(0.2), num_steps=40, keep_best=True)
  kept = attack(num_steps=1, start=at_top, keep_best=True)
  assert np.all(loss(kept) >= loss(at_top))


def test_nan_loss_is_never_the_best():
  x, labels = interior()
  # Not a number beyond .05 from the start.
  logits_fn = lambda z: jnp.where(jnp.abs(z - x).max() > 0.05, jnp.nan, linear(z))  # noqa: E731
  x_adv = pgd(
    logits_fn, x, labels, ball=attacks.linf_ball(0.2), num_steps=4, step_size=0.03,
    start="zero", keep_best=True,
  )  # fmt: skip
  np.testing.assert_allclose(x_adv, x + 0.03 * np.sign(WEIGHT)[None], atol=1e-6)


def test_every_exit_is_attacked():
  # The exits pull opposite ways on pixel 0, the second twice as hard.
  exits = lambda x: (linear(x), -2 * linear(x))  # noqa: E731
  x, labels = interior()
  x_adv = pgd(exits, x, labels, ball=attacks.linf_ball(0.1), loss_fn=losses.margin, num_steps=4)
  np.testing.assert_allclose(x_adv - x, np.tile(-0.1 * np.sign(WEIGHT), (3, 1)), atol=1e-6)


def test_soft_targets_are_ascended():
  x, _ = interior()
  targets = jnp.tile(jnp.array([[1.0, 0.0]]), (3, 1))
  ball, loss_fn = attacks.linf_ball(0.1), losses.kl_divergence
  x_adv = pgd(linear, x, targets, ball=ball, loss_fn=loss_fn)
  np.testing.assert_allclose(x_adv - x, np.tile(0.1 * np.sign(WEIGHT), (3, 1)), atol=1e-6)


@pytest.mark.parametrize("unroll", [1, 2])
def test_unrolling_changes_nothing(unroll):
  x, labels = interior()
  attack = functools.partial(pgd, linear, x, labels, ball=attacks.l2_ball(0.3), num_steps=5)
  np.testing.assert_allclose(attack(unroll=unroll), attack(), atol=1e-6)


def test_default_unroll_is_all_steps_on_cpu_up_to_a_bound(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
  assert [attacks.default_unroll(n) for n in (0, 10, 64, 65)] == [1, 10, 64, 1]
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert attacks.default_unroll(10) == 1


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"start": "unifrom"}, "start='unifrom': did you mean 'uniform'"),
    ({"step_size": 0.1, "optimizer": optax.sgd(0.1)}, "step_size and optimizer"),
    ({"num_restarts": 2, "start": "zero"}, "num_restarts=2 with start=zero"),
    ({"num_restarts": 0}, "num_restarts=0"),
    ({"num_steps": -1}, "num_steps=-1"),
  ],
)
def test_contradictions_raise(options, message):
  x, labels = interior()
  with pytest.raises(ValueError, match=message):
    pgd(linear, x, labels, ball=attacks.linf_ball(0.1), **options)
