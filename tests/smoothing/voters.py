"""Classifiers for the tests of smoothing, and devices to run them on."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust.nets.devices import Devices
from jax_robust.train import parallel

WEIGHTS = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
"""Of a linear net on 4 x 4 x 1 pixels with five classes."""

SHAPE = (4, 4, 1)
KEY = jax.random.key(0)


def linear(x):
  """Five classes around the middle of the box."""
  return (x.reshape(x.shape[0], -1) - 0.5) @ WEIGHTS


def noisy(x, rng):
  """A randomised net: linear logits of images that it adds noise to."""
  return linear(x + 0.1 * jax.random.normal(rng, x.shape))


def two_classes(x):
  """Whether the first pixel is above one half."""
  first = x.reshape(x.shape[0], -1)[:, 0] - 0.5
  return jnp.stack([-first, first], axis=1)


def images(num=6):
  """Images around the middle of the box."""
  return np.random.default_rng(1).uniform(0.1, 0.9, (num, *SHAPE)).astype(np.float32)


def over_devices(count, mode="jit"):
  """Rows spread over `count` devices as the jobs spread them."""
  mesh = parallel.data_mesh(count, devices=jax.devices()[:count])
  return Devices(
    compile_fn=lambda fn: parallel.map_step(lambda axis: fn, mesh, mode=mode, per_row=True),
    place=lambda rows: parallel.shard_batch(rows, mesh),
    share=lambda tree: parallel.replicate(tree, mesh),
    count=count,
  )
