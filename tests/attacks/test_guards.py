"""Nets that mislead an evaluation: each is warned of, and a sound one is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust.attacks.autoattack import guards
from jax_robust.nets.randomised import keyed

pytestmark = pytest.mark.fast

X = np.random.default_rng(0).uniform(size=(6, 4, 4, 1)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).normal(size=(16, 5)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 6)


def sound(x):
  return x.reshape(x.shape[0], -1) @ WEIGHTS


LABELS = np.asarray(sound(X)).argmax(1)


def batch_norm(x):
  """In training mode: an image is seen beside its neighbours."""
  return sound(x) - jnp.mean(sound(x), axis=0, keepdims=True)


def coarse(x):
  return sound(x).astype(jnp.bfloat16)


NETS = {
  "probabilities": (lambda x: jax.nn.softmax(sound(x)), "returns probabilities"),
  "batch": (batch_norm, "depend on its neighbours"),
  "bfloat16": (coarse, "returns bfloat16 logits"),
  "noise": (
    lambda x, rng: sound(x) + jax.random.normal(rng, (x.shape[0], 5)),
    "use version='rand'",
  ),
  "steps": (lambda x: sound(jnp.round(4 * x) / 4), "exactly zero for 6 of 6"),
  "saturated": (lambda x: 1e4 * sound(x), "gradient of the cross entropy is exactly zero"),
}


def look(logits_fn, randomised=False):
  """The warnings about a net."""
  return guards.check_model(keyed(logits_fn), X, LABELS, KEYS, randomised)


def test_a_sound_net_is_not_warned_of():
  assert look(sound) == []


@pytest.mark.parametrize("name", NETS)
def test_what_misleads_is_named(name):
  logits_fn, message = NETS[name]
  assert any(message in line for line in look(logits_fn)), look(logits_fn)


def test_noise_that_is_reckoned_with_is_no_warning():
  assert not any("randomised" in line for line in look(NETS["noise"][0], randomised=True))


def test_a_saturated_loss_does_not_hide_the_margin():
  lines = look(NETS["saturated"][0])
  assert not any("margin" in line for line in lines)


def test_products_of_low_precision_are_named(monkeypatch):
  """A net whose products are exact only where the caller asks for it, as on a TPU."""

  def product(x):
    exact = jax.config.jax_default_matmul_precision == "highest"
    weights = WEIGHTS if exact else WEIGHTS.astype(jnp.bfloat16).astype(np.float32)
    return x.reshape(x.shape[0], -1) @ weights

  assert any("low precision" in line for line in look(product))


def test_square_better_than_gradients_is_named():
  clean = np.ones(100, bool)
  gradients, square = np.arange(100) < 60, np.arange(100) < 55
  after = {"apgd-ce": gradients, "square": square}
  assert guards.check_square(clean, after) and not guards.check_square(
    clean, {"apgd-ce": square, "square": square}
  )
  assert not guards.check_square(clean, {"square": square})
  one_less = {"apgd-ce": gradients, "square": np.arange(100) < 59}
  assert not guards.check_square(clean, one_less)
