"""Small problems in float64 that the tests of this folder run in every mode."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_robust import attacks, models, objectives
from jax_robust.data import augment
from jax_robust.train import optim, parallel, state, step

NUM_ROWS, NUM_CLASSES, IMAGE = 16, 4, (6, 6, 2)
PGD = {"name": "pgd", "eps": 0.1, "num_steps": 1}
TOLERANCE = 1e-9


def raw_batch(seed=0, num_rows=NUM_ROWS):
  """A batch as the pipelines deliver it."""
  draw = np.random.default_rng(seed)
  return {
    "image": draw.integers(0, 256, (num_rows, *IMAGE), np.uint8),
    "label": draw.integers(0, NUM_CLASSES, num_rows).astype(np.int32),
    "generated": np.arange(num_rows) % 2 == 1,
    "row": np.arange(num_rows, dtype=np.int32),
  }


class Denoiser(nn.Module):
  """A diffusion net of few weights, all of which get a gradient."""

  @nn.compact
  def __call__(self, x, sigma, label, train=False):
    told = nn.Embed(NUM_CLASSES, x.shape[-1])(label)[:, None, None]
    return x + nn.Dense(x.shape[-1])(x) * jnp.tanh(sigma)[:, None, None, None] + told

  def example_inputs(self, image_shape):
    return [jnp.zeros((1, *image_shape)), jnp.ones(1), jnp.zeros(1, jnp.int32)]


def make_net(group_size=None, *, name=""):
  """One convolution with BatchNorm, computing in float64; or a denoiser."""
  if name == "denoising":
    return Denoiser()
  return models.create(
    "small_cnn", num_classes=NUM_CLASSES, channels=(4,), strides=(2,), activation="swish",
    bn_group_size=group_size, bn_momentum=0.9, dtype="float64",
  )  # fmt: skip


@jax.jit
def in_float64(tree):
  """A tree whose floats are float64, so that rounding cannot hide a difference."""

  def cast(leaf):
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

  return jax.tree.map(cast, tree)


def optimizer():
  """SGD with everything on."""
  return optim.make_optimizer(optax.constant_schedule(0.5), weight_decay=1e-2)


def initial_state(net):
  """A train state in float64 whose running statistics are not those of the start."""
  fresh = in_float64(state.create_state(net, optimizer(), state.example_inputs(net, IMAGE), seed=0))
  moved = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 0.25, tree))(fresh.model_state)
  return fresh._replace(model_state=moved)


def make_update(net, objective):
  """`axis_name -> update`, with nothing random but the attack's start."""
  prepare = augment.make_prepare(
    num_classes=NUM_CLASSES, label_smoothing=0.1, pad=0, flip=False, dtype=jnp.float64
  )

  def make(axis_name):
    return step.make_update(
      objective,
      state.make_apply_fn(net, axis_name=axis_name if hasattr(net, "bn_axis_name") else None),
      optimizer(),
      prepare=prepare,
      steps_per_epoch=10.0,
      ema={"decay": 0.9},
      axis_name=axis_name,
    )

  return make


def make_objective(name, **options):
  """An objective with an attack that starts at random."""
  function = objectives.OBJECTIVES[name]
  if "attack" in attacks.recipes.keywords(function):
    loss = "kl_divergence" if name == "trades" else "cross_entropy"
    options["attack"] = attacks.make_attack(**PGD, loss=loss)
  return functools.partial(function, **options)


def place(tree, batch, mesh):
  """State and batch on the devices of a mesh."""
  return parallel.replicate(tree, mesh), parallel.shard_batch(batch, mesh)


def assert_same(actual, expected, rtol=TOLERANCE):
  """Equal trees, floats relative to their array's largest entry."""
  # A bias before BatchNorm has gradient 0: what rounding leaves of it has no scale of its own.
  smallest_scale = 1e-3
  actual, expected = jax.device_get((actual, expected))
  paths, structure = jax.tree_util.tree_flatten_with_path(expected)
  leaves, other = jax.tree.flatten(actual)
  assert structure == other
  for (path, wanted), got in zip(paths, leaves, strict=True):
    name = jax.tree_util.keystr(path)
    assert got.dtype == wanted.dtype and got.shape == wanted.shape, name
    scale = np.max(np.abs(wanted), initial=smallest_scale) if wanted.dtype == np.float64 else 0
    np.testing.assert_allclose(got, wanted, rtol=0, atol=rtol * scale, err_msg=name)
