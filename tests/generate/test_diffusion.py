"""Samplers of diffusion models, on distributions whose denoiser is known exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from rows import mostly_thorough

from jax_robust.generate import diffusion
from jax_robust.nets import denoisers
from jax_robust.nets.denoisers import NO_LABEL

MEANS = np.array([[0.2, 0.3], [0.8, 0.4], [0.5, 0.9]], np.float32)
WEIGHTS = np.array([0.5, 0.3, 0.2], np.float32)
WIDTH = 0.05


def denoise(x, sigma, label):
  """The mean of an image [1, 2, 1] of the mixture, given the noisy one and perhaps its class."""

  def one(x, sigma, label):
    total = sigma**2 + WIDTH**2
    logs = jnp.log(WEIGHTS) - ((x.reshape(1, 2) - MEANS) ** 2).sum(-1) / (2 * total)
    if label is not None:
      logs = jnp.where(jnp.arange(3) == label, 0.0, -jnp.inf)
    mean = jax.nn.softmax(logs) @ MEANS
    return ((sigma**2 * mean + WIDTH**2 * x.reshape(2)) / total).reshape(x.shape)

  return jax.vmap(one, in_axes=(0, 0, None if label is None else 0))(x, sigma, label)


def draws(num, seed):
  rng = np.random.default_rng(seed)
  return MEANS[rng.choice(3, num, p=WEIGHTS)] + WIDTH * rng.standard_normal((num, 2))


SETTINGS = {
  "heun": ("heun", diffusion.edm_sigmas(30), "large"),
  "ddim of edm": ("ddim", diffusion.edm_sigmas(200), "large"),
  "ddim of ddpm": ("ddim", diffusion.ddpm_sigmas(250), "large"),
  "ddpm": ("ddpm", diffusion.ddpm_sigmas(250), "large"),
  "ddpm small": ("ddpm", diffusion.ddpm_sigmas(250), "small"),
}


def sample(rng, label, name):
  sampler, sigmas, variance = SETTINGS[name]
  return diffusion.sample(
    jax.jit(denoise), rng, label, shape=(1, 2, 1), sigmas=sigmas, sampler=sampler, variance=variance
  )


@pytest.mark.parametrize("name", mostly_thorough(SETTINGS, "heun", "ddpm"))
def test_mixture_passes_two_sample_tests(name):
  found = np.asarray(sample(jax.random.split(jax.random.key(0), 4000), None, name)).reshape(-1, 2)
  wanted = draws(4000, seed=1)
  directions = np.array([[1, 0], [0, 1], [1, 1], [1, -1], [2, 1]]) / 1.0
  p_values = [scipy.stats.ks_2samp(found @ d, wanted @ d).pvalue for d in directions]
  assert min(p_values) > 0.01, p_values


def test_a_wrong_denoiser_fails_the_two_sample_test():
  def worse(x, sigma, label):
    return denoise(x, sigma, label) + 0.05

  rng = jax.random.split(jax.random.key(0), 4000)
  found = diffusion.sample(worse, rng, None, shape=(1, 2, 1), sigmas=diffusion.edm_sigmas(30))
  found = np.asarray(found).reshape(-1, 2)
  assert scipy.stats.ks_2samp(found[:, 0], draws(4000, seed=1)[:, 0]).pvalue < 1e-6


@pytest.mark.parametrize("name", ["heun", "ddpm"])
def test_samples_do_not_depend_on_one_another(name):
  keys, label = jax.random.split(jax.random.key(3), 5), jnp.array([0, 1, 2, 1, 0])
  whole = sample(keys, label, name)
  np.testing.assert_allclose(sample(keys[2:4], label[2:4], name), whole[2:4], atol=1e-6)
  assert (np.abs(np.asarray(whole[0] - whole[4])) > 1e-3).any()
  np.testing.assert_allclose(whole.reshape(5, 2), MEANS[label], atol=5 * WIDTH)


@pytest.mark.parametrize("sampler", diffusion.SAMPLERS)
def test_a_unit_twice_as_large_gives_images_twice_as_large(sampler):
  def twice(x, sigma, label):
    return 0.5 + 2 * (denoise(0.5 + (x - 0.5) / 2, sigma / 2, label) - 0.5)

  draw = functools.partial(
    diffusion.sample, rng=jax.random.split(jax.random.key(4), 3), label=None, shape=(1, 2, 1),
    sampler=sampler,
  )  # fmt: skip
  found = draw(twice, sigmas=diffusion.ddpm_sigmas(12, scale=1.0), scale=1.0)
  plain = draw(denoise, sigmas=diffusion.ddpm_sigmas(12, scale=0.5))
  np.testing.assert_allclose(found, 0.5 + 2 * (plain - 0.5), rtol=1e-3, atol=1e-4)


def test_one_step_gives_the_denoised_noise():
  levels = [0.7, 0.0]
  keys = jax.random.split(jax.random.key(0), 3)
  x = diffusion.start(jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys), (1, 2, 1), 0.7)
  wanted = denoise(x, jnp.full(3, 0.7), None)
  for sampler in diffusion.SAMPLERS:
    found = diffusion.sample(denoise, keys, None, shape=(1, 2, 1), sigmas=levels, sampler=sampler)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_levels_of_ddpm_keep_its_first_and_last_timestep():
  every = diffusion.ddpm_sigmas(1000, scale=1.0)
  np.testing.assert_allclose(every[:-1], denoisers.DDPM_SIGMAS[::-1])
  np.testing.assert_allclose(diffusion.ddpm_sigmas(10)[[0, -2]], every[[0, -2]] / 2)
  kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
  np.testing.assert_allclose(1 / (1 + every[0] ** 2), kept[-1], rtol=1e-9)


def test_posterior_of_ddpm():
  """The step's mean and spread are those of Ho et al.'s equations, in x / sqrt(a)."""
  betas = np.linspace(1e-4, 0.02, 1000)
  kept = np.cumprod(1 - betas)
  t, scale = 600, 0.5
  sigma, then = scale * denoisers.DDPM_SIGMAS[t], scale * denoisers.DDPM_SIGMAS[t - 1]
  clean, x = 0.3, 2.0
  keys = jax.random.split(jax.random.key(0), 20_000)
  for variance in diffusion.VARIANCES:
    drawn = diffusion.ancestral_step(
      lambda x, sigma, label: jnp.full_like(x, clean), jnp.full((20_000, 1, 1, 1), x), None,
      np.float32(sigma), np.float32(then), keys=keys, variance=variance,
    )  # fmt: skip
    u, noisy = (clean - 0.5) / scale, (x - 0.5) / scale * np.sqrt(kept[t])
    mean = (
      np.sqrt(kept[t - 1]) * betas[t] * u
      + np.sqrt(1 - betas[t]) * (1 - kept[t - 1]) * noisy
    ) / (1 - kept[t])  # fmt: skip
    spread = betas[t] * (1 if variance == "large" else (1 - kept[t - 1]) / (1 - kept[t]))
    found = (np.asarray(drawn, np.float64) - 0.5) / scale * np.sqrt(kept[t - 1])
    assert abs(found.mean() - mean) < 5 * np.sqrt(spread / 20_000)
    np.testing.assert_allclose(found.var(), spread, rtol=0.05)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: diffusion.edm_sigmas(1), "num_steps=1"),
    (lambda: diffusion.edm_sigmas(5, rho=0.0), "rho=0.0"),
    (lambda: diffusion.ddpm_sigmas(1001), "num_steps=1001: DDPM has 1,000 timesteps"),
    (lambda: bad(sigmas=[1.0, 2.0, 0.0]), "falling noise levels"),
    (lambda: bad(sigmas=[2.0, 1.0]), "the last one 0"),
    (lambda: bad(sampler="heum"), "did you mean 'heun'"),
    (lambda: bad(variance="big"), "variance='big'"),
    (lambda: bad(rng=jax.random.split(jax.random.key(0), 4)), "keys of shape"),
  ],
)
def test_bad_input(call, message):
  with pytest.raises((TypeError, ValueError), match=message):
    call()


def bad(rng=0, **changes):
  options = {"shape": (1, 2, 1), "sigmas": [1.0, 0.0], "sampler": "ddpm", **changes}
  return diffusion.sample(denoise, rng, jnp.array([0, 1]), **options)


def test_guidance_goes_further_towards_the_label():
  def denoise(x, sigma, label):
    return jnp.where(label == NO_LABEL, 1.0, 3.0 + label)[:, None] * x * sigma[:, None]

  x, sigma, label = jnp.ones((3, 2)), jnp.array([1.0, 2.0, 3.0]), jnp.array([0, 1, 1])
  told = diffusion.guided(denoise, 1)(x, sigma, label)
  np.testing.assert_array_equal(told, denoise(x, sigma, label))
  twice = diffusion.guided(denoise, 2.0)(x, sigma, label)
  np.testing.assert_allclose(twice[:, 0], [5, 14, 21])
  np.testing.assert_allclose(diffusion.guided(denoise, 0.0)(x, sigma, label)[:, 0], sigma)
  with pytest.raises(ValueError, match="weight=-1"):
    diffusion.guided(denoise, -1)
