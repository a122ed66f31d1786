"""The objective of diffusion models: its levels, its weights, its rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jax_robust.nets import denoisers
from jax_robust.objectives.denoising import denoising, draw_ddpm_levels
from jax_robust.types import Progress


def batch(num, seed=0):
  image = jax.random.uniform(jax.random.key(seed), (num, 4, 4, 1))
  return {"image": image, "label": jnp.arange(num) % 3}


def run(denoise, data, rng=None, **options):
  """The objective of a net `denoise(x, sigma, label)`, and what it was asked."""
  asked = {}

  def apply_fn(params, model_state, x, sigma, label, *, train, rng):
    asked.update(x=x, sigma=sigma, label=label, train=train)
    return denoise(x, sigma, label), model_state

  rng = jax.random.split(jax.random.key(5), len(data["image"])) if rng is None else rng
  loss, (state, metrics) = denoising(apply_fn, {}, {}, data, rng, Progress(0, 0.0), **options)
  assert state == {}
  return loss, metrics, asked


def test_a_net_that_knows_the_image_has_no_loss():
  data = batch(8)
  loss, metrics, asked = run(lambda x, sigma, label: data["image"], data)
  assert loss == 0 and metrics["squared_error"] == 0 and asked["train"]
  np.testing.assert_array_equal(asked["label"], data["label"])


@pytest.mark.parametrize("name", denoisers.PRECONDITIONINGS)
def test_the_loss_is_that_of_the_net_behind_the_denoiser(name):
  data = batch(16)
  f = 0.3

  def denoise(x, sigma, label):
    factors = denoisers.PRECONDITIONINGS[name](sigma / 0.5)
    skip, out = (each.reshape(-1, 1, 1, 1) for each in factors[:2])
    return 0.5 + 0.5 * (skip * (x - 0.5) / 0.5 + out * f)

  loss, _, asked = run(denoise, data, precondition=name)
  factors = denoisers.PRECONDITIONINGS[name](asked["sigma"] / 0.5)
  skip, out = (np.float64(each).reshape(-1, 1, 1, 1) for each in factors[:2])
  u, clean = ((np.float64(each) - 0.5) / 0.5 for each in (asked["x"], data["image"]))
  np.testing.assert_allclose(loss, np.mean((f - (clean - skip * u) / out) ** 2), rtol=2e-3)
  if name == "epsilon":  # the target is the noise
    noise = (u - clean) / (np.float64(asked["sigma"]).reshape(-1, 1, 1, 1) / 0.5)
    np.testing.assert_allclose(loss, np.mean((f - noise) ** 2), rtol=2e-3)


def test_levels_of_edm_are_lognormal():
  data = batch(3000)
  _, _, asked = run(lambda x, sigma, label: x, data, log_mean=-0.7, log_std=0.9, scale=0.25)
  levels = (np.log(np.float64(asked["sigma"]) / 0.25) + 0.7) / 0.9
  assert scipy.stats.kstest(levels, "norm").pvalue > 0.01
  noise = np.asarray(asked["x"] - data["image"]) / np.asarray(asked["sigma"]).reshape(-1, 1, 1, 1)
  assert scipy.stats.kstest(noise.reshape(-1)[::7], "norm").pvalue > 0.01


def test_levels_of_ddpm_are_those_of_uniform_timesteps():
  found = np.asarray(draw_ddpm_levels(jax.random.split(jax.random.key(0), 20_000)))
  timesteps = np.searchsorted(denoisers.DDPM_SIGMAS, found - 1e-6 * found)
  np.testing.assert_allclose(denoisers.DDPM_SIGMAS[timesteps], found, rtol=1e-5)
  counts = np.bincount(timesteps // 100, minlength=10)
  assert scipy.stats.chisquare(counts).pvalue > 0.01


def test_a_row_is_noised_by_its_own_key():
  data, keys = batch(6), jax.random.split(jax.random.key(2), 6)
  _, _, whole = run(lambda x, sigma, label: x, data, keys)
  part = {name: values[2:4] for name, values in data.items()}
  _, _, found = run(lambda x, sigma, label: x, part, keys[2:4])
  for name in ("x", "sigma"):
    np.testing.assert_array_equal(found[name], whole[name][2:4])


def test_labels_are_dropped_in_their_share():
  data = batch(2000)
  _, _, asked = run(lambda x, sigma, label: x, data, label_dropout=0.2)
  dropped = np.asarray(asked["label"]) == denoisers.NO_LABEL
  assert scipy.stats.binomtest(int(dropped.sum()), 2000, 0.2).pvalue > 0.01
  np.testing.assert_array_equal(asked["label"][~dropped], data["label"][~dropped])
  plain = run(lambda x, sigma, label: x, data)[2]
  np.testing.assert_array_equal(asked["x"], plain["x"])


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"precondition": "edn"}, "did you mean 'edm'"),
    ({"log_std": 0.0}, "log_std=0.0"),
    ({"scale": -1.0}, "scale=-1.0"),
    ({"log_mean": "much"}, "log_mean='much'"),
    ({"label_dropout": 1.5}, "label_dropout=1.5"),
  ],
)
def test_bad_options(options, message):
  with pytest.raises((TypeError, ValueError), match=message):
    run(lambda x, sigma, label: x, batch(2), **options)
