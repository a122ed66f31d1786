"""DDN: the least distance to a linear boundary, rounding, and a recorded run of the reference."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_net import KEY, WEIGHTS, interior, least_distance, linear

from jax_robust import attacks, losses

FAR = attacks.l2_ball(30.0)


def ddn(x, labels, ball=FAR, logits_fn=linear, **options):
  return jax.jit(functools.partial(attacks.ddn, logits_fn, ball=ball, **options))(x, labels, KEY)


@pytest.mark.parametrize("loss_fn", [losses.margin, losses.cross_entropy])
def test_linear_optimum_is_approached(loss_fn):
  x, labels = interior()
  if loss_fn is losses.cross_entropy:  # whose gradient points at the boundary of two classes only
    labels, logits_fn = labels[:2], lambda x: linear(x)[:, :2]
    x = x[:2]
    labels = jnp.argmax(logits_fn(x), axis=-1)
    normal = WEIGHTS[:, 0] - WEIGHTS[:, 1]
    optimum = np.abs((np.asarray(x) - 0.5) @ normal) / np.linalg.norm(normal)
  else:
    logits_fn, optimum = linear, least_distance(x, labels)
  x_adv = ddn(x, labels, logits_fn=logits_fn, loss_fn=loss_fn, num_steps=300)
  assert np.all(np.argmax(logits_fn(x_adv), axis=-1) != labels)
  distance = np.asarray(FAR.distance(x_adv, x))
  assert np.all(distance >= optimum * (1 - 1e-4))
  assert np.all(distance <= optimum * 1.01)


def test_norm_and_direction_follow_their_formula():
  x, _ = interior(1)
  normal = WEIGHTS[:, 0] - WEIGHTS[:, 1]
  score = lambda z: 5 * jnp.sin(z @ normal) - 4.9  # noqa: E731
  logits_fn = lambda z: jnp.stack([jnp.zeros(1), score(z)], axis=1)  # noqa: E731
  seen = []

  def watched(z):
    jax.debug.callback(lambda z: seen.append(np.asarray(z)), z)
    return logits_fn(z)

  ball = attacks.l2_ball(5.0)
  attacks.ddn(
    watched, x, jnp.array([0]), KEY, ball=ball, loss_fn=losses.margin, num_steps=6,
    step_size=0.1, initial_norm=0.2, gamma=0.1,
  )  # fmt: skip
  jax.effects_barrier()
  points = list({z.tobytes(): z for z in seen}.values())
  x = np.asarray(x, np.float64)
  z, norm = x, 0.2
  for point in points:
    np.testing.assert_allclose(point, z, atol=1e-5)
    value, slope = 5 * np.sin(z @ normal) - 4.9, 5 * np.cos(z @ normal)
    delta = z - x + 0.1 * np.sign(slope) * normal / np.linalg.norm(normal)
    norm *= 0.9 if value > 0 else 1.1
    z = np.clip(x + norm * delta / np.linalg.norm(delta), 0, 1)
  assert len(points) == 6


def test_result_is_misclassified_or_x():
  x, labels = interior()
  optimum = least_distance(x, labels)
  eps = float(np.median(optimum))
  options = {"loss_fn": losses.margin, "num_steps": 300}
  x_adv = ddn(x, labels, ball=attacks.l2_ball(eps), **options)
  fooled = np.argmax(linear(x_adv), axis=-1) != labels
  assert np.all(fooled[optimum < 0.99 * eps]) and not np.any(fooled[optimum > eps])
  np.testing.assert_array_equal(x_adv[~fooled], x[~fooled])
  np.testing.assert_array_equal(x_adv[fooled], ddn(x, labels, **options)[fooled])


def test_what_is_misclassified_already_stays():
  x, labels = interior()
  np.testing.assert_array_equal(ddn(x, (labels + 1) % 4, num_steps=5), x)


def test_levels_are_kept():
  x, labels = interior()
  x_adv = np.asarray(ddn(x, labels, levels=21))
  fooled = np.argmax(linear(x_adv), axis=-1) != labels
  assert np.all(fooled)
  np.testing.assert_allclose(x_adv * 20, np.round(x_adv * 20), atol=1e-5)


def test_a_vanishing_gradient_gives_way_to_a_random_direction():
  x, labels = interior()
  # Flat within .1 of x; any direction leads out.
  logits_fn = lambda z: jnp.stack([  # noqa: E731
    jnp.full(len(z), 0.5), jnp.where(jnp.sum((z - x) ** 2, axis=1) > 0.01, 1.0, 0.0)
  ], axis=1)  # fmt: skip
  x_adv = ddn(x, jnp.zeros_like(labels), logits_fn=logits_fn, num_steps=100)
  distance = np.asarray(FAR.distance(x_adv, x))
  assert np.all(distance > 0.1) and np.all(distance < 0.11)


def lenet(weights, x):
  """The net of the recording: two convolutions with pooling, two dense layers."""
  x = jnp.transpose(x, (0, 3, 1, 2))
  for name in ("conv1", "conv2"):
    x = jax.lax.conv_general_dilated(x, weights[f"{name}.weight"], (1, 1), "VALID")
    x = jax.nn.relu(x + weights[f"{name}.bias"].reshape(1, -1, 1, 1))
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
  x = x.reshape(x.shape[0], -1)
  x = jax.nn.relu(x @ weights["fc1.weight"].T + weights["fc1.bias"].reshape(1, -1))
  return x @ weights["fc2.weight"].T + weights["fc2.bias"].reshape(1, -1)


def test_recorded_run_of_the_reference(oracles):
  """SmoothAdv's DDN: success by the vote over two noises, the loss of their mean prediction."""
  with np.load(oracles / "smoothing" / "smoothing_steps.npz") as recorded:
    weights = {
      key.removeprefix("weights/"): jnp.asarray(recorded[key])
      for key in recorded.files
      if key.startswith("weights/")
    }
    x, labels = jnp.asarray(recorded["x_nhwc"]), jnp.asarray(recorded["y"], jnp.int32)
    noises, expected = jnp.asarray(recorded["noises_nhwc"]), recorded["smoothadv_ddn/delta_nhwc"]
    options = json.loads(str(recorded["smoothadv_ddn/options"]))

  def votes_and_log_mean(x):
    logits = jax.vmap(lambda noise: lenet(weights, x + noise))(noises)
    votes = jnp.sum(jax.nn.one_hot(jnp.argmax(logits, axis=-1), 10), axis=0)
    return jnp.concatenate([1e3 + votes, jnp.log(jnp.mean(jax.nn.softmax(logits), axis=0))], axis=1)

  def of_the_mean(outputs, labels):
    return -jnp.take_along_axis(outputs[:, 10:], labels[:, None], axis=1)[:, 0]

  def cosine(count):  # the reference's scheduler is a step ahead
    return 0.01 + 0.99 * 0.5 * (1 + jnp.cos(jnp.pi * (count + 1) / options["steps"]))

  x_adv = attacks.ddn(  # not under jit: convolutions in a loop are slow on the CPU
    votes_and_log_mean, x, labels, KEY, ball=FAR, loss_fn=of_the_mean, levels=256,
    num_steps=options["steps"], step_size=cosine,
  )  # fmt: skip
  delta = np.asarray(x_adv - x)
  norm = np.asarray(FAR.distance(x_adv, x))
  assert np.sum(norm > 0) == np.sum(np.any(expected, axis=(1, 2, 3))) == 9
  # The reference then shortens what is too far, whether or not it still fools, and rounds again.
  share = np.minimum(1, options["max_norm"] / np.maximum(norm, 1e-9))
  delta = delta * share[:, None, None, None]
  levels_off = np.abs(np.round(delta * 255) - expected * 255).max(axis=(1, 2, 3))
  assert np.all(levels_off < 1.01) and np.sum(levels_off > 0.01) <= 2


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_steps": 0}, "num_steps=0"),
    ({"levels": 1}, "levels=1"),
    ({"gamma": 0.0}, "gamma=0.0"),
    ({"gamma": 1.5}, "gamma=1.5"),
  ],
)
def test_contradictions_raise(options, message):
  x, labels = interior(2)
  with pytest.raises(ValueError, match=message):
    ddn(x, labels, **options)
