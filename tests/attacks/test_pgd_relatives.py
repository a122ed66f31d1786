"""BIM, MIM, CW in l-infinity, and PGD on randomised classifiers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows import mostly_slow

from jax_robust import attacks, losses

KEY = jax.random.key(0)
WEIGHT = np.array([0.9, -0.4, 0.2, -1.3, 0.6, 0.05], np.float32)
BALL = attacks.linf_ball(0.1)


def linear(x, scale=1.0):
  """Two classes, z_1 - z_0 = scale w (x - 1/2)."""
  score = scale * (x - 0.5) @ jnp.asarray(WEIGHT, x.dtype)
  return jnp.stack([jnp.zeros_like(score), score], axis=1)


def curved(x):
  """A score whose gradient turns on the way."""
  score = jnp.sum(jnp.sin(6 * x * jnp.asarray(WEIGHT[None], x.dtype)), axis=1)
  return jnp.stack([jnp.zeros_like(score), score], axis=1)


def interior(num_rows=3, num_pixels=6):
  x = jax.random.uniform(KEY, (num_rows, num_pixels), minval=0.35, maxval=0.65)
  return x, jnp.zeros(num_rows, jnp.int32)


@functools.cache
def jitted(attack, logits_fn, **options):
  return jax.jit(functools.partial(attack, logits_fn, **options))


def run(attack, logits_fn, x, labels, key=KEY, **options):
  options = {"ball": BALL, "unroll": 1, **options}
  return jitted(attack, logits_fn, **options)(x, labels, key)


def test_bim_steps_from_x_itself():
  x, labels = interior()
  step = functools.partial(run, attacks.bim, linear, x, labels, ball=attacks.linf_ball(1.0))
  moved = step(num_steps=3, step_size=0.01) - x
  np.testing.assert_allclose(moved, np.tile(0.03 * np.sign(WEIGHT), (3, 1)), atol=1e-6)


@pytest.mark.parametrize("attack", [attacks.bim, attacks.mim])
def test_default_step_is_that_of_the_published_settings(attack):
  x, labels = interior()
  turned = lambda z: jnp.where(jnp.abs(z - x).max() > 1e-4, -1.0, 1.0) * linear(z)  # noqa: E731
  ball = attacks.linf_ball(8 / 255)
  # BIM steps back at the second step; a momentum of .1 keeps the sign of the last gradient as well.
  options = {"momentum": 0.1} if attack is attacks.mim else {}
  for num_steps, expected in ((10, 2 / 255), (100, 0.2 / 255)):
    first = run(attack, turned, x, labels, ball=ball, num_steps=num_steps, **options) - x
    assert np.abs(first).max() <= expected + 1e-6
    alone = run(attack, linear, x, labels, ball=ball, num_steps=1, step_size=expected, **options)
    np.testing.assert_allclose(np.abs(alone - x), expected, rtol=1e-4)


@pytest.mark.parametrize("ball", [BALL, attacks.l2_ball(0.3), attacks.l1_ball(0.3)])
def test_mim_is_bim_where_the_gradient_keeps_its_direction(ball):
  x, labels = interior()
  options = {"ball": ball, "num_steps": 5, "step_size": 0.03}
  mim, bim = (run(attack, linear, x, labels, **options) for attack in (attacks.mim, attacks.bim))
  np.testing.assert_allclose(mim, bim, atol=1e-6)
  assert np.abs(mim - x).max() > 0.05


@pytest.mark.parametrize("momentum", [1.0, 0.5, 0.0])
def test_mim_follows_its_formula(momentum):
  x, labels = interior()
  options = {"ball": attacks.l2_ball(10.0), "loss_fn": losses.margin, "num_steps": 6}
  x_adv = run(attacks.mim, curved, x, labels, step_size=0.2, momentum=momentum, **options)
  z, velocity = np.asarray(x, np.float64), np.zeros(x.shape)
  for _ in range(6):
    gradient = 6 * WEIGHT * np.cos(6 * z * WEIGHT)
    velocity = momentum * velocity + gradient / np.abs(gradient).mean(1, keepdims=True)
    z = np.clip(z + 0.2 * velocity / np.linalg.norm(velocity, axis=1, keepdims=True), 0, 1)
  np.testing.assert_allclose(x_adv, z, atol=1e-4)


def test_momentum_survives_vanishing_and_non_finite_gradients():
  x, labels = interior()
  x = x.at[:, 2].set(0.0)
  spoilt = lambda x: linear(x, 1e-30) + jnp.sqrt(x[:, 2:3]) * jnp.array([[1.0, -1.0]])  # noqa: E731
  x_adv = run(attacks.mim, spoilt, x, labels, loss_fn=losses.margin)
  expected = jnp.clip(x + 0.1 * np.sign(WEIGHT)[None], 0, 1).at[:, 2].set(0.0)
  np.testing.assert_allclose(x_adv, expected, atol=1e-6)


def test_cw_linf_reaches_the_linear_optimum():
  x, labels = interior()
  x_adv = run(attacks.cw_linf, linear, x, labels, num_steps=10)
  np.testing.assert_allclose(x_adv - x, np.tile(0.1 * np.sign(WEIGHT), (3, 1)), atol=1e-6)


def test_confidence_is_where_the_ascent_ends():
  x, labels = interior()
  for confidence in (0.0, 0.1):
    options = {"num_steps": 40, "step_size": 0.002, "start": "zero", "confidence": confidence}
    margin = losses.margin(
      linear(run(attacks.cw_linf, linear, x, labels, ball=attacks.linf_ball(0.2), **options)),
      labels,
    )
    clean = np.asarray(losses.margin(linear(x), labels))
    stepped = 0.002 * np.abs(WEIGHT).sum()
    reached = np.minimum(np.maximum(clean, confidence), clean + 40 * stepped)
    assert np.all(margin >= reached - 1e-5) and np.all(margin <= reached + stepped + 1e-5)


def test_cw_linf_is_for_linf_only():
  x, labels = interior()
  with pytest.raises(ValueError, match=r"ball\.norm='l2'.*cw_l2"):
    attacks.cw_linf(linear, x, labels, KEY, ball=attacks.l2_ball(0.1))


# Randomised classifiers


def noisy(x, rng):
  """`linear` on 200 pixels whose weights drown in noise: the mean score is the mean of x - 1/2."""
  weight = (1 + 4 * jax.random.normal(rng, x.shape[1:])) / x.shape[1]
  score = (x - 0.5) @ weight
  return jnp.stack([jnp.zeros_like(score), score], axis=1)


def gain(attack, **options):
  """How far the mean score rose, as a share of what can be reached."""
  x, labels = interior(4, 200)
  x_adv = run(attack, noisy, x, labels, loss_fn=losses.margin, num_steps=3, **options)
  return np.mean(x_adv - x, axis=1) / 0.1


@pytest.mark.thorough
@pytest.mark.parametrize("attack", [attacks.pgd, attacks.bim, attacks.mim])
def test_averaging_over_draws_beats_a_single_draw(attack):
  once, often = gain(attack), gain(attack, eot=200)
  assert np.all(once < 0.7) and np.all(often > 0.9)


def test_every_step_and_every_draw_sees_fresh_noise():
  x, labels = interior(4, 10)

  def sided(x, rng):  # up or down for all pixels, by the toss of a coin
    score = jnp.where(jax.random.bernoulli(rng), 1.0, -1.0) * jnp.sum(x, axis=1)
    return jnp.stack([jnp.zeros_like(score), score], axis=1)

  options = {"loss_fn": losses.margin, "step_size": 0.005, "ball": attacks.linf_ball(0.3)}
  walked = np.asarray(run(attacks.bim, sided, x, labels, num_steps=40, **options) - x)[:, 0]
  assert np.all(np.abs(walked) < 0.15) and len(np.unique(walked.round(4))) > 1
  # Of two draws that disagree the gradient vanishes, and the step with it.
  options |= {"num_steps": 1, "eot": 2}
  keys = jax.random.split(KEY, 40)
  x, labels = interior(40, 10)
  moved = np.asarray(run(attacks.bim, sided, x, labels, keys, **options) - x)[:, 0]
  assert np.any(moved == 0) and np.any(moved > 0) and np.any(moved < 0)


@pytest.mark.thorough
def test_randomised_result_is_independent_of_the_batch():
  x, labels = interior(5, 20)
  keys = jax.random.split(KEY, 5)
  for options in ({"eot": 3}, {"num_restarts": 2, "keep_best": True}):
    together = run(attacks.pgd, noisy, x, labels, keys, num_steps=2, **options)
    alone = run(attacks.pgd, noisy, x[3:4], labels[3:4], keys[3:4], num_steps=2, **options)
    np.testing.assert_allclose(alone, np.asarray(together)[3:4], atol=1e-6)
    other = run(attacks.pgd, noisy, x, labels, keys[::-1], num_steps=2, **options)
    assert not np.array_equal(other, together)


# That PGD, BIM and MIM do is also shown by what averaging over draws gains.
@pytest.mark.parametrize(
  "name",
  mostly_slow(
    ["fgsm", "rs_fgsm", "n_fgsm", "bim", "mim", "pgd", "cw_linf"],
    lambda name: name not in ("bim", "mim", "pgd"),
  ),
)
def test_the_family_takes_randomised_classifiers(name):
  x, labels = interior(2, 200)
  attack = attacks.ATTACKS[name]
  options = {"unroll": 1} if "unroll" in attacks.recipes.keywords(attack) else {}
  attack = jax.jit(functools.partial(attack, noisy, ball=BALL, **options))
  x_adv = attack(x, labels, KEY)
  assert np.all(np.mean(x_adv - x, axis=1) > 0)
  np.testing.assert_array_equal(x_adv, attack(x, labels, KEY))


def test_draws_of_a_deterministic_classifier_are_made_once():
  x, labels = interior()
  asked = []

  def counted(x):
    asked.append(x.shape)
    return linear(x)

  once, often = (run(attacks.pgd, counted, x, labels, eot=eot) for eot in (1, 30))
  np.testing.assert_array_equal(once, often)
  assert set(asked) == {(3, 6)}


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"eot": 0}, "eot=0: expected a whole number, at least 1"),
    ({"momentum": 1.0, "optimizer": attacks.adam({0: 0.1})}, "momentum and optimizer"),
  ],
)
def test_contradictions_raise(options, message):
  x, labels = interior()
  with pytest.raises(ValueError, match=message):
    run(attacks.pgd, linear, x, labels, **options)
