"""A model whose constants are arguments is the same function, and its programs hold no weights."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import models
from jax_robust.nets.constants import lift, without_jit

WEIGHTS = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 3)
X = jax.random.uniform(jax.random.key(1), (3, 2, 2, 3))


def flat(x):
  return x.reshape(x.shape[0], -1)


def flax_net():
  net = models.create("small_cnn", num_classes=5, channels=(4,), strides=(1,))
  variables = net.init(jax.random.key(2), X)
  return lambda x, keys: net.apply(variables, x)


on_device = jnp.asarray(WEIGHTS)
NETS = {
  "device": lambda x, keys: flat(x) @ on_device,
  "host": lambda x, keys: flat(x) @ WEIGHTS,
  "jitted": jax.jit(lambda x, keys: flat(x) @ on_device),
  "flax": flax_net(),
  "of the batch": lambda x, keys: (
    flat(x) @ on_device + np.arange(len(x), dtype=np.float32)[:, None]
  ),
  "exits": lambda x, keys: (flat(x) @ on_device, flat(x) @ (2 * on_device)),
  "none": lambda x, keys: flat(x)[:, :5],
  "randomised": lambda x, keys: (
    flat(x) @ on_device + jax.vmap(lambda key: jax.random.normal(key, (5,)))(keys)
  ),
}


@pytest.mark.parametrize("name", NETS)
def test_lifted_is_the_classifier(name):
  logits_fn = NETS[name]
  lifted = lift(logits_fn, X[:1], KEYS[:1])  # of another batch size

  def total(fn, x):
    return sum(jnp.sum(z**2) for z in jax.tree.leaves(fn(x)))

  through = lambda x: lifted.apply(lifted.constants, x, KEYS)  # noqa: E731
  direct = lambda x: logits_fn(x, KEYS)  # noqa: E731
  assert jax.tree.structure(through(X)) == jax.tree.structure(direct(X))
  jax.tree.map(np.testing.assert_allclose, through(X), direct(X))
  gradients = [jax.jit(jax.grad(lambda x, fn=fn: total(fn, x)))(X) for fn in (through, direct)]
  np.testing.assert_allclose(*gradients, rtol=1e-6)


def holds_an_array(fn, *args):
  """Whether a compiled program carries the entries of an array."""
  return bool(re.search(r'stablehlo.constant dense<["\[]', jax.jit(fn).lower(*args).as_text()))


@pytest.mark.parametrize("name", ["device", "host", "flax"])
def test_the_program_holds_no_weights(name):
  lifted = lift(NETS[name], X[:1], KEYS[:1])
  assert max(constant.size for constant in lifted.constants) >= 60
  assert not holds_an_array(lifted.apply, lifted.constants, X, KEYS)
  assert holds_an_array(NETS[name], X, KEYS)


HOISTED_BY_JAX = """
import jax, jax.numpy as jnp
from jax_robust.nets.constants import lift
weights, x = jnp.arange(60.0).reshape(12, 5), jnp.ones((3, 12))
lifted = lift(lambda x, keys: x @ weights, x[:1], jnp.zeros(1))
assert lifted.constants == ()
program = jax.jit(lifted.apply)
assert (program((), x, jnp.zeros(3)) == x @ weights).all()
assert "dense<[" not in program.lower((), x, jnp.zeros(3)).as_text()
"""


@pytest.mark.thorough
def test_where_jax_hoists_constants_itself_nothing_is_left_to_do():
  env = {**os.environ, "JAX_USE_SIMPLIFIED_JAXPR_CONSTANTS": "1"}
  done = subprocess.run([sys.executable, "-c", HOISTED_BY_JAX], env=env, capture_output=True)
  assert done.returncode == 0, done.stderr.decode()


def test_a_jitted_classifier_is_taken_out_of_its_jit():
  lifted = lift(without_jit(NETS["jitted"]), X[:1], KEYS[:1])
  assert [constant.shape for constant in lifted.constants] == [(12, 5)]


def test_what_depends_on_the_batch_is_not_taken_for_a_weight():
  logits_fn = lambda x, keys: x * np.full((1, 3), 1 / len(x))  # noqa: E731
  lifted = lift(logits_fn, jnp.ones((1, 3)), KEYS[:1])
  out = lifted.apply(lifted.constants, jnp.ones((2, 3)), KEYS[:2])
  np.testing.assert_allclose(out, 0.5)
