"""Samplers of diffusion models: from noise to images, by any denoiser.

A denoiser is a function `(x, sigma, label) -> [b, ...]`, the mean of the images given
`x = image + sigma noise`, with `sigma` `[b]` in units of the image. Each sample has a key of its
own, so it depends neither on the others nor on their number.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jax_robust.errors import check_count, check_name, check_positive, check_weight, shown
from jax_robust.nets.denoisers import DDPM_SIGMAS, NO_LABEL
from jax_robust.types import Rng, as_keys, fold, normals

Denoiser: TypeAlias = Callable[[Array, Array, Any], Array]

VARIANCES = ("large", "small")


def edm_sigmas(
  num_steps: int,
  *,
  sigma_min: float = 0.002,
  sigma_max: float = 80.0,
  rho: float = 7.0,
  scale: float = 0.5,
) -> np.ndarray:
  """Noise levels of EDM's sampler, float64 `[num_steps + 1]`, falling, the last one 0.

  `sigma_i = scale (sigma_max^(1/rho) + i / (num_steps - 1) (sigma_min^(1/rho) -
  sigma_max^(1/rho)))^rho`.

  Args:
    num_steps: at least 2.
    sigma_min, sigma_max, rho: as published, for images in [-1, 1].
    scale: such a unit, in units of the image.

  Raises:
    TypeError, ValueError: fewer than 2 steps, or a number that is not above 0.

  Reference: Karras et al., 2022, equation 5.

  >>> edm_sigmas(3).round(3).tolist()
  [40.0, 1.258, 0.001, 0.0]
  """
  check_count(2, num_steps=num_steps)
  check_positive(sigma_min=sigma_min, sigma_max=sigma_max, rho=rho, scale=scale)
  first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
  levels = (first + np.arange(num_steps) / (num_steps - 1) * (last - first)) ** rho
  return np.append(scale * levels, 0.0)


def ddpm_sigmas(num_steps: int = 1000, *, scale: float = 0.5) -> np.ndarray:
  """Noise levels of DDPM's sampler, float64 `[num_steps + 1]`, falling, the last one 0.

  They are those of `num_steps` of the 1,000 timesteps, evenly spaced from 999 to 0.

  Args:
    num_steps: from 2 to 1,000.
    scale: one published unit, in units of the image.

  Raises:
    TypeError, ValueError: another number of steps; a scale that is not above 0.

  >>> ddpm_sigmas(3).round(3).tolist()
  [78.704, 1.721, 0.005, 0.0]
  """
  check_count(2, num_steps=num_steps)
  check_positive(scale=scale)
  if num_steps > len(DDPM_SIGMAS):
    raise ValueError(f"num_steps={num_steps}: DDPM has 1,000 timesteps; take at most as many")
  timesteps = np.rint(np.linspace(len(DDPM_SIGMAS) - 1, 0, num_steps)).astype(int)
  return np.append(scale * DDPM_SIGMAS[timesteps], 0.0)


def start(keys: Key[Array, " b"], shape: tuple[int, ...], sigma: Any) -> Float[Array, "b *dims"]:
  """The noise `[b, *shape]` that samplers start from, of standard deviation sigma, around 1/2."""
  return 0.5 + sigma * normals(keys, shape)


def heun_step(denoise_fn: Denoiser, x: Array, label: Any, sigma: Any, then: Any) -> Array:
  """One step of EDM's sampler, from a noise level to the next one, which is above 0.

  The trapezium of the slopes `(x - D(x, sigma)) / sigma` at both levels: two queries.

  Reference: Karras et al., 2022, algorithm 1.
  """
  slope = (x - denoise_fn(x, _rows(x, sigma), label)) / sigma
  there = x + (then - sigma) * slope
  slope_there = (there - denoise_fn(there, _rows(x, then), label)) / then
  return x + (then - sigma) * (slope + slope_there) / 2


def euler_step(denoise_fn: Denoiser, x: Array, label: Any, sigma: Any, then: Any) -> Array:
  """One step of DDIM's deterministic sampler, which is Euler's; to level 0 it is the denoiser."""
  denoised = denoise_fn(x, _rows(x, sigma), label)
  return denoised + then / sigma * (x - denoised)


def ancestral_step(
  denoise_fn: Denoiser,
  x: Array,
  label: Any,
  sigma: Any,
  then: Any,
  *,
  keys: Key[Array, " b"],
  variance: str = "large",
  scale: float = 0.5,
) -> Array:
  """One step of DDPM's sampler: a draw from what the next level may be, given the denoised image.

  Args:
    denoise_fn, x, label: the denoiser and its inputs.
    sigma, then: the level of x, and the next one.
    keys: `[b]`, for the noise.
    variance: 'small' is that of the next level given this one and the image, 'large' that of the
      forward process, with which DDPM's samples of CIFAR-10 were made. They differ in the last
      steps only.
    scale: one published unit, in units of the image, on which the large one depends.

  Reference: Ho et al., 2020, section 3.2, in the variable x / sqrt(a) and with steps left out.
  """
  check_name("variance", variance, VARIANCES)
  denoised = denoise_fn(x, _rows(x, sigma), label)
  factor = then**2 / sigma**2
  if variance == "large":
    factor = (1 + (then / scale) ** 2) / (1 + (sigma / scale) ** 2)
  spread = jnp.where(then > 0, (sigma**2 - then**2) * factor, 0.0)
  noise = jnp.sqrt(spread) * normals(keys, x.shape[1:])
  return denoised + (then / sigma) ** 2 * (x - denoised) + noise


def guided(denoise_fn: Denoiser, weight: float) -> Denoiser:
  """A denoiser that goes further towards the label: `none + weight (told - none)`.

  `told` is what it finds when told the label, `none` when told none (`nets.denoisers.NO_LABEL`),
  which it must have been trained for. Both are asked for in one query of twice the batch.

  Args:
    denoise_fn: the denoiser.
    weight: 1 leaves it as it is, above 1 labels are clearer and samples less different.

  Raises:
    TypeError, ValueError: a weight that is not at least 0.

  Reference: Ho and Salimans, 2022, "Classifier-Free Diffusion Guidance", whose w is `weight - 1`.
  """
  check_weight(weight=weight)
  if weight == 1:
    return denoise_fn

  def denoise(x, sigma, label):
    label = jnp.asarray(label)
    labels = jnp.concatenate([label, jnp.full_like(label, NO_LABEL)])
    found = denoise_fn(jnp.concatenate([x, x]), jnp.concatenate([sigma, sigma]), labels)
    told, none = found[: len(x)], found[len(x) :]
    return none + weight * (told - none)

  return denoise


SAMPLERS = ("heun", "ddim", "ddpm")
"""EDM's deterministic sampler, DDIM's, and DDPM's with random steps."""


def advance(
  denoise_fn: Denoiser,
  x: Array,
  label: Any,
  keys: Key[Array, " b"],
  number: Any,
  sigma: Any,
  then: Any,
  *,
  sampler: str,
  is_last: bool,
  variance: str = "large",
  scale: float = 0.5,
) -> Array:
  """Step `number` of a sampler, from level sigma to `then`, which is 0 in the last one."""
  if sampler == "heun" and not is_last:
    return heun_step(denoise_fn, x, label, sigma, then)
  if sampler == "ddpm":
    return ancestral_step(
      denoise_fn, x, label, sigma, then, keys=fold(keys, number + 1), variance=variance, scale=scale
    )
  return euler_step(denoise_fn, x, label, sigma, then)


def sample(
  denoise_fn: Denoiser,
  rng: Rng,
  label: Int[Array, " b"] | None,
  *,
  shape: tuple[int, ...],
  sigmas: Sequence[float] | np.ndarray,
  sampler: str = "heun",
  variance: str = "large",
  scale: float = 0.5,
) -> Float[Array, "b *dims"]:
  """Draws images from a diffusion model.

  The loop over noise levels is one of Python: under `jax.jit` it is unrolled as a whole. Outside,
  give a `denoise_fn` that is jitted.

  Guarantees:
    `mixture_passes_two_sample_tests`: with the exact denoiser of a mixture of Gaussians, samples
      can't be told from draws of that mixture, by every sampler.
    `samples_do_not_depend_on_one_another`: each is that of its key, however many are drawn.

  Args:
    denoise_fn: `(x, sigma, label) -> denoised`; see the module.
    rng: a key for each sample; see `types.as_keys`.
    label: classes `[b]`, handed on.
    shape: of one image.
    sigmas: falling noise levels in units of the image, the last one 0: `edm_sigmas` for 'heun' and
      'ddim', `ddpm_sigmas` for 'ddpm' and 'ddim'.
    sampler: a name in `SAMPLERS`.
    variance, scale: of 'ddpm'; see `ancestral_step`.

  Returns:
    Images around [0, 1], not clipped.

  Raises:
    TypeError, ValueError: an unknown sampler or variance; levels that do not fall to 0; another
      number of keys than of labels.
  """
  check_name("sampler", sampler, SAMPLERS)
  check_name("variance", variance, VARIANCES)
  levels = check_levels(sigmas)
  keys = as_keys(rng, len(rng if label is None else label))
  x = start(fold(keys, 0), shape, levels[0])
  for number, (sigma, then) in enumerate(itertools.pairwise(levels)):
    x = advance(
      denoise_fn, x, label, keys, number, sigma, then,
      sampler=sampler, is_last=then == 0, variance=variance, scale=scale,
    )  # fmt: skip
  return x


def check_levels(sigmas: Sequence[float] | np.ndarray) -> np.ndarray:
  """Noise levels as float32.

  Raises:
    ValueError: fewer than two, or they do not fall to 0.
  """
  levels = np.asarray(sigmas, np.float32)
  if levels.ndim != 1 or len(levels) < 2 or levels[-1] != 0 or not (np.diff(levels) < 0).all():
    raise ValueError(f"sigmas={shown(sigmas)}: expected falling noise levels, the last one 0")
  return levels


def _rows(x: Array, sigma: Any) -> Float[Array, " b"]:
  """A noise level for each row."""
  return jnp.full(len(x), sigma, jnp.float32)
