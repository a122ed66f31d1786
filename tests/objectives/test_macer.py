"""MACER: its two terms by hand, what its mask lets through, and gradients that stay finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from scipy.special import ndtri
from smoothing_net import (
  BATCH,
  KERNEL,
  KEYS,
  LABELS,
  NOISE,
  NUM,
  PARAMS,
  SIGMA,
  STATE,
  X,
  linear,
  logits_of,
  numerical_gradient,
  softmax,
  step,
)

from jax_robust.objectives import macer, noisy
from jax_robust.objectives.macer import macer_loss

OPTIONS = {"sigma": SIGMA, "lbd": 4.0, "beta": 2.0, "margin": 8.0}


@jax.jit
def _at(params, labels, options):
  def loss_fn(params):
    targets, noises = jax.nn.one_hot(labels, 3), jnp.float32(NOISE)
    return macer_loss(linear, params, STATE, BATCH["image"], targets, noises, **options)

  return jax.value_and_grad(loss_fn, has_aux=True)(params)


def at(scale=1.0, labels=LABELS, **changes):
  """Loss, metrics and gradient of a scaled kernel for the given noises."""
  params = {"kernel": scale * PARAMS["kernel"]}
  (loss, (model_state, metrics)), gradient = _at(params, labels, {**OPTIONS, **changes})
  assert model_state["passes"] == 1, "all noises go through the net in one pass"
  return loss, metrics, gradient["kernel"]


def xi_of(kernel, beta):
  """Minus the radius over sigma, doubled, and the class that it belongs to, of each image."""
  probs = softmax(beta * logits_of(kernel, X)).mean(1)
  second, largest = np.sort(probs, axis=1)[:, -2:].T
  return ndtri(second) - ndtri(largest), probs.argmax(1)


def by_hand(kernel, *, sigma, lbd, beta, margin):
  soft = softmax(logits_of(kernel, X)).mean(1)
  classification = -np.log(soft[np.arange(NUM), LABELS] + 1e-10).mean()
  xi, guesses = xi_of(kernel, beta)
  counts = (guesses == LABELS) & (np.abs(xi) <= margin)
  hinge = sigma / 2 * np.where(counts, xi + margin, 0).mean()
  return classification + lbd * hinge, classification, hinge, counts


@pytest.mark.parametrize(
  ("changes", "num_counted"), [({}, 3), ({"beta": 0.5}, 2), ({"margin": 1.0}, 2), ({"lbd": 0.0}, 3)]
)
def test_loss_and_gradient_are_those_by_hand(changes, num_counted):
  options = {**OPTIONS, **changes}
  loss, metrics, gradient = at(**changes)
  expected, classification, hinge, counts = by_hand(KERNEL, **options)
  assert counts.sum() == num_counted, "the case is as it was meant"
  np.testing.assert_allclose(loss, expected, rtol=1e-4)
  np.testing.assert_allclose(metrics["classification"], classification, rtol=1e-5)
  np.testing.assert_allclose(metrics["robustness"], hinge, rtol=1e-4)
  soft = softmax(logits_of(KERNEL, X)).mean(1)
  np.testing.assert_allclose(metrics["smoothed_accuracy"], (soft.argmax(1) == LABELS).mean())
  expected = numerical_gradient(lambda kernel: by_hand(kernel, **options)[0])
  assert_close(gradient, expected)


@pytest.mark.parametrize("excess", [-1e-4, 1e-4])
def test_only_radii_up_to_the_margin_count(excess):
  """An image whose |xi| is above the margin adds nothing, one below xi + margin, whichever side."""
  xi, guesses = xi_of(KERNEL, OPTIONS["beta"])
  (place, *_) = np.flatnonzero(guesses == LABELS)
  margin = abs(xi[place]) - excess
  _, _, hinge, counts = by_hand(KERNEL, **{**OPTIONS, "margin": margin})
  assert counts[place] == (excess < 0)
  _, metrics, _ = at(margin=margin)
  np.testing.assert_allclose(metrics["robustness"], hinge, rtol=1e-3, atol=1e-6)


def test_wrong_images_do_not_count():
  xi, guesses = xi_of(KERNEL, OPTIONS["beta"])
  _, metrics, _ = at(labels=(guesses + 1) % 3)
  assert metrics["robustness"] == 0
  _, metrics, _ = at(labels=guesses)
  np.testing.assert_allclose(metrics["robustness"], SIGMA / 2 * (xi + 8).mean(), rtol=1e-4)


def test_saturated_probabilities_leave_the_gradient_finite():
  """Of nets from a little to altogether too confident, where ndtri and its derivative overflow."""
  for scale in (5.0, 30.0, 1e2, 1e3, 1e5):
    loss, metrics, gradient = at(scale, beta=16.0, margin=1e9)
    assert np.isfinite([loss, *metrics.values()]).all(), scale
    assert np.isfinite(gradient).all(), scale


def test_an_infinite_radius_does_not_count():
  """p1 = 1 or p2 = 0 is left out, however large the margin."""
  _, guesses = xi_of(1e5 * KERNEL, 1.0)
  _, metrics, _ = at(1e5, labels=guesses, beta=1.0, margin=1e9)
  probs = np.sort(softmax(1e5 * logits_of(KERNEL, X)).mean(1), axis=1)
  inside = (probs[:, 1] > 1e-30) & (probs[:, 2] < 1)
  assert 0 < inside.sum() < NUM
  np.testing.assert_allclose(metrics["robustness"], SIGMA / 2 * 1e9 * inside.mean(), rtol=1e-5)


def test_defaults_are_the_published():
  """Sixteen noises from the keys, and lbd = beta = 16, margin 8."""

  @jax.jit
  def losses():
    noises = SIGMA * noisy.draw_noises(KEYS, BATCH["image"], 16)
    by_hand, _ = macer_loss(
      linear, PARAMS, STATE, BATCH["image"], BATCH["target"], noises,
      sigma=SIGMA, lbd=16.0, beta=16.0, margin=8.0,
    )  # fmt: skip
    return step(macer, sigma=SIGMA)[0], by_hand

  np.testing.assert_allclose(*losses(), rtol=1e-6)


def test_the_radius_is_deferred_up_to_and_with_an_epoch():
  options = {"sigma": SIGMA, "num_noise_vec": 2, "lbd": 4.0}

  def weight(epoch, deferred):
    loss, _, metrics = step(macer, epoch=epoch, deferred=deferred, **options)
    assert metrics["robustness"] > 0.1
    return float((loss - metrics["classification"]) / metrics["robustness"])

  for epoch, expected in ((0.0, 0.0), (30.0, 0.0), (30.99, 0.0), (31.0, 4.0), (50.0, 4.0)):
    assert weight(epoch, 30) == pytest.approx(expected, abs=1e-4)
  assert weight(0.0, 0) == pytest.approx(4.0, abs=1e-4), "0 leaves out none, not the first epoch"


def test_bad_options_are_refused():
  with pytest.raises(ValueError, match="sigma=-1.0: expected"):
    step(macer, sigma=-1.0)
  with pytest.raises(ValueError, match="num_noise_vec=0: expected .*at least 1"):
    step(macer, sigma=SIGMA, num_noise_vec=0)
  with pytest.raises(ValueError, match="lbd=-1.0: expected at least 0"):
    step(macer, sigma=SIGMA, lbd=-1.0)
