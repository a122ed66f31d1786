"""How well a diffusion net denoises, by noise level."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jax_robust.errors import check_images, check_sigma
from jax_robust.types import Images, Rng, as_keys, fold, normals

_NOISE = 0xDE901  # a number for the noise's keys


def denoising_error(
  denoise_fn: Callable[..., Array],
  x: Images,
  labels: Any,
  keys: Rng,
  *,
  sigmas: Sequence[float] = (0.1, 0.25, 0.5, 1.0),
) -> dict[str, Array]:
  """The root mean square, over an image's pixels, of the denoised minus the true image.

  Without a net it is sigma itself (the noisy image), or the standard deviation of the pixels (the
  mean image): a net that has learned something is below both.

  Args:
    denoise_fn: `(x, sigma, label) -> denoised`, such as `models.UNet` in eval mode.
    x: images in [0, 1].
    labels: their classes, integers `[b]`, which the net is told.
    keys: one key per image, or one for all: see `types.as_keys`.
    sigmas: noise levels, in units of the image; all have the same noise.

  Returns:
    A column `[b]` for each level, called by it.

  Raises:
    TypeError, ValueError: x are no images in [0, 1]; a level that is not above 0.
  """
  check_images(x)
  x = jnp.asarray(x)
  noise = normals(fold(as_keys(keys, len(x)), _NOISE), x.shape[1:], x.dtype)
  found = {}
  for sigma in sigmas:
    check_sigma(sigma)
    level = jnp.full(len(x), sigma, jnp.float32)
    error = denoise_fn(x + sigma * noise, level, jnp.asarray(labels)) - x
    found[f"{sigma:g}"] = jnp.sqrt(jnp.mean(error.reshape(len(x), -1) ** 2, axis=1))
  return found
