"""A net that is no classifier: two inputs, images out, dropout, no normalisation, no `logits`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import models
from jax_robust.data import augment
from jax_robust.train import optim, parallel
from jax_robust.train.state import create_state, make_apply_fn
from jax_robust.train.step import make_update

ROWS, SHAPE = 8, (4, 4, 1)


class Denoiser(nn.Module):
  """Images and noise levels in, denoised images out."""

  features: int = 4

  @nn.compact
  def __call__(self, x, sigma, train: bool = False):
    y = nn.Conv(self.features, (3, 3))(x) * (1 + sigma[:, None, None, None])
    y = nn.Dropout(0.5, deterministic=not train)(nn.swish(y))
    return x - nn.Conv(x.shape[-1], (3, 3))(y)


def denoising(apply_fn, params, model_state, batch, rng, progress):
  """`mean ||f(x + sigma d, sigma) - x||^2`, one noise and one level per image."""
  x = batch["image"]
  noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(rng)
  sigma = jax.vmap(lambda key: jax.random.uniform(key, dtype=x.dtype))(rng)
  noisy = x + sigma[:, None, None, None] * noise
  outputs, model_state = apply_fn(params, model_state, noisy, sigma, train=False)
  loss = jnp.mean((outputs - x) ** 2)
  return loss, (model_state, {"loss": loss})


NET = Denoiser()
INPUTS = [jnp.zeros((1, *SHAPE)), jnp.zeros(1)]
OPTIMIZER = optim.make_optimizer(lambda step: 0.1)


@pytest.fixture(scope="module")
def state():
  return create_state(NET, OPTIMIZER, INPUTS, seed=0, carry={"kept": jnp.arange(3)})


def test_it_is_initialised_from_its_inputs(state):
  assert state.model_state == {} and not models.is_classifier(NET)
  assert state.params["Conv_0"]["kernel"].shape == (3, 3, 1, 4)
  np.testing.assert_array_equal(state.carry["kept"], [0, 1, 2])
  shapes = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in INPUTS]
  again = create_state(NET, OPTIMIZER, shapes, seed=0)
  jax.tree.map(np.testing.assert_array_equal, again.params, state.params)


def test_a_key_is_for_dropout(state):
  apply_fn, x = make_apply_fn(NET), jnp.ones((2, *SHAPE))

  def run(rng):
    return apply_fn(state.params, {}, x, jnp.ones(2), train=True, rng=rng)[0]

  one, same, other = (run(jax.random.key(seed)) for seed in (0, 0, 1))
  np.testing.assert_array_equal(one, same)
  assert np.abs(one - other).max() > 0.01
  quiet = apply_fn(state.params, {}, x, jnp.ones(2), train=False)[0]
  np.testing.assert_array_equal(quiet, apply_fn(state.params, {}, x, jnp.ones(2), train=False)[0])


RAW = {
  "image": np.random.default_rng(0).integers(0, 256, (ROWS, *SHAPE), np.uint8),
  "label": np.zeros(ROWS, np.int32),
  "generated": np.zeros(ROWS, bool),
  "row": np.arange(ROWS, dtype=np.int32),
}


def make(axis_name):
  """The update, with or without an axis of devices."""
  return make_update(
    denoising, make_apply_fn(NET), OPTIMIZER, prepare=augment.make_prepare(num_classes=2),
    steps_per_epoch=1.0, axis_name=axis_name,
  )  # fmt: skip


@pytest.fixture(scope="module")
def on_one(state):
  """State and metrics after a step on one device."""
  return jax.jit(make(None))(state, RAW)


@pytest.mark.parametrize("mode", parallel.MODES)
def test_it_trains_on_any_devices(state, on_one, mode):
  mesh = parallel.data_mesh(ROWS)
  step = parallel.map_step(make, mesh, mode=mode, state_specs=parallel.state_specs(state))
  found, metrics = step(parallel.place_state(state, mesh), parallel.shard_batch(RAW, mesh))
  for one, other in zip(jax.tree.leaves((found, metrics)), jax.tree.leaves(on_one), strict=True):
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * max(1e-2, np.abs(other).max()))
  assert np.any(found.params["Conv_0"]["kernel"] != state.params["Conv_0"]["kernel"])
