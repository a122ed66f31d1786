"""Training on noisy images, and stability training: their losses by hand, in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from smoothing_net import (
  BATCH,
  KERNEL,
  KEYS,
  NOISE,
  PARAMS,
  SIGMA,
  STATE,
  TARGETS,
  Watch,
  X,
  centred,
  cross_entropy,
  gradient_of,
  linear,
  logits_of,
  numerical_gradient,
  softmax,
  step,
)

from jax_robust.objectives import gaussian, noisy, stability
from jax_robust.objectives.gaussian import stability_loss

ONE = NOISE[:, :1]
stability_at = functools.partial(
  stability_loss, linear, model_state=STATE, x=BATCH["image"], targets=BATCH["target"],
  noises=jnp.float32(ONE),
)  # fmt: skip


def drawn(sigma=SIGMA):
  """The one noise of each image that the keys give."""
  return np.asarray(sigma * noisy.draw_noises(KEYS, BATCH["image"], 1), np.float64)


def test_gaussian_is_the_cross_entropy_of_one_noisy_copy():
  loss, model_state, metrics = step(gaussian, sigma=SIGMA)
  logits = logits_of(KERNEL, X, drawn())
  np.testing.assert_allclose(loss, cross_entropy(logits, TARGETS).mean(), rtol=1e-5)
  np.testing.assert_allclose(
    metrics["noisy_accuracy"], (logits[:, 0].argmax(1) == TARGETS.argmax(1)).mean(), rtol=1e-6
  )
  assert metrics["loss"] == loss and model_state["passes"] == 1
  expected = numerical_gradient(
    lambda kernel: cross_entropy(logits_of(kernel, X, drawn()), TARGETS).mean()
  )
  got = gradient_of(lambda params: step(gaussian, params=params, sigma=SIGMA)[0])
  assert_close(got, expected)


@pytest.mark.parametrize(("objective", "noisy_pass"), [(gaussian, 0), (stability, 1)])
def test_noise_is_scaled_by_sigma_and_not_clipped(objective, noisy_pass):
  watch = Watch(linear)
  step(objective, watch, sigma=2.0)
  images = watch.images[noisy_pass]
  np.testing.assert_allclose(images - X, drawn(2.0)[:, 0], atol=1e-5)
  assert images.min() < -0.5 and images.max() > 1.5


def stability_by_hand(kernel, lbd, *, held=None):
  """The loss; `held` is a clean prediction that the second term takes for a constant."""
  clean = logits_of(kernel, X, np.zeros_like(ONE))
  reference = softmax(clean)[:, 0] if held is None else held
  instability = cross_entropy(logits_of(kernel, X, ONE), reference).mean()
  return cross_entropy(clean, TARGETS).mean() + lbd * instability


@pytest.mark.parametrize("lbd", [2.0, 0.5])
def test_stability_loss_and_gradient_are_those_by_hand(lbd):
  loss, (_, metrics) = stability_at(params=PARAMS, lbd=lbd)
  np.testing.assert_allclose(loss, stability_by_hand(KERNEL, lbd), rtol=1e-5)
  np.testing.assert_allclose(
    metrics["cross_entropy"] + lbd * metrics["instability"], loss, rtol=1e-6
  )
  truth = TARGETS.argmax(1)
  for name, noises in (("accuracy", np.zeros_like(ONE)), ("noisy_accuracy", ONE)):
    hits = logits_of(KERNEL, X, noises)[:, 0].argmax(1) == truth
    np.testing.assert_allclose(metrics[name], hits.mean(), rtol=1e-6)

  got = gradient_of(lambda params: stability_at(params=params, lbd=lbd)[0])
  expected = numerical_gradient(lambda kernel: stability_by_hand(kernel, lbd))
  assert_close(got, expected)
  clean = softmax(logits_of(KERNEL, X, np.zeros_like(ONE)))[:, 0]
  one_sided = numerical_gradient(lambda kernel: stability_by_hand(kernel, lbd, held=clean))
  assert np.abs(got - one_sided).max() > 1e-2, "it flows through the clean prediction too"


def test_stability_draws_its_noise_and_weighs_by_two():
  noises = jnp.float32(drawn())
  expected, _ = stability_loss(
    linear, PARAMS, STATE, BATCH["image"], BATCH["target"], noises, lbd=2.0
  )
  np.testing.assert_allclose(step(stability, sigma=SIGMA)[0], expected, rtol=1e-6)


def test_stability_updates_statistics_twice():
  """Each pass normalises by its own batch; the clean one comes first, and the next sees it."""
  watch = Watch()
  _, model_state, _ = step(stability, watch, sigma=SIGMA)
  assert watch.calls == [("batch", 0), ("batch", 1)]
  np.testing.assert_array_equal(watch.images[0], BATCH["image"])
  _, expected = centred(PARAMS, STATE, BATCH["image"], train=True)
  _, expected = centred(PARAMS, expected, BATCH["image"] + jnp.float32(drawn()[:, 0]), train=True)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), model_state, expected)
  assert model_state["passes"] == 2


@pytest.mark.parametrize("objective", [gaussian, stability])
def test_no_noise_is_refused(objective):
  with pytest.raises(ValueError, match="sigma=0.0: expected"):
    step(objective, sigma=0.0)


def test_a_weight_below_0_is_refused():
  with pytest.raises(ValueError, match="lbd=-1.0: expected at least 0"):
    step(stability, sigma=SIGMA, lbd=-1.0)
