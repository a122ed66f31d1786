"""Certified images under attack: nothing within the radius may change what PREDICT says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_robust import losses, smoothing
from jax_robust.data import sources
from jax_robust.objectives import noise_attacks, noisy

SIGMA, NUM_IMAGES = 0.25, 48


@pytest.fixture(scope="module")
def digits_net():
  """A net trained under noise on scikit-learn's digits, and test images with their labels."""
  images, labels = sources.digits("train").read(np.arange(1437))
  x, labels = jnp.float32(images) / 255, jnp.asarray(labels)
  keys = jax.random.split(jax.random.key(0), 3)
  shapes = {"w0": (64, 64), "w1": (64, 10)}
  params = {
    name: jax.random.normal(key, shape) / np.sqrt(shape[0])
    for key, (name, shape) in zip(keys, shapes.items(), strict=False)
  }
  optimizer = optax.adam(3e-3)

  def apply(params, x):
    return jax.nn.relu((x.reshape(len(x), -1) - 0.3) @ params["w0"]) @ params["w1"]

  @jax.jit
  def step(carry, key):
    params, state = carry
    noise = SIGMA * jax.random.normal(key, x.shape)
    grads = jax.grad(lambda p: losses.cross_entropy(apply(p, x + noise), labels).mean())(params)
    updates, state = optimizer.update(grads, state)
    return (optax.apply_updates(params, updates), state), None

  carry = params, optimizer.init(params)
  (params, _), _ = jax.lax.scan(step, carry, jax.random.split(keys[2], 300))
  images, labels = sources.digits("test").read(np.arange(NUM_IMAGES))
  return functools.partial(apply, params), np.float32(images) / np.float32(255), labels


def predictions_under_attack(digits_net, share):
  """What is certified, and what is predicted after an attack as far as `share` of the radius."""
  logits_fn, x, labels = digits_net
  rng = jax.random.key(1)
  found = smoothing.certify_images(logits_fn, x, rng, sigma=SIGMA, n=1000)
  certified = found.label >= 0
  noises = SIGMA * noisy.draw_noises(jax.random.split(rng, NUM_IMAGES), jnp.asarray(x), 64)
  radius = jnp.float32(found.radius).reshape(-1, 1, 1, 1)
  x_adv = noise_attacks.smoothadv_pgd(
    logits_fn, jnp.asarray(x), jnp.asarray(np.where(certified, found.label, labels)), noises,
    jax.random.split(rng, NUM_IMAGES), epsilon=share * radius, num_steps=20,
  )  # fmt: skip
  distance = np.linalg.norm((np.asarray(x_adv) - x).reshape(NUM_IMAGES, -1), axis=1)
  assert np.all(distance <= share * found.radius + 1e-5)
  # The attack uses what it may: else it would be no surprise that it fails.
  assert np.all(distance[certified] > 0.9 * share * found.radius[certified])
  after = smoothing.predict_images(logits_fn, np.asarray(x_adv), rng, sigma=SIGMA, n=1000)
  return found, after, certified


def test_no_attack_breaks_a_certificate(digits_net):
  found, after, certified = predictions_under_attack(digits_net, 0.999)
  assert certified.sum() > 40 and np.median(found.radius) > 0.2
  kept = (after.label == found.label) | (after.label == smoothing.ABSTAIN)
  assert np.all(kept[certified])


def test_the_same_attack_succeeds_beyond_the_radius(digits_net):
  found, after, certified = predictions_under_attack(digits_net, 3.0)
  assert np.mean((after.label != found.label)[certified]) > 0.5
