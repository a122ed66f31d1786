"""The FGSM family: what tells its members apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import attacks, losses
from jax_robust.types import as_keys

pytestmark = pytest.mark.fast

KEY = jax.random.key(0)
EPS = 0.05


def linear(x):
  """d loss / d x > 0 on the first half of the pixels and < 0 on the others, against label 0."""
  score = jnp.sum(x[:, :50], axis=1) - jnp.sum(x[:, 50:], axis=1)
  return jnp.stack([jnp.zeros_like(score), score], axis=1)


SIGN = np.array([1.0] * 50 + [-1.0] * 50)[None]


def jitted(attack, logits_fn=linear, **options):
  """`attack(x, labels)` with one key."""
  return jax.jit(lambda x, labels: attack(logits_fn, x, labels, KEY, **options))


def grey(num_rows=4):
  return jnp.full((num_rows, 100), 0.5), jnp.zeros(num_rows, jnp.int32)


def test_fgsm_takes_one_step_of_eps_from_x():
  x, labels = grey()
  options = {"ball": attacks.linf_ball(EPS), "loss_fn": losses.margin}
  attack = lambda **more: jitted(attacks.fgsm, **options, **more)(x, labels)  # noqa: E731
  np.testing.assert_allclose(attack() - x, np.tile(EPS * SIGN, (4, 1)), atol=1e-7)
  np.testing.assert_allclose(attack(step_size=0.02) - x, np.tile(0.02 * SIGN, (4, 1)), atol=1e-7)


def test_rs_fgsm_steps_from_a_uniform_start_and_projects():
  x, labels = grey()
  ball = attacks.linf_ball(EPS)
  x_adv = jitted(attacks.rs_fgsm, ball=ball, loss_fn=losses.margin)(x, labels)
  moved = np.asarray((x_adv - x) * SIGN)
  # start + 1.25 eps sign, clipped: from .25 eps to eps, at eps for starts above -.25 eps.
  assert moved.min() >= 0.25 * EPS - 1e-6 and moved.max() <= EPS + 1e-7
  assert abs(np.mean(moved > EPS - 1e-6) - 0.625) < 0.08


def test_n_fgsm_stays_within_noise_and_step():
  x, labels = grey()
  options = {"ball": attacks.linf_ball(EPS), "loss_fn": losses.margin}
  attack = lambda **more: jitted(attacks.n_fgsm, **options, **more)(x, labels)  # noqa: E731
  moved = np.asarray((attack() - x) * SIGN)  # noise of +-2 eps, then eps: from -eps to 3 eps
  assert moved.min() >= -EPS - 1e-6 and moved.max() <= 3 * EPS + 1e-6
  assert moved.min() < -0.8 * EPS and moved.max() > 2.8 * EPS
  np.testing.assert_allclose(attack(noise_scale=0.0) - x, np.tile(EPS * SIGN, (4, 1)), atol=1e-7)
  wide = np.asarray(attack(noise_scale=4.0, step_size=0.0) - x)
  assert 3.8 * EPS < np.abs(wide).max() <= 4 * EPS + 1e-6
  at_the_face = jitted(attacks.n_fgsm, ball=attacks.linf_ball(EPS))(x * 0, labels)
  assert at_the_face.min() >= 0


def test_n_fgsm_takes_the_gradient_at_the_noisy_point():
  # The gradient's sign at z is that of z - 1/2: noise decides which way each pixel goes.
  bowl = lambda x: jnp.stack([jnp.zeros(x.shape[0]), jnp.sum((x - 0.5) ** 2, axis=1)], axis=1)  # noqa: E731
  x, labels = grey()
  ball = attacks.linf_ball(EPS)
  noise = np.asarray(ball.sample(as_keys(KEY, 4), x)) * 2
  x_adv = jitted(attacks.n_fgsm, bowl, ball=ball, loss_fn=losses.margin)(x, labels)
  np.testing.assert_allclose(x_adv - x, noise + EPS * np.sign(noise), atol=1e-6)


def test_n_fgsm_is_for_linf_only():
  x, labels = grey()
  with pytest.raises(ValueError, match=r"ball\.norm='l2'"):
    attacks.n_fgsm(linear, x, labels, KEY, ball=attacks.l2_ball(EPS))
