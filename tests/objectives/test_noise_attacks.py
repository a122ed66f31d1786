"""Attacks on the smoothed classifier: closed forms on linear nets, balls, boxes, dead ends."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smoothing_net import (
  KERNEL,
  KEYS,
  LABELS,
  NOISE,
  X,
  ddn,
  logits_of,
  norm,
  softmax,
  to_levels,
  unrestricted_attack,
)

from jax_robust.objectives import noise_attacks

PIXELS = 6
NORMAL = np.random.default_rng(0).normal(size=PIXELS)
NORMAL /= np.linalg.norm(NORMAL)
IMAGES = np.random.default_rng(1).uniform(0.4, 0.6, (8, PIXELS))
SIDES = np.arange(8) % 2
NOISES = 0.1 * np.random.default_rng(2).normal(size=(8, 5, PIXELS))
ROWS = jax.random.split(jax.random.key(0), 8)
AWAY = np.where(SIDES == 0, 1, -1)[:, None] * NORMAL  # where the label's probability falls
STATIC = ("logits_fn", "num_steps", "no_grad_attack")
smoothadv_pgd = jax.jit(noise_attacks.smoothadv_pgd, static_argnames=STATIC)
smoothadv_ddn = jax.jit(noise_attacks.smoothadv_ddn, static_argnames=STATIC[:2])
mixing_attack = jax.jit(noise_attacks.unrestricted_attack, static_argnames=STATIC[:2])
PGD = functools.partial(smoothadv_pgd, noises=jnp.float32(NOISES), keys=ROWS)
DDN = functools.partial(smoothadv_ddn, noises=jnp.float32(NOISES), keys=ROWS)


def three_classes(x):
  return x.reshape(len(x), -1) @ jnp.float32(KERNEL)


def two_sides(x, slope=4.0):
  """Class 1 beyond a plane through the middle of the box, class 0 before it."""
  height = slope * (x.reshape(len(x), -1) - 0.5) @ jnp.float32(NORMAL)
  return jnp.stack([-height, height], axis=-1)


def saturated(x):
  return two_sides(x, slope=1e6)


def constant(x):
  """Class 0 everywhere, and no gradient."""
  return jnp.stack([jnp.ones(len(x)), jnp.zeros(len(x))], axis=-1) + 0 * two_sides(x)


def unrestricted(logits_fn=two_sides, x=IMAGES, labels=SIDES, noises=NOISES, **options):
  ends = mixing_attack(
    logits_fn, jnp.float32(x), jnp.asarray(labels), jnp.float32(noises), **options
  )
  return np.asarray(ends.start), np.asarray(ends.adversarial)


def test_all_steps_are_made_in_no_ball():
  """Where the gradient always points one way it ends T alpha away, or at the box."""
  start, far = unrestricted(alpha=0.06, num_steps=5)
  np.testing.assert_allclose(far, IMAGES + 0.3 * AWAY, atol=1e-5)
  assert (start == jnp.float32(IMAGES)).all()
  _, far = unrestricted(alpha=0.8, num_steps=2)
  np.testing.assert_allclose(far, np.clip(IMAGES + 1.6 * AWAY, 0, 1), atol=1e-5)
  assert norm(far - IMAGES).max() > 0.8


CASES = [
  {"alpha": 0.2, "num_steps": 4},
  {"alpha": 0.7, "num_steps": 2, "mix_step": 1, "maxnorm_s": 0.4},
  {"alpha": 0.3, "num_steps": 4, "mix_step": 2, "maxnorm_s": 9.0, "maxnorm": 0.5},
]


@pytest.mark.parametrize("options", CASES)
def test_both_ends_are_those_by_hand(options):
  """On a linear net of three classes, whose gradient turns from step to step."""
  ends = unrestricted(three_classes, X, LABELS, NOISE, **options)
  expected = unrestricted_attack(KERNEL, X, LABELS, NOISE, **options)
  for got, wanted in zip(ends, expected, strict=True):
    np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("options", CASES)
def test_ends_are_in_the_box(options):
  corners = np.random.default_rng(3).integers(0, 2, X.shape)
  for x in (X, corners):
    for end in unrestricted(three_classes, x, LABELS, NOISE, **options):
      assert end.min() >= 0 and end.max() <= 1


def test_mix_step_chooses_the_iterate():
  """0 is the image, k the point after k steps; the image again where there are not so many."""
  options = {"logits_fn": three_classes, "x": X, "labels": LABELS, "noises": NOISE, "alpha": 0.15}
  iterates = [X] + [unrestricted(num_steps=count, **options)[1] for count in (1, 2)]
  for mix_step, expected in ((0, X), (1, iterates[1]), (2, iterates[2]), (3, X), (7, X)):
    start, _ = unrestricted(num_steps=3, mix_step=mix_step, maxnorm_s=9.0, **options)
    np.testing.assert_allclose(start, expected, atol=1e-6)
  assert norm(iterates[2] - X).max() > 0.2


@pytest.mark.parametrize("maxnorm", [0.1, 0.25])
def test_maxnorm_holds_at_every_iterate(maxnorm):
  """Read off as the starting end, which `maxnorm_s` leaves alone here."""
  options = {"logits_fn": three_classes, "x": X, "labels": LABELS, "noises": NOISE, "alpha": 0.2}
  reached = []
  for mix_step in (1, 2, 3):
    start, far = unrestricted(
      num_steps=4, mix_step=mix_step, maxnorm=maxnorm, maxnorm_s=9.0, **options
    )
    reached += [norm(start - X), norm(far - X)]
  assert np.max(reached) <= maxnorm * (1 + 1e-5)
  assert np.max(reached) >= maxnorm * (1 - 1e-5)


def test_maxnorm_s_draws_the_start_back():
  options = {"alpha": 0.2, "num_steps": 2, "mix_step": 1}
  for radius, distance in ((0.05, 0.05), (jnp.float32(0.12), 0.12), (0.2, 0.2), (0.5, 0.2), (0, 0)):
    start, far = unrestricted(maxnorm_s=radius, **options)
    np.testing.assert_allclose(start, IMAGES + distance * AWAY, atol=1e-5)
    np.testing.assert_allclose(far, IMAGES + 0.4 * AWAY, atol=1e-5)


@pytest.mark.parametrize("logits_fn", [constant, saturated])
def test_without_a_gradient_the_image_stays(logits_fn):
  """A constant net; a saturated one, where the probability is 1 or below 1e-20."""
  x = np.where(np.arange(8)[:, None] < 4, 0.5 - 0.4 * NORMAL, 0.5 + 0.4 * NORMAL)
  start, far = unrestricted(
    logits_fn, x, noises=NOISES / 10, alpha=0.5, num_steps=2, mix_step=1, maxnorm_s=1.0
  )
  np.testing.assert_array_equal(start, np.float32(x))
  np.testing.assert_array_equal(far, np.float32(x))


def test_an_image_moves_alone():
  """The loss is summed, and each gradient of its own length: the batch does not matter."""
  options = {"alpha": 0.2, "num_steps": 3, "mix_step": 2, "maxnorm_s": 0.3}
  ends = unrestricted(three_classes, X, LABELS, NOISE, **options)
  part = unrestricted(three_classes, X[2:4], LABELS[2:4], NOISE[2:4], **options)
  for whole, few in zip(ends, part, strict=True):
    np.testing.assert_allclose(few, whole[2:4], atol=1e-6)


def test_pgd_reaches_the_linear_optimum():
  for num_steps in (1, 4):
    x_adv = PGD(two_sides, jnp.float32(IMAGES), SIDES, epsilon=0.3, num_steps=num_steps)
    np.testing.assert_allclose(x_adv, IMAGES + 0.3 * AWAY, atol=1e-5)


def test_pgd_clips_a_step_of_two_epsilon_and_draws_it_back():
  """In this order: near a corner of the box the other ends elsewhere."""
  x = np.full((8, PIXELS), 0.9)
  got = PGD(two_sides, jnp.float32(x), SIDES, epsilon=0.3, num_steps=1)
  delta = np.clip(x + 0.6 * AWAY, 0, 1) - x
  np.testing.assert_allclose(got, x + delta * np.minimum(1, 0.3 / norm(delta)), atol=1e-5)


@pytest.mark.parametrize("attack", [PGD, DDN])
@pytest.mark.parametrize("epsilon", [0.05, 0.7])
def test_smoothadv_stays_in_ball_and_box(attack, epsilon):
  """DDN's up to the rounding of each pixel to 255ths."""
  images = to_levels(np.random.default_rng(4).uniform(0, 1, (8, PIXELS)))
  x = jnp.float32(images)
  x_adv = np.asarray(attack(two_sides, x, SIDES, epsilon=jnp.float32(epsilon), num_steps=4))
  assert x_adv.min() >= 0 and x_adv.max() <= 1
  rounding = 0.5 / 255 * PIXELS**0.5 if attack is DDN else 1e-6
  assert norm(x_adv - images).max() <= epsilon + rounding
  assert norm(x_adv - images).max() > 0.9 * epsilon


def test_pgd_leaves_a_plateau_in_a_normal_direction():
  """A direction of each image's own key, another at each step, none preferred."""
  keys = jax.random.split(jax.random.key(3), 600)
  x = jnp.full((600, PIXELS), 0.5)
  attack = functools.partial(
    smoothadv_pgd, constant, labels=jnp.zeros(600, int), noises=jnp.zeros((600, 1, PIXELS)),
    epsilon=0.1,
  )  # fmt: skip
  delta = np.asarray(attack(x, keys=keys, num_steps=1)) - 0.5
  np.testing.assert_allclose(norm(delta), 0.1, rtol=1e-4)
  np.testing.assert_allclose(delta.mean(0), 0, atol=0.1 * 4 / 3600**0.5)
  np.testing.assert_allclose(delta.T @ delta, np.eye(PIXELS), atol=0.2)
  twice = np.asarray(attack(x, keys=keys, num_steps=2)) - 0.5
  assert norm(twice).max() <= 0.1 * (1 + 1e-5) and norm(twice).min() < 0.05
  few = smoothadv_pgd(
    constant, x[:2], jnp.zeros(2, int), jnp.zeros((2, 1, PIXELS)), keys[5:7], epsilon=0.1,
    num_steps=1,
  )  # fmt: skip
  np.testing.assert_allclose(few - 0.5, delta[5:7], atol=1e-6)


def stairs(x):
  """`two_sides` as votes: no gradient anywhere."""
  return 20.0 * jax.nn.one_hot(jnp.argmax(two_sides(x), axis=-1), 2)


@pytest.mark.parametrize("logits_fn", [two_sides, stairs])
def test_no_gradient_attack_descends_the_smoothed_probability(logits_fn):
  """Even of a net that has no gradient; the direction is the linear net's, as noises allow."""
  noises = jnp.float32(0.3 * np.random.default_rng(5).normal(size=(8, 2000, PIXELS)))
  x_adv = smoothadv_pgd(
    logits_fn, jnp.float32(IMAGES), SIDES, noises, ROWS, epsilon=0.2, num_steps=2,
    no_grad_attack=True,
  )  # fmt: skip
  cosine = ((x_adv - IMAGES) * AWAY).sum(1) / norm(x_adv - IMAGES)[:, 0]
  assert cosine.min() > 0.9
  before, after = (
    softmax(np.asarray(logits_fn((x[:, None] + noises).reshape(-1, PIXELS)), np.float64))
    .reshape(8, 2000, 2)
    .mean(1)[np.arange(8), SIDES]
    for x in (jnp.float32(IMAGES), x_adv)
  )
  assert (after < before - 0.1).all()


@pytest.mark.parametrize("epsilon", [0.2, 0.6])
def test_ddn_is_that_by_hand(epsilon):
  """Schedule, growth and shrinkage, votes, levels, and what is found too far drawn back."""
  x = to_levels(X)
  labels = softmax(logits_of(KERNEL, x)).mean(1).argmax(1)
  expected, distance = ddn(KERNEL, x, labels, NOISE, epsilon=epsilon, num_steps=7)
  got = smoothadv_ddn(
    three_classes, jnp.float32(x), labels, jnp.float32(NOISE), KEYS, epsilon=epsilon, num_steps=7
  )
  np.testing.assert_allclose(got, expected, atol=1e-6)
  assert (distance > 0.2).any() and (norm(expected - x) > 0.1).sum() >= 3


def test_ddn_finds_the_nearest_point_that_most_noises_misclassify():
  """Not the nearest that the mean probability misclassifies: one noise far ahead has one vote."""
  labels = jnp.zeros(8, int)
  distance = np.linspace(0.1, 0.3, 8)[:, None]
  x = to_levels(0.5 - distance * NORMAL)
  noises = np.stack([0 * x, 0 * x, np.broadcast_to(2 * NORMAL, x.shape)], axis=1)
  attack = functools.partial(DDN, two_sides, jnp.float32(x), labels, noises=jnp.float32(noises))
  x_adv = np.asarray(attack(epsilon=0.5, num_steps=80), np.float64)
  np.testing.assert_allclose(255 * x_adv, np.round(255 * x_adv), atol=1e-4)
  boundary = -(x - 0.5) @ NORMAL  # the distance at which the two noises at 0 change sides
  height = (x_adv - 0.5) @ NORMAL
  assert (height > -1e-6).all(), "misclassified by two noises of three"
  assert (norm(x_adv - x)[:, 0] < boundary + 0.02).all()

  drawn_back = np.asarray(attack(epsilon=0.05, num_steps=80), np.float64)
  np.testing.assert_allclose(255 * drawn_back, np.round(255 * drawn_back), atol=1e-4)
  np.testing.assert_allclose(norm(drawn_back - x), 0.05, atol=0.5 / 255 * PIXELS**0.5)
  assert ((drawn_back - 0.5) @ NORMAL < 0).all(), "farther than epsilon: no longer adversarial"


def test_ddn_returns_the_image_where_it_finds_nothing_or_is_there_already():
  x = jnp.float32(to_levels(IMAGES))
  labels = jnp.zeros(8, int)
  np.testing.assert_array_equal(DDN(constant, x, labels, epsilon=0.5, num_steps=3), x)
  np.testing.assert_array_equal(DDN(constant, x, labels + 1, epsilon=0.5, num_steps=3), x)


def test_of_a_tie_the_first_class_is_voted():
  """Two noises, one on each side: class 0, so only an image of class 1 is misclassified."""
  x = jnp.full((8, PIXELS), 128 / 255)
  noises = jnp.float32(np.broadcast_to(0.3 * np.stack([NORMAL, -NORMAL]), (8, 2, PIXELS)))
  x_adv = DDN(two_sides, x, jnp.asarray(SIDES), noises=noises, epsilon=0.5, num_steps=40)
  moved = norm(x_adv - x)[:, 0]
  assert (moved[SIDES == 1] == 0).all() and (moved[SIDES == 0] > 0.28).all()


@pytest.mark.parametrize(
  "attack",
  [
    lambda x: mixing_attack(two_sides, x, SIDES, jnp.float32(NOISES), alpha=0.1, num_steps=1),
    lambda x: PGD(two_sides, x, SIDES, epsilon=0.1, num_steps=1),
    lambda x: DDN(two_sides, x, SIDES, epsilon=0.1, num_steps=1),
  ],
)
def test_no_gradient_flows_out(attack):
  def total(x):
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(attack(x)))

  np.testing.assert_array_equal(jax.jit(jax.grad(total))(jnp.float32(IMAGES)), 0)
