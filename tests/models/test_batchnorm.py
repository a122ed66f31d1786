"""BatchNorm: groups, devices, running averages."""

import functools

import closeness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jax_robust.models.layers import BatchNorm

SHAPE = (16, 3, 3, 4)


@functools.partial(jax.jit, static_argnames="dtype")
def make_inputs(seed=0, dtype=jnp.float32):
  """A batch of rows that differ in mean and scale, a weighting of outputs, a layer's variables."""
  keys = jax.random.split(jax.random.key(seed), 6)
  row_scale = 1 + jax.random.uniform(keys[0], (SHAPE[0], 1, 1, 1))
  x = row_scale * (jax.random.normal(keys[1], SHAPE) + 2 * row_scale)
  weighting = jax.random.normal(keys[2], SHAPE)
  variables = {
    "params": {
      "scale": jax.random.normal(keys[3], SHAPE[-1:]),
      "bias": jax.random.normal(keys[4], SHAPE[-1:]),
    },
    "batch_stats": {"mean": jnp.arange(4.0), "var": 1 + jnp.arange(4.0)},
  }
  return jax.tree.map(lambda a: a.astype(dtype), (x, weighting, variables))


def moments(x):
  x = np.asarray(x)
  return x.mean((0, 1, 2)), x.var((0, 1, 2))


@functools.partial(jax.jit, static_argnums=0)
def train(layer, variables, x):
  return layer.apply(variables, x, train=True, mutable=["batch_stats"])


assert_close = functools.partial(closeness.assert_close, tolerance=2e-5)


def test_training_and_evaluation_formulas():
  x, _, variables = make_inputs()
  y, updated = train(BatchNorm(momentum=0.9), variables, x)
  mean, var = moments(x)
  scale, bias = (np.asarray(variables["params"][k]) for k in ("scale", "bias"))
  assert_close(y, (np.asarray(x) - mean) / np.sqrt(var + 1e-5) * scale + bias)
  assert_close(updated["batch_stats"]["mean"], 0.9 * np.arange(4.0) + 0.1 * mean)
  assert_close(updated["batch_stats"]["var"], 0.9 * (1 + np.arange(4.0)) + 0.1 * var)

  y = BatchNorm(epsilon=0.5).apply(variables, x, train=False)
  running_std = np.sqrt(1.5 + np.arange(4.0))
  assert_close(y, (np.asarray(x) - np.arange(4.0)) / running_std * scale + bias)


@pytest.mark.parametrize("debias", [False, True])
def test_evaluation_leaves_statistics(debias):
  x, _, variables = make_inputs()
  layer = BatchNorm(debias=debias)
  if debias:
    variables["batch_stats"]["count"] = jnp.int32(3)
  _, state = layer.apply(variables, x, train=False, mutable=["batch_stats"])
  jax.tree.map(np.testing.assert_array_equal, state["batch_stats"], variables["batch_stats"])
  _, state = train(layer, variables, x)
  assert not np.array_equal(state["batch_stats"]["mean"], variables["batch_stats"]["mean"])


def test_initialisation_neither_updates_nor_groups():
  layer = BatchNorm(group_size=8, axis_name="unbound", debias=True)
  variables = layer.init(jax.random.key(0), jnp.ones((1, 4)), train=True)
  stats = variables["batch_stats"]
  np.testing.assert_array_equal(stats["mean"], np.zeros(4))
  np.testing.assert_array_equal(stats["var"], np.ones(4))
  assert stats["count"] == 0


def test_groups_equal_devices():
  x, _, variables = make_inputs()
  y, updated = train(BatchNorm(group_size=4), variables, x)
  per_device = jax.vmap(functools.partial(train, BatchNorm(), variables))
  y_devices, updated_devices = per_device(x.reshape(4, 4, *SHAPE[1:]))
  assert_close(y, y_devices.reshape(SHAPE))
  assert_close(updated, jax.tree.map(lambda a: a.mean(0), updated_devices))
  whole, _ = train(BatchNorm(), variables, x)
  assert np.abs(whole - y).max() > 0.1


@pytest.mark.parametrize("group_size", [3, 32, 0])
def test_group_size_must_divide_the_batch(group_size):
  x, _, variables = make_inputs()
  with pytest.raises(ValueError, match=rf"group_size={group_size} .* 16 rows"):
    train(BatchNorm(group_size=group_size), variables, x)


def mean_loss(layer, params, batch_stats, x, weighting):
  """A weighted mean of outputs, with outputs and new statistics."""
  y, state = train(layer, {"params": params, "batch_stats": batch_stats}, x)
  return jnp.mean(weighting * jnp.square(y)), (y, state["batch_stats"])


def gradients_on_one(layer, variables, x, weighting, axis_name=None):
  """Gradients in parameters (averaged over devices) and in x, outputs, statistics."""
  loss_fn = functools.partial(mean_loss, layer)
  gradient_fn = jax.grad(loss_fn, argnums=(0, 2), has_aux=True)
  (params, inputs), (y, stats) = gradient_fn(
    variables["params"], variables["batch_stats"], x, weighting
  )
  if axis_name is not None:
    params = jax.lax.pmean(params, axis_name)
  return params, inputs, y, stats


@pytest.mark.parametrize("group_size", [None, 2])
@pytest.mark.parametrize("how", ["pmap", "shard_map"])
def test_axis_name_equals_whole_batch(how, group_size):
  assert jax.device_count() == 8
  x, weighting, variables = make_inputs()
  on_one = functools.partial(gradients_on_one, BatchNorm(group_size=group_size))
  expected = jax.jit(on_one)(variables, x, weighting)
  layer = BatchNorm(axis_name="data", group_size=group_size)
  on_each = functools.partial(gradients_on_one, layer, axis_name="data")
  if how == "pmap":
    split = (8, 2, *SHAPE[1:])
    params, inputs, y, stats = jax.pmap(on_each, axis_name="data", in_axes=(None, 0, 0))(
      variables, x.reshape(split), weighting.reshape(split)
    )
    inputs, y = inputs.reshape(SHAPE), y.reshape(SHAPE)
    for device in range(8):  # every device keeps the same averages
      assert_close(jax.tree.map(lambda a, d=device: a[d], stats), expected[3])
    params, stats = jax.tree.map(lambda a: a[0], (params, stats))
  else:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = P("data")
    mapped = jax.shard_map(
      on_each,
      mesh=mesh,
      in_specs=(P(), rows, rows),
      out_specs=(P(), rows, rows, P()),
      check_vma=False,
    )
    params, inputs, y, stats = jax.jit(mapped)(variables, x, weighting)
  # The sum of the devices' losses was differentiated in x: eight times the mean.
  assert_close((params, inputs / 8, y, stats), expected)


@pytest.mark.parametrize("momentum", [0.99, 0.0])
def test_debias_is_haikus(momentum):
  _, _, variables = make_inputs()
  layer = BatchNorm(momentum=momentum, debias=True)
  stats = layer.init(jax.random.key(0), jnp.ones((1, 4)))["batch_stats"]
  hidden_mean, hidden_var = np.zeros(4), np.zeros(4)
  for t in range(1, 6):
    x = make_inputs(seed=t)[0]
    _, state = train(layer, {"params": variables["params"], "batch_stats": stats}, x)
    stats = state["batch_stats"]
    hidden_mean = momentum * hidden_mean + (1 - momentum) * np.mean(x, (0, 1, 2))
    hidden_var = momentum * hidden_var + (1 - momentum) * np.var(x, (0, 1, 2))
    assert_close(stats["mean"], hidden_mean / (1 - momentum**t))
    assert_close(stats["var"], hidden_var / (1 - momentum**t))
    assert stats["count"] == t


def test_statistics_are_float32_under_bfloat16():
  x, _, variables = make_inputs()
  x16 = x.astype(jnp.bfloat16)
  with jax.disable_jit():  # two compiled programs may round differently
    y, state = train(BatchNorm(dtype=jnp.bfloat16), variables, x16)
    expected, expected_state = train(BatchNorm(), variables, x16.astype(jnp.float32))
  assert y.dtype == jnp.bfloat16
  np.testing.assert_array_equal(y, expected.astype(jnp.bfloat16))
  jax.tree.map(np.testing.assert_array_equal, state, expected_state)
  assert state["batch_stats"]["var"].dtype == jnp.float32


def test_constant_channel_stays_finite():
  x = jnp.full((8, 4), 1000.3)
  layer = BatchNorm(epsilon=0.0001)
  variables = layer.init(jax.random.key(0), x)
  y, state = train(layer, variables, x)
  assert jnp.isfinite(y).all()
  assert (state["batch_stats"]["var"] >= 0).all()


def test_float64():
  with jax.enable_x64(True):
    x, _, variables = make_inputs(dtype=jnp.float64)
    y, state = train(BatchNorm(dtype=jnp.float64), variables, x)
    mean, var = moments(x)
    params = variables["params"]
    normal = (np.asarray(x) - mean) / np.sqrt(var + 1e-5)
    expected = normal * np.asarray(params["scale"]) + np.asarray(params["bias"])
    assert y.dtype == state["batch_stats"]["mean"].dtype == jnp.float64
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
