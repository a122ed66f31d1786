"""Leakage of robust features: exact robustness, the fit, and that a planted leak is found."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import models
from jax_robust.studies import feature_leakage

pytestmark = pytest.mark.fast

DRAW = np.random.default_rng(0)
WEIGHTS = DRAW.normal(size=(6, 4))


def test_distances_are_those_to_the_nearest_boundary():
  """A step of that length towards the runner-up along the normal is where both are equal."""
  x = DRAW.normal(size=(20, 6))
  logits = x @ WEIGHTS
  found, first = feature_leakage.certain_distances(logits, WEIGHTS), logits.argmax(1)
  nearest = np.full(20, np.inf)
  for other in range(4):
    normal = (WEIGHTS[:, [other]] - WEIGHTS[:, first]).T
    length = np.linalg.norm(normal, axis=1)
    lead = logits[np.arange(20), first] - logits[:, other]
    nearest = np.where(length > 0, np.minimum(nearest, lead / np.maximum(length, 1e-12)), nearest)
  np.testing.assert_allclose(found, nearest)
  unit = DRAW.normal(size=(200, 20, 6))
  unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
  moved = (x + 0.999 * found[:, None] * unit) @ WEIGHTS
  assert np.all(moved.argmax(-1) == first)


def test_usefulness_is_that_under_the_worst_perturbation():
  x, labels = DRAW.normal(size=(400, 6)), DRAW.integers(0, 4, 400)
  x += 2 * np.eye(6)[labels]
  features, radius = x @ WEIGHTS, 0.3
  found = feature_leakage.robust_usefulness(features, labels, WEIGHTS, radius)
  for i in range(4):
    y = np.where(labels == i, 1, -1)
    worst = x - radius * y[:, None] * WEIGHTS[:, i] / np.linalg.norm(WEIGHTS[:, i])
    standard = (worst @ WEIGHTS[:, i] - features[:, i].mean()) / features[:, i].std()
    by_side = [np.mean((y * standard)[y == side]) for side in (1, -1)]
    assert found[i] == pytest.approx(np.mean(by_side))


def test_the_fit_is_the_optimum():
  """Labels drawn from a known softmax: it finds the weights, up to a shift of all classes."""
  features = DRAW.normal(size=(40_000, 3))
  true = np.array([[1.0, -1.0, 0.0], [0.5, 0.0, -0.5], [0.0, 0.0, 0.0]])
  logits = features @ true + [0.3, 0.0, -0.3]
  labels = (logits + DRAW.gumbel(size=logits.shape)).argmax(1)
  found = feature_leakage.fit_softmax(features, labels, 3)
  np.testing.assert_allclose(found.weights - found.weights.mean(1)[:, None], true, atol=0.05)
  np.testing.assert_allclose(found.bias - found.bias.mean(), [0.3, 0.0, -0.3], atol=0.05)


def test_a_planted_leak_is_found_with_random_targets_and_not_with_the_next_class():
  """Images move a little along the robust features of their target.

  With random targets the features still tell classes apart a little, in the true direction; with
  the next class as target, their own class is what the label is not.
  """
  means = 2 * np.eye(4, 6)

  def images(num, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, num)
    return means[labels] + rng.normal(size=(num, 6)), labels

  x, labels = images(20_000, 1)
  tested, true = images(4000, 2)
  accuracy = {}
  for name, targets in (("d_rand", DRAW.integers(0, 4, len(x))), ("d_det", (labels + 1) % 4)):
    fitted = feature_leakage.fit_softmax((x + 0.1 * means[targets]) @ means.T, targets, 4)
    accuracy[name] = np.mean((tested @ means.T @ fitted.weights + fitted.bias).argmax(1) == true)
  assert accuracy["d_rand"] > 0.6 and accuracy["d_det"] < 0.1


def test_a_linear_net_is_read_with_its_normalisation():
  net = models.create("mlp", num_classes=3, hidden=(), mean=(0.2, 0.3, 0.4), std=(0.5, 0.25, 2.0))
  x = jax.random.uniform(jax.random.key(0), (5, 2, 2, 3))
  params = net.init(jax.random.key(1), x)["params"]
  linear = feature_leakage.linear_net(net, params, (2, 2, 3))
  found = np.asarray(x, np.float64).reshape(5, -1) @ linear.weights + linear.bias
  np.testing.assert_allclose(found, net.apply({"params": params}, x), atol=1e-5)
  deep = models.create("mlp", num_classes=3, hidden=(4,))
  params = jax.eval_shape(deep.init, jax.random.key(1), jnp.asarray(x))["params"]
  with pytest.raises(ValueError, match=r"layers \['hidden_0', 'logits'\]: expected"):
    feature_leakage.linear_net(deep, params, (2, 2, 3))
