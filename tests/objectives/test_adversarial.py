"""Adversarial training: the loss at x', and who touches which statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import attacks, losses
from jax_robust.objectives import adversarial
from jax_robust.types import Progress

DRAW = np.random.default_rng(0)
PARAMS = {"kernel": jnp.asarray(DRAW.normal(size=(4, 3)))}
STATE = {"mean": jnp.asarray(DRAW.normal(size=3)), "passes": jnp.int32(0)}
BATCH = {
  "image": jnp.asarray(DRAW.uniform(size=(6, 2, 2, 1))),
  "target": jnp.asarray(DRAW.dirichlet(np.ones(3), 6)),
}
X_ADV = jnp.clip(BATCH["image"] + jnp.asarray(DRAW.uniform(-0.3, 0.3, BATCH["image"].shape)), 0, 1)
KEYS = jax.random.split(jax.random.key(0), 6)


def apply_fn(params, model_state, x, *, train):
  """A linear net whose logits are centred; its state tells how often it was updated."""
  logits = x.reshape(x.shape[0], -1) @ params["kernel"]
  mean = logits.mean(0) if train else model_state["mean"]
  if train:
    model_state = {
      "mean": 0.9 * model_state["mean"] + 0.1 * mean,
      "passes": model_state["passes"] + 1,
    }
  return logits - mean[None], model_state


def run(params=PARAMS, *, attack=lambda *_: X_ADV, net=apply_fn, **options):
  return adversarial(net, params, STATE, BATCH, KEYS, Progress(0, 0.0), attack=attack, **options)


def assert_close(actual, expected):
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
  jax.tree.map(close, actual, expected)


def loss_at(x, params=PARAMS, loss_fn=losses.cross_entropy):
  return loss_fn(apply_fn(params, STATE, x, train=True)[0], BATCH["target"]).mean()


def test_it_is_the_mean_loss_at_the_adversarial_example():
  (loss, (_, metrics)), gradient = jax.jit(jax.value_and_grad(run, has_aux=True))(PARAMS)
  expected = jax.jit(jax.value_and_grad(functools.partial(loss_at, X_ADV)))(PARAMS)
  assert_close((loss, gradient), expected)
  assert_close(metrics["loss"], loss)
  guesses = np.argmax(apply_fn(PARAMS, STATE, X_ADV, train=True)[0], -1)
  hits = np.mean(guesses == np.argmax(BATCH["target"], -1))
  assert_close(metrics["adversarial_accuracy"], hits)
  assert_close(run(loss_fn=losses.margin)[0], loss_at(X_ADV, loss_fn=losses.margin))


def test_attack_gets_the_targets_and_one_key_per_row():
  seen = []
  run(attack=lambda logits_fn, *args: seen.extend(args) or X_ADV)
  assert [id(each) for each in seen] == [id(BATCH["image"]), id(BATCH["target"]), id(KEYS)]


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_attack_leaves_statistics_alone(statistics):
  logits = []

  def attack(logits_fn, *_):
    logits.extend([logits_fn(X_ADV + 0.1), logits_fn(X_ADV)])
    return X_ADV

  _, (model_state, _) = run(attack=attack, attack_statistics=statistics)
  train = statistics == "batch"
  assert_close(logits[0], apply_fn(PARAMS, STATE, X_ADV + 0.1, train=train)[0])
  assert_close(logits[1], apply_fn(PARAMS, STATE, X_ADV, train=train)[0])
  assert model_state["passes"] == 1
  assert_close(model_state, apply_fn(PARAMS, STATE, X_ADV, train=True)[1])


def test_attack_sees_frozen_parameters():
  def leaky(logits_fn, x, *_):
    return X_ADV + 0.05 * jnp.tanh(logits_fn(x)).sum(1)[:, None, None, None] ** 2

  x_adv = []
  run(attack=lambda *a: x_adv.append(leaky(*a)) or x_adv[0])
  held = jax.grad(lambda p: run(p, attack=lambda *_: x_adv[0])[0])(PARAMS)
  assert_close(jax.grad(lambda p: run(p, attack=leaky)[0])(PARAMS), held)


@pytest.mark.parametrize(
  "attack",
  [
    functools.partial(attacks.fgsm, ball=attacks.linf_ball(0.1)),
    functools.partial(attacks.n_fgsm, ball=attacks.linf_ball(0.1)),
    functools.partial(attacks.pgd, ball=attacks.l2_ball(0.3), num_steps=2),
  ],
  ids=["fgsm", "n_fgsm", "pgd_l2"],
)
def test_any_attack_fits_and_makes_it_harder(attack):
  assert jax.jit(lambda: run(attack=attack)[0])() > loss_at(BATCH["image"]) + 0.01


def test_exits_are_averaged_in_the_loss_and_the_last_one_is_counted():
  def two_exits(params, model_state, x, *, train):
    logits, model_state = apply_fn(params, model_state, x, train=train)
    return (-logits, logits), model_state

  loss, (_, metrics) = run(net=two_exits)
  _, (_, expected) = run()
  logits = apply_fn(PARAMS, STATE, X_ADV, train=True)[0]
  both = [losses.cross_entropy(z, BATCH["target"]).mean() for z in (-logits, logits)]
  assert_close(loss, np.mean(both))
  assert metrics["adversarial_accuracy"] == expected["adversarial_accuracy"]


def test_misspelt_statistics():
  with pytest.raises(ValueError, match="attack_statistics='global': expected one of 'batch', 'run"):
    run(attack_statistics="global")
