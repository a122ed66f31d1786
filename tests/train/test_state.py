"""The train state and the function a net becomes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_robust import models
from jax_robust.train.state import create_state, make_apply_fn

NET = models.create("mlp", num_classes=3, hidden=(4,), norm=True, bn_momentum=0.9)
SHAPE = (2, 2, 1)
OPTIMIZER = optax.trace(0.9)


@pytest.fixture(scope="module")
def state():
  return create_state(NET, OPTIMIZER, [jnp.zeros((1, *SHAPE))], seed=0)


def assert_equal(actual, expected):
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_a_run_starts_at_step_zero_with_the_average_at_the_parameters(state):
  assert state.step == 0 and state.step.dtype == jnp.int32
  assert_equal(state.ema, state.params)
  assert_equal(state.opt_state, OPTIMIZER.init(state.params))
  assert state.model_state.keys() == {"batch_stats"}
  assert_equal(state.model_state["batch_stats"]["batchnorm_0"]["var"], np.ones(4))


def test_the_state_is_data_only(state):
  leaves = jax.tree.leaves(state)
  assert all(isinstance(leaf, jax.Array) for leaf in leaves)
  assert not any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves)


def test_no_two_leaves_share_a_buffer(state):
  """Else donating the state to a step would donate a buffer twice."""
  pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
  assert len(set(pointers)) == len(pointers)


def test_the_seed_decides_everything(state):
  assert_equal(create_state(NET, OPTIMIZER, [jnp.zeros((1, *SHAPE))], seed=0), state)
  other = create_state(NET, OPTIMIZER, [jnp.zeros((1, *SHAPE))], seed=1)
  assert np.any(other.params["logits"]["kernel"] != state.params["logits"]["kernel"])
  assert np.any(other.rng != state.rng)
  assert np.any(state.rng != jax.random.key_data(jax.random.key(0)))


X = jax.random.uniform(jax.random.key(1), (6, *SHAPE))


def test_evaluation_hands_the_statistics_back(state):
  apply_fn = make_apply_fn(NET)
  logits, model_state = apply_fn(state.params, state.model_state, X, train=False)
  assert model_state is state.model_state
  np.testing.assert_allclose(
    logits, NET.apply({"params": state.params, **state.model_state}, X), rtol=1e-6
  )


def test_training_returns_new_statistics_and_leaves_the_old(state):
  before = jax.tree.map(np.array, state.model_state)
  logits, model_state = make_apply_fn(NET)(state.params, state.model_state, X, train=True)
  assert_equal(state.model_state, before)
  assert jax.tree.structure(model_state) == jax.tree.structure(state.model_state)
  hidden = np.asarray(X).reshape(6, -1) @ np.asarray(state.params["hidden_0"]["kernel"])
  statistics = model_state["batch_stats"]["batchnorm_0"]
  np.testing.assert_allclose(statistics["mean"], 0.1 * hidden.mean(0), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * hidden.var(0), rtol=1e-5)
  evaluated, _ = make_apply_fn(NET)(state.params, state.model_state, X, train=False)
  assert np.abs(logits - evaluated).max() > 0.1


def test_a_net_without_statistics():
  net = models.create("mlp", num_classes=3, hidden=())
  state = create_state(net, OPTIMIZER, [jnp.zeros((1, *SHAPE))], seed=0)
  assert state.model_state == {}
  apply_fn = make_apply_fn(net)
  logits, model_state = apply_fn(state.params, {}, X, train=True)
  assert model_state == {}
  np.testing.assert_array_equal(logits, apply_fn(state.params, {}, X, train=False)[0])


def test_axis_name_gathers_moments_over_the_mapped_axis(state):
  on_all = functools.partial(make_apply_fn(NET), train=True)
  whole, whole_state = jax.jit(on_all)(state.params, state.model_state, X)
  for axis_name, agrees in (("data", True), (None, False)):
    apply_fn = make_apply_fn(NET, axis_name=axis_name)
    on_each = jax.vmap(
      lambda x, apply_fn=apply_fn: apply_fn(state.params, state.model_state, x, train=True),
      axis_name="data",
    )
    logits, model_state = jax.jit(on_each)(X.reshape(2, 3, *SHAPE))
    assert np.allclose(logits.reshape(6, 3), whole, rtol=0, atol=1e-4) == agrees
    if agrees:
      jax.tree.map(
        lambda mine, theirs: np.testing.assert_allclose(mine[1], theirs, rtol=1e-5, atol=1e-6),
        model_state,
        whole_state,
      )
