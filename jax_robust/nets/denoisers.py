"""From a diffusion net to a denoiser: how input, output and noise level are scaled.

A denoiser `D(x, sigma)` gives the mean of the image, given `x = image + sigma noise`. With
`u = (x - mean) / scale` and `s = sigma / scale`, the units in which recipes are published, it is
`D = mean + scale (c_skip u + c_out F(c_in u, c_noise))` of a net F.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

NO_LABEL = -1
"""The label of an image of which a net is told none."""

SIGMA_DATA = 0.5
"""Standard deviation of the pixels in the published units, [-1, 1], as EDM supposes it."""


class Preconditioning(NamedTuple):
  """The factors of a noise level, `[b]` each; see the module."""

  c_skip: Float[Array, " b"]
  c_out: Float[Array, " b"]
  c_in: Float[Array, " b"]
  c_noise: Float[Array, " b"]


def edm(sigma: Float[Array, " b"]) -> Preconditioning:
  """EDM's factors: input, output and target of F have variance 1, and errors of F count least.

  Args:
    sigma: noise levels in the published units, above 0.

  Reference: Karras et al., 2022, "Elucidating the Design Space of Diffusion-Based Generative
  Models", table 1.

  >>> [round(float(each[0]), 4) for each in edm(jnp.array([0.5]))]
  [0.5, 0.3536, 1.4142, -0.1733]
  """
  total = sigma**2 + SIGMA_DATA**2
  return Preconditioning(
    SIGMA_DATA**2 / total,
    sigma * SIGMA_DATA / jnp.sqrt(total),
    1 / jnp.sqrt(total),
    jnp.log(sigma) / 4,
  )


def epsilon(sigma: Float[Array, " b"]) -> Preconditioning:
  """DDPM's factors: F predicts the noise of `u / sqrt(1 + s^2)`, and is told the timestep.

  Args:
    sigma: noise levels in the published units, above 0.

  Reference: Ho et al., 2020, "Denoising Diffusion Probabilistic Models"; in this form Karras et
  al., 2022, table 1.

  >>> [round(float(each[0]), 3) for each in epsilon(jnp.array([1.0]))]
  [1.0, -1.0, 0.707, 258.09...]
  """
  ones = jnp.ones_like(sigma)
  return Preconditioning(ones, -sigma, 1 / jnp.sqrt(sigma**2 + 1), ddpm_timestep(sigma))


PRECONDITIONINGS: dict[str, Callable[[Float[Array, " b"]], Preconditioning]] = {
  "edm": edm,
  "epsilon": epsilon,
}
"""The factors by name."""


def _ddpm_sigmas() -> np.ndarray:
  """Noise levels of DDPM's timesteps, in the published units: sqrt((1 - a) / a).

  a is the product of `1 - beta`, with 1,000 betas from .0001 to .02.
  """
  kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
  return np.sqrt((1 - kept) / kept)


DDPM_SIGMAS = _ddpm_sigmas()
"""Noise levels of DDPM's timesteps 0 to 999, in the published units: .01 to 157."""


def ddpm_timestep(sigma: Float[Array, " b"]) -> Float[Array, " b"]:
  """The timestep of a noise level, linear in its logarithm between two; at most 0 to 999.

  >>> ddpm_timestep(jnp.array([0.01, 3.42413662, 1e9])).round(2).tolist()
  [0.0, 499.0, 999.0]
  """
  levels = jnp.asarray(np.log(DDPM_SIGMAS), sigma.dtype)
  return jnp.interp(jnp.log(sigma), levels, jnp.arange(len(DDPM_SIGMAS), dtype=sigma.dtype))


def log_frequencies(num: int) -> Float[Array, " num"]:
  """The `num` frequencies of a sinusoidal embedding, from 1 down to 1/10,000."""
  return jnp.exp(-math.log(1e4) * jnp.arange(num) / max(num - 1, 1))
