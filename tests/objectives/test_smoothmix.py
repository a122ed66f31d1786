"""SmoothMix: its loss by hand, what its gradient flows through, and what warms up."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
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
  TARGETS,
  Watch,
  X,
  centred,
  cross_entropy,
  gradient_of,
  kl_divergence,
  linear,
  logits_of,
  numerical_gradient,
  softmax,
  step,
  unrestricted_attack,
)

from jax_robust.objectives import noise_attacks, noisy, smoothmix
from jax_robust.objectives.smoothmix import smoothmix_loss

MODULE = importlib.import_module("jax_robust.objectives.smoothmix")
WEIGHTS = np.linspace(0.02, 0.49, NUM)
OPTIONS = {
  "warmup_factor": 0.7, "alpha": 0.3, "num_steps": 3, "eta": 5.0, "mix_step": 0, "maxnorm_s": 0.0,
  "maxnorm": None,
}  # fmt: skip
CASES = {
  "as published": {},
  "one long step": {"alpha": 0.9, "num_steps": 1, "eta": 1.0},
  "one-step adversary": {"mix_step": 1, "maxnorm_s": 0.3},
  "restricted": {"alpha": 0.1, "maxnorm": 0.15, "mix_step": 2, "maxnorm_s": 0.15},
}


def at(params, targets=BATCH["target"], **changes):
  """The loss for the given noises and weights."""
  return smoothmix_loss(
    linear, params, STATE, BATCH["image"], targets, jnp.float32(NOISE),
    jnp.float32(WEIGHTS), **{**OPTIONS, **changes},
  )  # fmt: skip


def ends_by_hand(labels=LABELS, *, warmup_factor, eta, maxnorm, maxnorm_s, **options):
  return unrestricted_attack(
    KERNEL, X, labels, NOISE, maxnorm=maxnorm or np.inf, maxnorm_s=maxnorm_s * warmup_factor,
    **options,
  )  # fmt: skip


def terms_by_hand(kernel, ends, *, labels=LABELS, held=None):
  """Cross entropy, mixed loss and whom it counts; `held` takes F for a constant."""
  start, adversarial = ends
  logits = logits_of(kernel, start)
  soft = softmax(logits).mean(1) if held is None else held
  share = WEIGHTS[:, None, None, None]
  mixed_logits = logits_of(kernel, (1 - share) * start + share * adversarial)
  mixed_targets = (1 - share[:, 0, 0]) * soft + share[:, 0, 0] / 3
  counts = soft.argmax(1) == labels
  mixed = (counts[:, None] * kl_divergence(mixed_targets, mixed_logits)).mean()
  return cross_entropy(logits, TARGETS).mean(), mixed, counts


def loss_by_hand(kernel, ends, *, held=None, eta, warmup_factor, **_):
  first, mixed, _ = terms_by_hand(kernel, ends, held=held)
  return first + eta * warmup_factor * mixed


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_loss_and_gradient_are_those_by_hand(changes):
  """The gradient of given ends: none flows through the attack."""
  options = {**OPTIONS, **changes}
  (loss, (model_state, metrics)), gradient = jax.jit(
    jax.value_and_grad(functools.partial(at, **changes), has_aux=True)
  )(PARAMS)
  ends = ends_by_hand(**options)
  first, mixed, counts = terms_by_hand(KERNEL, ends)
  assert 1 <= counts.sum() <= NUM - 2 and mixed > 0.01, "the case is as it was meant"
  np.testing.assert_allclose(metrics["cross_entropy"], first, rtol=1e-5)
  np.testing.assert_allclose(metrics["mixed"], mixed, rtol=2e-4)
  np.testing.assert_allclose(metrics["smoothed_accuracy"], counts.mean(), rtol=1e-6)
  np.testing.assert_allclose(loss, loss_by_hand(KERNEL, ends, **options), rtol=1e-4)
  assert model_state["passes"] == 2
  expected = numerical_gradient(lambda kernel: loss_by_hand(kernel, ends, **options))
  assert_close(gradient["kernel"], expected)


def test_gradient_flows_through_the_mixed_target():
  ends = ends_by_hand(**OPTIONS)
  held = softmax(logits_of(KERNEL, ends[0])).mean(1)
  one_sided = numerical_gradient(lambda kernel: loss_by_hand(kernel, ends, held=held, **OPTIONS))
  assert np.abs(gradient_of(lambda params: at(params)[0]) - one_sided).max() > 1e-2


@pytest.mark.parametrize("right", [[1, 1, 1, 1, 1, 1], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
def test_only_images_that_are_right_are_mixed(right):
  """And the mean is over all of them, right or not."""
  guesses = softmax(logits_of(KERNEL, X)).mean(1).argmax(1)
  labels = np.where(right, guesses, (guesses + 1) % 3)
  _, mixed, counts = terms_by_hand(KERNEL, ends_by_hand(labels, **OPTIONS), labels=labels)
  np.testing.assert_array_equal(counts, right)
  _, (_, metrics) = jax.jit(at)(PARAMS, np.eye(3, dtype=np.float32)[labels])
  np.testing.assert_allclose(metrics["mixed"], mixed, rtol=2e-4)
  np.testing.assert_allclose(metrics["smoothed_accuracy"], np.mean(right), rtol=1e-6)


class Called(Exception):
  """What was to be watched was called; it carries the arguments."""


@pytest.fixture
def passed(monkeypatch):
  """`passed(**options)`: with what `smoothmix` calls `smoothmix_loss`."""

  def stub(*arguments, **keywords):
    raise Called(arguments, keywords)

  def passed(**options):
    with monkeypatch.context() as patch, pytest.raises(Called) as called:
      patch.setattr(MODULE, "smoothmix_loss", stub)
      step(smoothmix, **{"sigma": SIGMA, **options})
    return called.value.args

  return passed


def test_noises_and_weights_are_the_examples_own(passed):
  """Noises of its keys scaled by sigma; weights of U[0, 1/2), whatever the number of noises."""
  keys = jax.random.split(jax.random.key(2), 4000)
  batch = {"image": jnp.zeros((4000, 1, 1, 1)), "target": jnp.full((4000, 3), 1 / 3)}
  (*_, noises, weights), _ = passed(rng=keys, batch=batch, num_noise_vec=2)
  np.testing.assert_allclose(noises, SIGMA * noisy.draw_noises(keys, batch["image"], 2), rtol=1e-6)
  assert 0 <= weights.min() < 0.001 and 0.499 < weights.max() < 0.5
  np.testing.assert_allclose(np.histogram(weights, 5, (0, 0.5))[0], 800, atol=120)
  assert np.abs(np.corrcoef(noises[:, 0, 0, 0, 0], weights)[0, 1]) < 0.06
  few = {name: value[7:9] for name, value in batch.items()}
  (*_, noises_of_few, weights_of_few), _ = passed(rng=keys[7:9], batch=few, num_noise_vec=4)
  np.testing.assert_array_equal(weights_of_few, weights[7:9])
  np.testing.assert_array_equal(noises_of_few[:, :2], noises[7:9])


def test_defaults_are_the_published(passed):
  (_, _, _, _, _, noises, _), keywords = passed()
  assert noises.shape == (NUM, 1, 2, 2, 1)
  assert keywords.pop("warmup_factor") == pytest.approx(0.1)
  assert keywords == {
    "alpha": 1.0, "num_steps": 8, "eta": 1.0, "mix_step": 0, "maxnorm": None, "maxnorm_s": 0.0,
  }  # fmt: skip


def test_one_step_radius_is_alpha_times_mix_step_unless_given(passed):
  assert passed(alpha=0.5, mix_step=3)[1]["maxnorm_s"] == 1.5
  assert passed(alpha=0.5, mix_step=3, maxnorm_s=0.2)[1]["maxnorm_s"] == 0.2
  assert passed(alpha=0.5, mix_step=3, maxnorm_s=0.0)[1]["maxnorm_s"] == 0.0


@pytest.mark.parametrize(("epoch", "factor"), [(0.0, 0.1), (4.99, 0.5), (9.0, 1.0), (80.0, 1.0)])
def test_only_eta_and_the_one_step_radius_warm_up(monkeypatch, epoch, factor):
  """Length and number of the attack's steps, and its ablation's ball, are whole from the start."""
  asked = []
  attack = noise_attacks.unrestricted_attack
  monkeypatch.setattr(
    noise_attacks, "unrestricted_attack",
    lambda *arguments, **keywords: asked.append(keywords) or attack(*arguments, **keywords),
  )  # fmt: skip
  options = {"alpha": 0.2, "num_steps": 2, "maxnorm": 0.35, "mix_step": 1, "eta": 4.0}
  loss, _, metrics = step(smoothmix, sigma=SIGMA, epoch=epoch, **options)
  assert asked[0].pop("maxnorm_s") == pytest.approx(0.2 * factor)
  assert asked[0] == {"alpha": 0.2, "num_steps": 2, "mix_step": 1, "maxnorm": 0.35}
  assert metrics["mixed"] > 1e-4
  weight = (loss - metrics["cross_entropy"]) / metrics["mixed"]
  assert weight == pytest.approx(4 * factor, rel=1e-2)


def test_attack_leaves_statistics_alone():
  """Its passes use the running ones; two training passes use and update those of their batches."""
  watch = Watch()
  _, model_state, _ = step(smoothmix, watch, sigma=SIGMA, alpha=0.3, num_steps=2)
  assert set(watch.calls[:-2]) == {("running", 0)}
  assert watch.calls[-2:] == [("batch", 0), ("batch", 1)]
  expected = STATE
  for images in watch.images[-2:]:
    _, expected = centred(PARAMS, expected, images, train=True)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), model_state, expected)
  noises = SIGMA * noisy.draw_noises(KEYS, BATCH["image"], 1)[:, 0]
  np.testing.assert_allclose(watch.images[-2], BATCH["image"] + noises, rtol=1e-6)
  moved = np.abs(watch.images[-1] - watch.images[-2]).max()
  assert 0.01 < moved < 0.5, "the same noises, at the mixed images"


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"sigma": 0.0}, "sigma=0.0: expected the standard deviation of the noise, above 0"),
    ({"num_noise_vec": 0}, "num_noise_vec=0: expected .*at least 1"),
    ({"num_steps": 0}, "num_steps=0: expected .*at least 1"),
    ({"alpha": -1.0}, "alpha=-1.0: expected at least 0"),
    ({"eta": -1.0}, "eta=-1.0: expected at least 0"),
    ({"num_steps": 1, "mix_step": 1}, "mix_step=1: expected one of the 1 iterates from 0 on"),
    ({"mix_step": -1}, "mix_step=-1: expected one of the 8 iterates from 0 on"),
  ],
)
def test_bad_options_are_refused(options, words):
  with pytest.raises(ValueError, match=words):
    step(smoothmix, **{"sigma": SIGMA, **options})
