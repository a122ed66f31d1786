"""GradAlign: the penalty on a linear net, its gradient by finite differences, what is skipped."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

from jax_robust import losses
from jax_robust.attacks import linf_ball
from jax_robust.objectives import grad_align
from jax_robust.objectives.grad_align import published_weight
from jax_robust.types import Progress

DRAW = np.random.default_rng(0)
ROWS, CLASSES, EPS, LAMBDA = 5, 3, 0.3, 2.0
X = DRAW.uniform(size=(ROWS, 2, 2, 1))
TARGET = np.eye(CLASSES)[DRAW.integers(0, CLASSES, ROWS)]
KERNEL = DRAW.normal(size=(4, CLASSES))
KEYS = jax.random.split(jax.random.key(0), ROWS)


@pytest.fixture(autouse=True)
def x64():
  with jax.enable_x64(True):
    yield


def linear(kernel, model_state, x, *, train):
  assert train, "all passes normalise by the batch"
  return x.reshape(len(x), -1) @ kernel, model_state + 1


def hidden(params, model_state, x, *, train):
  features = jnp.tanh(x.reshape(len(x), -1) @ params["hidden"])
  return features @ params["last"], model_state


def run(apply_fn, params, *, x=X, model_state=0, **options):
  given = {"image": jnp.asarray(x), "target": jnp.asarray(TARGET)}
  options = {"eps": EPS, "lbd": LAMBDA, **options}
  return grad_align(apply_fn, params, model_state, given, KEYS, Progress(0, 0.0), **options)


def noise():
  """The eta that the objective draws."""
  return np.asarray(linf_ball(EPS).sample(KEYS, jnp.asarray(X)))


def gradient_in_numpy(kernel, x):
  """That of the cross entropy of each image, `[b, pixels]`."""
  probs = np.exp(x.reshape(ROWS, -1) @ kernel)
  return (probs / probs.sum(1, keepdims=True) - TARGET) @ kernel.T


def loss_in_numpy(kernel, x_adv, fixed):
  """The loss with the adversarial images and the first gradient held fixed; and the mean cosine."""
  probs = np.exp(x_adv.reshape(ROWS, -1) @ kernel)
  error = -np.log((TARGET * probs).sum(1) / probs.sum(1)).mean()
  moved = gradient_in_numpy(kernel, X + noise())
  cosine = (fixed * moved).sum(1) / np.linalg.norm(fixed, axis=1) / np.linalg.norm(moved, axis=1)
  return error + LAMBDA * (1 - cosine.mean()), cosine.mean()


def fgsm_in_numpy(kernel):
  sign = np.sign(gradient_in_numpy(kernel, X)).reshape(X.shape)
  return np.clip(X + EPS * sign, 0, 1)


def test_penalty_is_that_of_numpy():
  assert np.abs(noise()).max() <= EPS and len(np.unique(noise())) == X.size
  expected, alignment = loss_in_numpy(KERNEL, fgsm_in_numpy(KERNEL), gradient_in_numpy(KERNEL, X))
  loss, (model_state, metrics) = jax.jit(functools.partial(run, linear))(KERNEL)
  assert_close(loss, np.float64(expected), 1e-9)
  assert_close(metrics["gradient_alignment"], np.float64(alignment), 1e-9)
  assert 0.5 < alignment < 0.9999, "gradients turn, and not by chance"
  assert metrics["loss"] == loss and model_state == 1, "one pass counts"
  without = jax.jit(functools.partial(run, linear, lbd=0.0))(KERNEL)
  assert_close(without[0], metrics["adversarial_loss"], 1e-12)


def test_gradient_is_numerical():
  """Of every weight, with what is detached held fixed; the second gradient is differentiated."""
  found = jax.jit(jax.grad(lambda kernel: run(linear, kernel)[0]))(KERNEL)
  x_adv, fixed, small = fgsm_in_numpy(KERNEL), gradient_in_numpy(KERNEL, X), 1e-6
  expected = np.zeros_like(KERNEL)
  for place in np.ndindex(KERNEL.shape):
    nudge = np.zeros_like(KERNEL)
    nudge[place] = small
    high, low = (loss_in_numpy(KERNEL + each, x_adv, fixed)[0] for each in (nudge, -nudge))
    expected[place] = (high - low) / (2 * small)
  assert_close(found, expected, 1e-6)
  of_loss = jax.jit(jax.grad(lambda kernel: run(linear, kernel, lbd=0.0)[0]))(KERNEL)
  assert np.abs(found - of_loss).max() > 0.01 * np.abs(of_loss).max(), "the penalty has a part"


def test_exits_are_averaged():
  """Both the loss and the gradient in x are those of the mean over the exits."""

  def mean_loss(outputs, targets):
    first, second = outputs[:, :CLASSES], outputs[:, CLASSES:]
    return (losses.cross_entropy(first, targets) + losses.cross_entropy(second, targets)) / 2

  def both(params, model_state, x, *, train):
    one, _ = hidden(params, model_state, x, train=train)
    return (one, -2 * one), model_state

  def joined(params, model_state, x, *, train):
    outputs, model_state = both(params, model_state, x, train=train)
    return jnp.concatenate(outputs, axis=1), model_state

  params = {"hidden": jnp.asarray(KERNEL), "last": jnp.asarray(DRAW.normal(size=(3, CLASSES)))}
  ours = jax.jit(jax.value_and_grad(lambda p: run(both, p)[0]))(params)
  theirs = jax.jit(jax.value_and_grad(lambda p: run(joined, p, loss_fn=mean_loss)[0]))(params)
  assert_close(ours, theirs, 1e-9)


def test_zero_gradients_are_skipped():
  """Where no weight reaches the image, nothing is added and nothing becomes NaN."""
  zero = jnp.zeros((4, CLASSES))
  (loss, (_, metrics)), gradient = jax.value_and_grad(
    lambda kernel: run(linear, kernel), has_aux=True
  )(zero)
  assert_close(loss, np.log(CLASSES), 1e-12)
  assert metrics["gradient_alignment"] == 1 and np.isfinite(gradient).all()


def test_the_published_weights():
  for eps, expected in ((8, 0.2), (16, 2.0)):
    assert published_weight(eps / 255) == pytest.approx(expected)
  weighed = run(linear, jnp.asarray(KERNEL), eps=8 / 255, lbd=None)[0]
  assert_close(weighed, run(linear, jnp.asarray(KERNEL), eps=8 / 255, lbd=0.2)[0], 1e-12)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"eps": -0.1}, "eps=-0.1: expected a finite radius >= 0"),
    ({"eps": 8}, "eps=8: .*did you mean 8/255"),
    ({"lbd": -1.0}, "lbd=-1.0: expected a finite number of at least 0"),
  ],
)
def test_what_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    run(linear, jnp.asarray(KERNEL), **options)


def test_attack_leaves_statistics_alone():
  """Of the three passes that at the adversarial image counts."""
  seen = []

  def counted(kernel, model_state, x, *, train):
    seen.append(x)
    return linear(kernel, model_state, x, train=train)

  _, (model_state, _) = run(functools.partial(counted), jnp.asarray(KERNEL))
  assert len(seen) == 3 and model_state == 1
