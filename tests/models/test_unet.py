"""The diffusion net: its shapes, its fresh weights, what it is told, and what it refuses."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import models
from jax_robust.models import unet
from jax_robust.nets import denoisers

TINY = {"width": 8, "multipliers": (1, 2), "num_blocks": 1, "attention": (1,), "num_labels": 3}


def make(**changes):
  return models.create("unet", **{**TINY, **changes})


@pytest.fixture(scope="module")
def trained():
  """A net and variables that are not fresh, with inputs."""
  net = make()
  x = jax.random.uniform(jax.random.key(0), (3, 8, 8, 2))
  sigma, label = jnp.array([0.05, 0.5, 3.0]), jnp.array([0, 1, 2])
  fresh = jax.jit(net.init)(jax.random.key(1), x, sigma, label)
  draw = np.random.default_rng(2)
  moved = jax.tree.map(lambda a: a + np.float32(0.3) * draw.normal(size=a.shape), fresh)
  return net, fresh, jax.tree.map(jnp.float32, moved), (x, sigma, label)


def test_fresh_net_keeps_the_mean(trained):
  net, fresh, _, (x, sigma, label) = trained
  skip = denoisers.edm(sigma / 0.5).c_skip[:, None, None, None]
  found = jax.jit(net.apply)(fresh, x, sigma, label)
  np.testing.assert_allclose(found, 0.5 + skip * (x - 0.5), atol=1e-6)


def test_each_row_is_told_its_own_level_and_label(trained):
  net, _, moved, (x, sigma, label) = trained
  apply = jax.jit(net.apply)
  whole = apply(moved, x, sigma, label)
  assert whole.shape == x.shape and whole.dtype == jnp.float32
  order = jnp.array([2, 0, 1])
  turned = apply(moved, x[order], sigma[order], label[order])
  np.testing.assert_allclose(turned, whole[order], rtol=1e-4, atol=1e-5)
  other = apply(moved, x, sigma, label.at[1].set(2))
  differs = np.abs(np.asarray(other - whole)).max((1, 2, 3)) > 1e-4
  np.testing.assert_array_equal(differs, [False, True, False])


def test_labels_are_known(trained):
  net, _, moved, (x, sigma, _) = trained
  found = jax.jit(net.apply)(moved, x, sigma, jnp.array([-1, 3, -2]))
  np.testing.assert_array_equal(np.isnan(found).all((1, 2, 3)), [False, True, True])


def test_channels_and_resolutions_are_those_that_were_asked_for(trained):
  _, fresh, _, _ = trained
  params = fresh["params"]
  assert params["down_0_0"]["conv_0"]["kernel"].shape == (3, 3, 8, 8)
  assert params["down_1_0"]["conv_0"]["kernel"].shape == (3, 3, 8, 16)
  assert params["up_0_1"]["conv_0"]["kernel"].shape == (3, 3, 8 + 8, 8)
  assert "attention_in" in params["down_1_0"] and "attention_in" not in params["down_0_0"]
  assert params["output"]["kernel"].shape == (3, 3, 8, 2)


def test_patches_are_channels_of_a_smaller_image(trained):
  _, _, _, (x, sigma, label) = trained
  patches = unet.to_patches(x, 2)
  assert patches.shape == (3, 4, 4, 8)
  np.testing.assert_array_equal(patches[1, 2, 3].reshape(2, 2, 2), x[1, 4:6, 6:8])
  net = make(patch_size=2)
  variables = jax.eval_shape(net.init, jax.random.key(0), x, sigma, label)
  assert variables["params"]["init_conv"]["kernel"].shape == (3, 3, 8, 8)
  assert jax.eval_shape(net.apply, variables, x, sigma, label).shape == x.shape
  with pytest.raises(ValueError, match="can't be divided by 16"):
    jax.eval_shape(make(patch_size=8).init, jax.random.key(0), x, sigma, label)


def test_dropout_is_of_training_alone(trained):
  _, _, moved, (x, sigma, label) = trained
  net = make(dropout=0.5)
  plain = jax.jit(net.apply)(moved, x, sigma, label)
  rngs = {"dropout": jax.random.key(0)}
  dropped = jax.jit(functools.partial(net.apply, train=True))(moved, x, sigma, label, rngs=rngs)
  assert np.abs(np.asarray(dropped - plain)).max() > 1e-3
  np.testing.assert_array_equal(plain, jax.jit(trained[0].apply)(moved, x, sigma, label))


def test_preconditioning_keeps_unit_variance():
  rng = np.random.default_rng(0)
  data, noise = 0.5 * rng.standard_normal(200_000), rng.standard_normal(200_000)
  for sigma in (0.01, 0.5, 20.0):
    skip, out, into, _ = (float(each[0]) for each in denoisers.edm(jnp.array([sigma])))
    noisy = data + sigma * noise
    np.testing.assert_allclose((into * noisy).std(), 1, rtol=0.02)
    np.testing.assert_allclose(((data - skip * noisy) / out).std(), 1, rtol=0.02)


def test_epsilon_predicts_the_noise():
  sigma, noise, image = jnp.array([0.7]), 0.3, 0.2
  skip, out, _, _ = denoisers.epsilon(sigma)
  np.testing.assert_allclose(skip * (image + sigma * noise) + out * noise, image, rtol=1e-6)


def test_a_diffusion_net_is_no_classifier():
  assert not models.is_classifier("unet")
  assert isinstance(make(), nn.Module)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"width": 0}, "width=0"),
    ({"precondition": "edn"}, "did you mean 'edm'"),
    ({"scale": 0.0}, "scale=0.0"),
    ({"multipliers": (1, 0)}, r"multipliers\[1\]=0"),
    ({"num_labels": -1}, "num_labels=-1"),
  ],
)
def test_fields_out_of_range(changes, message):
  with pytest.raises((TypeError, ValueError), match=message):
    make(**changes)


def test_inputs_that_do_not_fit():
  net = make()
  sigma, label = jnp.ones(1), jnp.zeros(1, jnp.int32)
  with pytest.raises(ValueError, match="images of 7 x 8 pixels can't be divided by 2"):
    jax.eval_shape(net.init, jax.random.key(0), jnp.ones((1, 7, 8, 1)), sigma, label)
  with pytest.raises(ValueError, match="label is None: this net was made for 3 classes"):
    jax.eval_shape(net.init, jax.random.key(0), jnp.ones((1, 8, 8, 1)), sigma)
