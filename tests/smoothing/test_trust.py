"""Whether certificates can be trusted: their error rate, and nets whose distances are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jax_robust import smoothing

NUM_SIMULATED = 20_000
KEY = jax.random.key(0)


def simulate(seed=0, n0=100, n=1000, alpha=0.05):
  """CERTIFY on thousands of classifiers of three classes, with their true probabilities."""
  rng = np.random.default_rng(seed)
  p_top = np.where(rng.random(NUM_SIMULATED) < 0.5, rng.uniform(0.3, 1, NUM_SIMULATED), 0.5)
  second = rng.uniform(0.5, 1, NUM_SIMULATED) * (1 - p_top)
  p = np.stack([1 - p_top - second, p_top, second], axis=1).clip(0, 1)
  found = smoothing.certify(rng.multinomial(n0, p), rng.multinomial(n, p), sigma=0.5, alpha=alpha)
  return p, found


def test_certificate_fails_with_probability_alpha():
  """A certificate fails if its class has not the majority, or not within all of its radius."""
  alpha = 0.05
  p, found = simulate(alpha=alpha)
  claims = found.label >= 0
  truth = np.take_along_axis(p, np.maximum(found.label, 0)[:, None], 1)[:, 0]
  true_radius = 0.5 * special.ndtri(truth)
  wrong = claims & ((truth < 0.5) | (found.radius > true_radius))
  assert stats.binom.sf(wrong.sum() - 1, NUM_SIMULATED, alpha) > 1e-4
  assert claims.mean() > 0.35
  # Where all that matters is the bound, the rate is alpha, not less.
  sure = truth > 0.8
  assert wrong[sure].mean() > 0.6 * alpha


@pytest.mark.parametrize("p_top", [0.5, 0.51, 0.53, 0.55, 0.6])
def test_abstention_is_as_theory_says(p_top):
  """Of two classes, the chosen one needs `least_count` of n votes."""
  num, n0, n, alpha = 20_000, 100, 1000, 0.001
  rng = np.random.default_rng(1)
  p = np.array([1 - p_top, p_top])
  found = smoothing.certify(
    rng.multinomial(n0, p, num), rng.multinomial(n, p, num), sigma=1.0, alpha=alpha
  )
  least = smoothing.least_count(n, alpha=alpha)
  chosen_is_top = stats.binom.sf(n0 // 2, n0, p_top)  # ties go to class 0
  claims = chosen_is_top * stats.binom.sf(least - 1, n, p_top)
  claims += (1 - chosen_is_top) * stats.binom.sf(least - 1, n, 1 - p_top)
  observed = np.sum(found.label >= 0)
  assert stats.binom.cdf(observed, num, claims) > 1e-4
  assert stats.binom.sf(observed - 1, num, claims) > 1e-4
  if p_top == 0.5:
    assert claims <= alpha


SIZE = 12


@functools.cache
def weights_of(num_classes):
  return np.random.default_rng(num_classes).normal(size=(SIZE, num_classes)).astype(np.float32)


def distance_and_class(x, num_classes):
  """How far images are from where a linear net changes its class, in float64."""
  weights = weights_of(num_classes).astype(np.float64)
  logits = (x.astype(np.float64) - 0.5) @ weights
  labels = logits.argmax(1)
  lengths = np.linalg.norm(weights.T[None] - weights.T[labels][:, None], axis=2)
  gaps = logits.max(1)[:, None] - logits
  with np.errstate(invalid="ignore"):
    return np.nanmin(gaps / lengths, axis=1), labels


def problem(num_classes, num_images=8):
  """A linear net and images of 8 bits at distances of all sizes."""
  x = np.random.default_rng(0).integers(0, 256, (400, SIZE)).astype(np.float32) / 255
  distances, _ = distance_and_class(x, num_classes)
  kept = np.argsort(-distances)[:: 400 // num_images]
  return lambda x: (x - 0.5) @ jnp.asarray(weights_of(num_classes)), x[kept]


@pytest.mark.parametrize("noise", ["gaussian", "sound"])
@pytest.mark.parametrize("num_classes", [2, 5])
def test_linear_nets_are_never_certified_beyond_their_distance(num_classes, noise):
  """A class of a linear net lies in a half-space, where noise falls less often the nearer it is."""
  logits_fn, x = problem(num_classes)
  distances, labels = distance_and_class(x, num_classes)
  if noise == "sound":  # a net that rounds may change its class half a step later
    distances = distances + SIZE**0.5 / 510
  options = {"sigma": 0.3 if num_classes == 2 else 0.1, "n": 2000, "alpha": 1e-5}
  sampler = smoothing.Sampler(logits_fn, image_shape=(SIZE,), batch_size=4000, noise=noise)
  found = smoothing.certify_images(sampler, x, KEY, **options)
  claims = found.label >= 0
  assert claims.sum() >= 4
  np.testing.assert_array_equal(found.label[claims], labels[claims])
  assert np.all(found.radius[claims] <= distances[claims])
  found = smoothing.certify_within(sampler, x, KEY, tolerance=0.05, **options)
  assert np.all(found.radius <= distances) and (found.label >= 0).sum() >= 4


def test_linear_net_of_two_classes_is_certified_up_to_its_distance():
  """Its smoothed classifier is itself: only the bound's slack is lost, and less with more draws."""
  logits_fn, x = problem(2, num_images=5)
  distances, _ = distance_and_class(x, 2)
  distances, x = distances[distances < 0.9], x[distances < 0.9]
  sampler = smoothing.Sampler(logits_fn, image_shape=(SIZE,), batch_size=10_000)
  gaps = [
    distances - smoothing.certify_images(sampler, x, KEY, sigma=0.3, n=n).radius
    for n in (1000, 10_000, 100_000)
  ]
  assert len(x) >= 4
  assert np.all(np.array(gaps) > 0) and np.all(np.diff(gaps, axis=0) < 0)
  assert gaps[0].mean() > 0.02 and gaps[2].mean() < 0.01
