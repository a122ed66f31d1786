"""Denoise, then classify: a smoothed model of a classifier that was never trained under noise."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from jax_robust.errors import check_function, check_sigma
from jax_robust.nets.denoisers import NO_LABEL
from jax_robust.nets.randomised import takes_rng
from jax_robust.types import LogitsFn


def denoised(logits_fn: LogitsFn, denoise_fn: Callable[..., Array], *, sigma: float) -> LogitsFn:
  """Puts a denoiser in front of a classifier, to be smoothed by noise of that sigma.

  The classifier sees the denoiser's image, cut to [0, 1]. What is certified is the whole function:
  the certificate holds whatever the denoiser does, and is the better the better it denoises.

  Args:
    logits_fn: `x -> logits`, or `(x, rng) -> logits`, for images in [0, 1].
    denoise_fn: `(x, sigma, label) -> image`, such as `models.UNet` in eval mode, with sigma `[b]`
      in units of the image; it is told no label (`nets.denoisers.NO_LABEL`).
    sigma: of the noise that smoothing adds, above 0, in units of the image. Nothing has to be
      scaled: a denoiser takes images with that noise as they are.

  Returns:
    A classifier of noisy images, for `smoothing.Sampler`, of the same parameters as `logits_fn`.

  Raises:
    TypeError, ValueError: one that is no function; sigma not above 0, or of a 0-255 scale.

  Reference: Salman et al., 2020, "Denoised Smoothing: A Provable Defense for Pretrained
  Classifiers"; with a diffusion model: Carlini et al., 2022, "(Certified!!) Adversarial Robustness
  for Free!".

  >>> halve = lambda x, sigma, label: x / (1 + sigma[:, None])
  >>> model = denoised(lambda x: x @ jnp.eye(2), halve, sigma=1.0)
  >>> model(jnp.array([[0.5, 3.0]])).tolist()
  [[0.25, 1.0]]
  """
  check_function(" (x, sigma, label) that returns images", denoise_fn=denoise_fn)
  check_sigma(sigma)

  def clean(x):
    level = jnp.full(len(x), sigma, x.dtype)
    return jnp.clip(denoise_fn(x, level, jnp.full(len(x), NO_LABEL, jnp.int32)), 0, 1)

  if takes_rng(logits_fn):
    return lambda x, rng: logits_fn(clean(x), rng)
  return lambda x: logits_fn(clean(x))
