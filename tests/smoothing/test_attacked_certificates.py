"""Certified images under attack: nothing within the radius may change what PREDICT says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_robust import attacks, losses, models, smoothing
from jax_robust.data import convert, sources
from jax_robust.objectives import noise_attacks, noisy

SIGMA, NUM_IMAGES = 0.25, 48
KEY = jax.random.key(1)


def train_under_noise(apply, params, x, labels, *, steps, batch, learning_rate):
  """The parameters after Adam's steps on random noisy images."""
  optimizer = optax.adam(learning_rate)

  @jax.jit
  def step(params, state, key):
    rows = jax.random.choice(key, len(x), (batch,))
    noisy_images = x[rows] + SIGMA * jax.random.normal(key, (batch, *x.shape[1:]))

    def loss(params):
      return losses.cross_entropy(apply(params, noisy_images), labels[rows]).mean()

    updates, state = optimizer.update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, updates), state

  state = optimizer.init(params)
  for key in jax.random.split(jax.random.key(2), steps):
    params, state = step(params, state, key)
  return params


def digits_net(request):
  """Two dense layers on scikit-learn's digits, and test images with their labels."""
  del request
  images, labels = sources.digits("train").read(np.arange(1437))
  keys = jax.random.split(jax.random.key(0))
  shapes = {"w0": (64, 64), "w1": (64, 10)}
  params = {
    name: jax.random.normal(key, shape) / np.sqrt(shape[0])
    for key, (name, shape) in zip(keys, shapes.items(), strict=True)
  }

  def apply(params, x):
    return jax.nn.relu((x.reshape(len(x), -1) - 0.3) @ params["w0"]) @ params["w1"]

  params = train_under_noise(
    apply, params, jnp.float32(images) / 255, jnp.asarray(labels), steps=300, batch=256,
    learning_rate=3e-3,
  )  # fmt: skip
  return functools.partial(apply, params), *sources.digits("test").read(np.arange(NUM_IMAGES))


def mnist_net(request):
  """LeNet on MNIST, and every 200th test image."""
  folder = request.getfixturevalue("shared") / "data" / "mnist"
  images, labels = convert.open_split(folder, "train").read(np.arange(60_000))
  model = models.create("lenet", num_classes=10)
  params = train_under_noise(
    model.apply, model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1))),
    jnp.float32(images) / 255, jnp.asarray(labels), steps=600, batch=128, learning_rate=1e-3,
  )  # fmt: skip
  test = convert.open_split(folder, "test").read(np.arange(NUM_IMAGES) * 200)
  return functools.partial(model.apply, params), *test


@pytest.fixture(
  scope="module", params=[digits_net, pytest.param(mnist_net, marks=pytest.mark.slow)]
)
def net(request):
  """A net trained under noise, test images in [0, 1] and their labels."""
  logits_fn, images, labels = request.param(request)
  return logits_fn, np.float32(images) / np.float32(255), labels


@pytest.fixture(scope="module")
def certified(net):
  """A sampler of the net, and the certificates of the images; most must not abstain."""
  logits_fn, x, _ = net
  sampler = smoothing.Sampler(logits_fn, image_shape=x.shape[1:])
  found = smoothing.certify_images(sampler, x, KEY, sigma=SIGMA, n=1000)
  assert (found.label >= 0).sum() > 40 and np.median(found.radius) > 0.2
  return sampler, found


@pytest.fixture(scope="module")
def attack(net):
  """`attack(targets, epsilon)`: SmoothAdv's PGD, each image as far as its own epsilon."""
  logits_fn, x, _ = net
  is_dense = x.shape[1] == 8
  keys = jax.random.split(KEY, NUM_IMAGES)
  noises = SIGMA * noisy.draw_noises(keys, jnp.asarray(x), 64)
  with pytest.MonkeyPatch.context() as patch:
    if is_dense:  # a loop without convolutions is best left rolled up
      patch.setattr(attacks, "default_unroll", lambda num_steps: 1)
    yield jax.jit(
      lambda targets, epsilon: noise_attacks.smoothadv_pgd(
        logits_fn, jnp.asarray(x), targets, noises, keys, epsilon=epsilon, num_steps=10
      )
    )


def predictions_under_attack(net, certified, attack, share):
  """What is predicted, where it was certified, after an attack to `share` of the radius."""
  _, x, labels = net
  sampler, found = certified
  is_certified = found.label >= 0
  targets = jnp.asarray(np.where(is_certified, found.label, labels))
  x_adv = np.asarray(attack(targets, jnp.float32(share * found.radius).reshape(-1, 1, 1, 1)))
  distance = np.linalg.norm((x_adv - x).reshape(NUM_IMAGES, -1), axis=1)
  assert np.all(distance <= share * found.radius * (1 + 1e-5))
  # The attack uses what it may: else it would be no surprise that it fails.
  assert np.all(distance[is_certified] > 0.9 * share * found.radius[is_certified])
  after = smoothing.predict_images(sampler, x_adv, KEY, sigma=SIGMA, n=1000)
  return after.label[is_certified], found.label[is_certified]


@pytest.mark.thorough
def test_no_attack_breaks_a_certificate(net, certified, attack):
  after, before = predictions_under_attack(net, certified, attack, 0.999)
  assert np.all((after == before) | (after == smoothing.ABSTAIN))


@pytest.mark.thorough
def test_the_same_attack_succeeds_beyond_the_radius(net, certified, attack):
  far = 3.0 if net[1].shape[1] == 8 else 6.0  # of MNIST 1,000 draws certify a smaller share
  after, before = predictions_under_attack(net, certified, attack, far)
  assert np.mean(after != before) > 0.5
