"""Variables without compiling an initialisation, which takes longer than the nets themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def _shapes_of(net, image_shape=(32, 32, 3)):
  init = net.init if hasattr(net, "init") else net
  return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, *image_shape)))


@pytest.fixture(scope="session")
def shapes_of():
  """`shapes_of(net, image_shape)`: the shapes of the variables of a net, or of an init function."""
  return _shapes_of


@pytest.fixture(scope="session")
def draw_variables():
  """`draw_variables(net, image_shape)`: variables of ordinary sizes, in NumPy."""

  def draw(net, image_shape=(8, 8, 3)):
    rng = np.random.default_rng(0)

    def one(path, leaf):
      if jnp.issubdtype(leaf.dtype, jnp.integer):
        return np.asarray(rng.integers(1, 100, leaf.shape), leaf.dtype)
      name, fan_in = path[-1].key, np.prod(leaf.shape[:-1])
      draws = rng.normal(size=leaf.shape)
      values = {"var": np.exp(draws), "kernel": draws / np.sqrt(fan_in)}.get(name, draws)
      return np.asarray(values, leaf.dtype)

    return jax.tree.map_with_path(one, _shapes_of(net, image_shape))

  return draw
