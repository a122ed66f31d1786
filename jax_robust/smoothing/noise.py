"""Gaussian noise, and the program that counts a model's votes on noisy copies of images.

Draws come in chunks: 100 draws of one image, whose key is

    fold_in(fold_in(fold_in(rng, id of the image), stage), number of the chunk).

A chunk is always drawn whole, also where fewer of its draws count. So draws depend neither on the
size of batches, nor on their order, nor on devices; those of 1,000 are the first of those of
100,000; and any chunk can be drawn again by itself.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt32

from jax_robust.errors import check_images
from jax_robust.nets.constants import Lifted

CHUNK = 100
"""Draws that share a key. Results depend on it: it is part of the method, not an option."""

SELECTION, ESTIMATION, PREDICTION = 0, 1, 2
"""Stages: votes that select a class, votes that bound its probability, votes of PREDICT."""


class Rows(NamedTuple):
  """One batch for the device: each row is a chunk.

  Attributes:
    x: the images, float32.
    ids: of the images.
    stages: `SELECTION`, `ESTIMATION` or `PREDICTION`.
    chunks: numbers, from 0 in each stage.
    num_draws: how many of the chunk's draws count, 0 to 100.
  """

  x: Float[Any, "r *dims"]
  ids: UInt32[Any, " r"]
  stages: UInt32[Any, " r"]
  chunks: UInt32[Any, " r"]
  num_draws: Int[Any, " r"]


class Noise(NamedTuple):
  """A distribution of noise.

  Attributes:
    check: raises on images `[n, ...]` that it does not accept.
    parameters: `sigma -> arrays`, what a draw needs of sigma, of the same shapes for most sigmas.
    draw: `(parameters, key, image [...]) -> [100, ...]`, noisy copies of an image, float32.
    total_variation: `(sigma, num_pixels)`: bound on the total variation distance to Gaussian noise
      on one image (after rounding, where the model rounds); 0 where no bound is claimed.
  """

  check: Callable[[np.ndarray], None]
  parameters: Callable[[float], Any]
  draw: Callable[[Any, Array, Array], Array]
  total_variation: Callable[[float, int], float]


def _draw_gaussian(sigma: Array | np.float32, key: Array, image: Array) -> Array:
  """Noisy copies of an image; float32 whatever the model's precision: bfloat16 normals take 128
  values.
  """
  normal = jax.random.normal(key, (CHUNK, *image.shape), jnp.float32)
  return image[None] + sigma * normal


GAUSSIAN = Noise(check_images, np.float32, _draw_gaussian, lambda sigma, pixels: 0.0)
"""`x + sigma * normal` in float32, as is usual.

Its certificates hold for real numbers and true normals. Float32 has finitely many of both, so in
principle a model can tell images apart by the last bits of its input; `SOUND` excludes that.
"""


def chunk_keys(
  rng: Key[Array, ""], ids: UInt32[Any, " r"], stages: UInt32[Any, " r"], chunks: UInt32[Any, " r"]
) -> Key[Array, " r"]:
  """The keys of chunks.

  >>> rng, numbers = jax.random.key(0), np.arange(3, dtype=np.uint32)
  >>> chunk_keys(rng, numbers, numbers * 0, numbers).shape
  (3,)
  """

  def one(id_, stage, chunk):
    return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(rng, id_), stage), chunk)

  return jax.vmap(one)(ids, stages, chunks)


def make_votes(net: Lifted, *, noise: Noise = GAUSSIAN) -> Callable[..., Int[Array, "r k"]]:
  """Builds the function that counts votes, the only one that is compiled.

  Guarantees:
    `votes_are_those_of_single_passes`: a row's counts are those of its first `num_draws` draws.
    `draws_depend_on_the_chunk_only`: noise is the same at every place of every batch.

  Args:
    net: the model, `(constants, x, keys) -> logits`; a randomised one gets a key for every draw.
    noise: its distribution.

  Returns:
    `votes((constants, parameters, rng), rows) -> counts [r, k]`, int32. A draw whose logits are not
    finite votes for no class.
  """

  def votes(shared: tuple[Any, Any, Array], rows: Rows) -> Array:
    constants, parameters, rng = shared
    keys = jax.vmap(jax.random.split)(chunk_keys(rng, rows.ids, rows.stages, rows.chunks))
    draw = jax.vmap(noise.draw, (None, 0, 0))
    noisy = draw(parameters, keys[:, 0], rows.x.astype(jnp.float32))
    net_keys = jax.vmap(lambda key: jax.random.split(key, CHUNK))(keys[:, 1])
    with jax.default_matmul_precision("highest"):
      logits = net.apply(constants, noisy.reshape(-1, *rows.x.shape[1:]), net_keys.reshape(-1))
    return _count(logits.reshape(-1, CHUNK, logits.shape[-1]), rows.num_draws)

  return votes


def _count(logits: Array, num_draws: Array) -> Array:
  """Votes by class, `[r, k]`, of logits `[r, 100, k]`; ties go to the lowest class."""
  counted = jnp.arange(CHUNK)[None] < num_draws[:, None]
  counted &= jnp.all(jnp.isfinite(logits), axis=-1)
  is_top = jnp.argmax(logits, axis=-1)[:, :, None] == jnp.arange(logits.shape[-1])[None, None]
  return jnp.sum(is_top & counted[:, :, None], axis=1, dtype=jnp.int32)
