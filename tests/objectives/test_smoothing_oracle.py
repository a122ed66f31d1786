"""Steps of training for randomized smoothing, beside recorded ones of the reference program."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from rows import mostly_thorough

from jax_robust import models
from jax_robust.models.convert import from_torch, load_arrays, to_torch
from jax_robust.objectives import noise_attacks
from jax_robust.objectives.gaussian import stability_loss
from jax_robust.objectives.macer import macer_loss
from jax_robust.objectives.noisy import log_mean_probs, noisy_copies, split_copies
from jax_robust.objectives.smoothadv import consistency_loss
from jax_robust.objectives.smoothmix import smoothmix_loss
from jax_robust.train.state import make_apply_fn

SIGMA = 0.5


class Recorded:
  """The recorded file, and its net."""

  def __init__(self, path):
    self.file = np.load(path, allow_pickle=False)
    self.net = models.LeNet(num_classes=10)
    shapes = jax.eval_shape(self.net.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    arrays = load_arrays(path, prefix="weights/")
    self.params = from_torch(arrays, shapes, names="lenet")["params"]
    self.x = jnp.asarray(self.file["x_nhwc"])
    self.labels = jnp.asarray(self.file["y"])
    self.targets = jax.nn.one_hot(self.labels, 10)
    self.noises = jnp.asarray(self.file["noises_nhwc"]).swapaxes(0, 1)
    self.apply_fn = make_apply_fn(self.net)

  def options(self, name):
    return json.loads(str(self.file[f"{name}/options"]))

  def logits_fn(self, x):
    return self.apply_fn(self.params, {}, x, train=False)[0]

  def check_gradient(self, name, grads):
    """Norm and sum of the gradient of every parameter."""
    for key, gradient in to_torch({"params": grads}, names="lenet").items():
      norm = self.file[f"{name}/grad_l2/{key}"]
      np.testing.assert_allclose(np.linalg.norm(gradient), norm, rtol=1e-4, err_msg=key)
      scale = norm * np.sqrt(gradient.size)
      expected = self.file[f"{name}/grad_sum/{key}"]
      assert abs(np.sum(gradient, dtype=np.float64) - expected) < 1e-4 * scale, key


@pytest.fixture(scope="module")
def recorded(oracles):
  """The file; its noises are scaled by sigma."""
  found = Recorded(oracles / "smoothing" / "smoothing_steps.npz")
  assert found.file["sigma"] == SIGMA
  return found


def gradient_of(loss_fn, params):
  (loss, (_, metrics)), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params)
  return loss, metrics, grads


SMOOTHMIX = ("smoothmix_mix0", "smoothmix_mix1", "smoothmix_maxnorm")


@functools.partial(jax.jit, static_argnums=0, static_argnames="num_steps")
def smoothmix_step(recorded, params, warmup_factor, eta, **options):
  """Loss and metrics, the gradients, and the ends of the attack, in one program for all options."""
  radius = options["alpha"] * options["mix_step"]

  def loss_fn(params):
    return smoothmix_loss(
      recorded.apply_fn, params, {}, recorded.x, recorded.targets, recorded.noises,
      jnp.asarray(recorded.file["lambda"]), warmup_factor=warmup_factor, eta=eta,
      maxnorm_s=radius, **options,
    )  # fmt: skip

  (loss, (_, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
  ends = noise_attacks.unrestricted_attack(
    recorded.logits_fn, recorded.x, recorded.labels, recorded.noises,
    maxnorm_s=radius * warmup_factor, **options,
  )  # fmt: skip
  return loss, metrics, grads, ends


@pytest.mark.parametrize("name", mostly_thorough(SMOOTHMIX, "smoothmix_mix1"))
def test_recorded_steps_agree(recorded, name):
  """The attack's ends too."""
  options = recorded.options(name)
  loss, metrics, grads, ends = smoothmix_step(
    recorded, recorded.params, options["warmup_factor"], options["eta"], alpha=options["alpha"],
    num_steps=options["steps"], mix_step=options["mix_step"], maxnorm=options.get("maxnorm"),
  )  # fmt: skip
  np.testing.assert_allclose(loss, recorded.file[f"{name}/loss"], rtol=1e-4)
  np.testing.assert_allclose(metrics["cross_entropy"], recorded.file[f"{name}/xent"], rtol=1e-4)
  np.testing.assert_allclose(metrics["mixed"], recorded.file[f"{name}/mix_term"], rtol=1e-4)
  assert metrics["smoothed_accuracy"] * 24 == recorded.file[f"{name}/num_correct"]
  recorded.check_gradient(name, grads)
  np.testing.assert_allclose(ends.start, recorded.file[f"{name}/clean_end_nhwc"], atol=1e-4)
  expected = recorded.file[f"{name}/adversarial_end_nhwc"]
  np.testing.assert_allclose(ends.adversarial, expected, atol=1e-3)


def test_recorded_step_agrees_for_consistency(recorded):
  name = "consistency_lbd10_eta0.5"
  loss, metrics, grads = gradient_of(
    lambda params: consistency_loss(
      recorded.apply_fn, params, {}, recorded.x, recorded.targets, recorded.noises, lbd=10, eta=0.5
    ),
    recorded.params,
  )
  np.testing.assert_allclose(loss, recorded.file[f"{name}/loss"], rtol=1e-4)
  regulariser = 10 * metrics["divergence"] + 0.5 * metrics["entropy"]
  np.testing.assert_allclose(regulariser, recorded.file[f"{name}/regulariser"], rtol=1e-4)
  recorded.check_gradient(name, grads)


def test_recorded_step_agrees_for_stability(recorded):
  loss, _, grads = gradient_of(
    lambda params: stability_loss(
      recorded.apply_fn, params, {}, recorded.x, recorded.targets, recorded.noises[:, :1], lbd=2
    ),
    recorded.params,
  )
  np.testing.assert_allclose(loss, recorded.file["stability_lbd2/loss"], rtol=1e-4)
  recorded.check_gradient("stability_lbd2", grads)


def test_recorded_step_agrees_for_macer(recorded):
  noises = SIGMA * recorded.file["macer/unit_noise_nhwc"].reshape(24, 16, 28, 28, 1)
  _, metrics, grads = gradient_of(
    lambda params: macer_loss(
      recorded.apply_fn, params, {}, recorded.x, recorded.targets, jnp.asarray(noises),
      sigma=SIGMA, lbd=6.0, beta=16.0, margin=8.0,
    ),
    recorded.params,
  )  # fmt: skip
  classification, robustness = recorded.file["macer_lbd6_k16/returned"]
  np.testing.assert_allclose(metrics["classification"], classification, rtol=1e-4)
  np.testing.assert_allclose(metrics["robustness"], robustness, rtol=1e-4)
  recorded.check_gradient("macer_lbd6_k16", grads)


@pytest.mark.parametrize("method", mostly_thorough(["pgd", "ddn"], "pgd"))
def test_smoothadv_attacks(recorded, method):
  """Iterated attacks drift: compared are the losses that they reach, and the distances."""
  options = recorded.options(f"smoothadv_{method}")
  attack = getattr(noise_attacks, f"smoothadv_{method}")
  keys = jax.random.split(jax.random.key(0), 24)
  attack = functools.partial(attack, epsilon=options["max_norm"], num_steps=options["steps"])
  x_adv = jax.jit(attack, static_argnums=0)(
    recorded.logits_fn, recorded.x, recorded.labels, recorded.noises, keys
  )
  theirs = recorded.x + recorded.file[f"smoothadv_{method}/delta_nhwc"]

  @jax.jit
  def log_probs(point):
    outputs = split_copies(recorded.logits_fn(noisy_copies(point, recorded.noises)), 2)
    return log_mean_probs(outputs)

  def loss(point):
    return -np.take_along_axis(np.asarray(log_probs(point)), recorded.file["y"][:, None], 1)

  assert_close(loss(x_adv), loss(theirs), 5e-5)
  distance, expected = (
    np.linalg.norm((p - recorded.x).reshape(24, -1), axis=1) for p in (x_adv, theirs)
  )
  np.testing.assert_allclose(distance, expected, atol=2e-3)
