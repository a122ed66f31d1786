"""Denoising: what a diffusion model is trained by."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from jax_robust.errors import as_numbers, check_name, check_positive, check_share
from jax_robust.nets.denoisers import DDPM_SIGMAS, NO_LABEL, PRECONDITIONINGS
from jax_robust.types import ApplyFn, Batch, Progress, fold, normals

_LEVEL, _NOISE, _DROPPED = 0x1E7E1, 0x9015E, 0xD20BBED  # numbers for the keys of what is drawn


def denoising(
  apply_fn: ApplyFn,
  params,
  model_state,
  batch: Batch,
  rng,
  progress: Progress,
  *,
  precondition: str = "edm",
  log_mean: float = -1.2,
  log_std: float = 1.2,
  scale: float = 0.5,
  label_dropout: float = 0.0,
):
  """`mean_i |D(x_i + sigma_i n_i, sigma_i, label_i) - x_i|^2 / (scale c_out(sigma_i))^2`.

  The square is a mean over pixels. Divided by c_out it is the plain error of the net F behind the
  denoiser D (`nets.denoisers`): for 'epsilon' that of the predicted noise.

  Args:
    apply_fn: the net, `(params, model_state, x, sigma, label, train=) -> (denoised, model_state)`,
      such as `models.UNet`.
    params: what the loss is differentiated by.
    model_state: of the net; usually empty.
    batch: `image` `[b, h, w, c]` in [0, 1] and `label` `[b]`.
    rng: one key per example, `[b]`. Dropout takes the first one of a device, so with it a result
      depends on how rows are spread.
    progress: unused.
    precondition: 'edm' draws `log(sigma / scale)` from a normal distribution, 'epsilon' one of
      DDPM's 1,000 timesteps; to be that of the net.
    log_mean, log_std: of that distribution, for 'edm'.
    scale: one published unit, in units of the image: recipes are for images in [-1, 1].
    label_dropout: share of the images of which the net is told no label (`denoisers.NO_LABEL`), so
      that it can be asked without one, and be guided towards one.

  Returns:
    The mean loss, and `(model_state, metrics)`; the metric `squared_error` is the mean square of
    D(x) - image.

  Raises:
    TypeError, ValueError: an unknown `precondition`; log_std or scale is not above 0;
      `label_dropout` outside [0, 1].

  Reference: Karras et al., 2022, "Elucidating the Design Space of Diffusion-Based Generative
  Models"; Ho et al., 2020, "Denoising Diffusion Probabilistic Models"; label_dropout: Ho and
  Salimans, 2022, "Classifier-Free Diffusion Guidance".
  """
  del progress
  check_name("precondition", precondition, PRECONDITIONINGS)
  median = float(np.exp(as_numbers(log_mean, "log_mean")))
  check_positive(log_std=log_std, scale=scale, **{"exp(log_mean)": median})
  check_share(label_dropout=label_dropout)
  image, label = batch["image"], batch["label"]
  if label_dropout:
    label = jnp.where(_draw_dropped(fold(rng, _DROPPED), label_dropout), NO_LABEL, label)
  if precondition == "edm":
    level = jnp.exp(log_mean + log_std * normals(fold(rng, _LEVEL), ()))
  else:
    level = draw_ddpm_levels(fold(rng, _LEVEL))
  noise = normals(fold(rng, _NOISE), image.shape[1:])
  sigma = scale * level
  noisy = image + sigma[:, None, None, None] * noise
  denoised, model_state = apply_fn(params, model_state, noisy, sigma, label, train=True, rng=rng[0])
  squares = jnp.mean((denoised - image) ** 2, axis=(1, 2, 3))
  loss = jnp.mean(squares / (scale * PRECONDITIONINGS[precondition](level).c_out) ** 2)
  return loss, (model_state, {"squared_error": jnp.mean(squares)})


def _draw_dropped(keys: Key[Array, " b"], share: float) -> Bool[Array, " b"]:
  """Of which images the net is told no label."""
  return jax.vmap(lambda key: jax.random.bernoulli(key, share))(keys)


def draw_ddpm_levels(keys: Key[Array, " b"]) -> Float[Array, " b"]:
  """The noise levels of uniform timesteps of DDPM, in the published units; one key each."""
  timesteps = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(DDPM_SIGMAS)))(keys)
  return jnp.asarray(DDPM_SIGMAS, np.float32)[timesteps]
