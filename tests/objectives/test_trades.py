"""TRADES: its loss by hand, its gradient through both sides, and who touches which statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import attacks, losses
from jax_robust.objectives import trades
from jax_robust.types import Progress

DRAW = np.random.default_rng(0)
PARAMS = {
  "hidden": jnp.asarray(DRAW.normal(size=(4, 5))),
  "logits": jnp.asarray(DRAW.normal(size=(5, 3))),
}
STATE = {"mean": jnp.asarray(DRAW.normal(size=5)), "passes": jnp.int32(0)}
BATCH = {
  "image": jnp.asarray(DRAW.uniform(size=(6, 2, 2, 1))),
  "target": jnp.asarray(DRAW.dirichlet(np.ones(3), 6)),
}
X_ADV = jnp.clip(BATCH["image"] + jnp.asarray(DRAW.uniform(-0.6, 0.6, BATCH["image"].shape)), 0, 1)
KEYS = jax.random.split(jax.random.key(0), 6)
PGD = functools.partial(attacks.pgd, ball=attacks.linf_ball(0.3), num_steps=2)


def apply_fn(params, model_state, x, *, train):
  """A net with a BatchNorm that only centres; its state tells how often it was updated."""
  hidden = x.reshape(x.shape[0], -1) @ params["hidden"]
  mean = hidden.mean(0) if train else model_state["mean"]
  if train:
    model_state = {
      "mean": 0.9 * model_state["mean"] + 0.1 * mean,
      "passes": model_state["passes"] + 1,
    }
  return jnp.tanh(hidden - mean[None]) @ params["logits"], model_state


def run(params=PARAMS, *, attack=lambda *_: X_ADV, batch=BATCH, net=apply_fn, **options):
  return trades(net, params, STATE, batch, KEYS, Progress(0, 0.0), attack=attack, **options)


def gradient(**options):
  return jax.jit(jax.grad(lambda params: run(params, **options)[0]))(PARAMS)


def assert_close(actual, expected, rtol=1e-5):
  close = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=1e-6)
  jax.tree.map(close, actual, expected)


def by_hand(params, beta, *, hold_clean=False, hold_adversarial=False):
  clean = apply_fn(params, STATE, BATCH["image"], train=True)[0]
  adversarial = apply_fn(params, STATE, X_ADV, train=True)[0]
  cross_entropy = -(BATCH["target"] * jax.nn.log_softmax(clean)).sum(1).mean()
  p, log_q = jax.nn.log_softmax(clean), jax.nn.log_softmax(adversarial)
  p = jax.lax.stop_gradient(p) if hold_clean else p
  log_q = jax.lax.stop_gradient(log_q) if hold_adversarial else log_q
  return cross_entropy + beta * (jnp.exp(p) * (p - log_q)).sum(1).mean()


@pytest.mark.parametrize("beta", [6.0, 0.5])
def test_loss_and_gradient_are_those_by_hand(beta):
  ours = jax.value_and_grad(functools.partial(run, beta=beta), has_aux=True)
  (loss, (_, metrics)), gradient = jax.jit(ours)(PARAMS)
  expected, expected_gradient = jax.jit(jax.value_and_grad(by_hand))(PARAMS, beta)
  assert_close(loss, expected)
  assert_close(metrics["loss"], loss)
  assert_close(metrics["cross_entropy"] + beta * metrics["kl"], loss)
  assert metrics["kl"] > 0.01
  assert_close(gradient, expected_gradient, rtol=1e-4)


@pytest.mark.parametrize("side", ["hold_clean", "hold_adversarial"])
def test_gradient_flows_through_both_predictions(side):
  one_sided = jax.jit(jax.grad(functools.partial(by_hand, beta=6.0, **{side: True})))(PARAMS)
  jax.tree.map(lambda a, b: _assert_apart(a, b, 1e-2), gradient(beta=6.0), one_sided)


def _assert_apart(a, b, least):
  assert np.abs(a - b).max() > least


def test_default_beta_is_six():
  assert_close(run()[0], by_hand(PARAMS, 6.0))


def test_beta_zero_is_cross_entropy():
  def cross_entropy(params):
    logits = apply_fn(params, STATE, BATCH["image"], train=True)[0]
    return losses.cross_entropy(logits, BATCH["target"]).mean()

  assert_close(run(beta=0.0)[0], cross_entropy(PARAMS))
  assert_close(gradient(beta=0.0), jax.grad(cross_entropy)(PARAMS))


def test_metrics_count_clean_and_adversarial_hits():
  _, (_, metrics) = run()
  truth = np.argmax(BATCH["target"], -1)
  for name, x in (("accuracy", BATCH["image"]), ("adversarial_accuracy", X_ADV)):
    guesses = np.argmax(apply_fn(PARAMS, STATE, x, train=True)[0], -1)
    assert_close(metrics[name], np.mean(guesses == truth))


class Watch:
  """An attack and a net that write down how they are called."""

  def __init__(self):
    self.calls, self.targets, self.attacked_logits = [], None, None

  def net(self, params, model_state, x, *, train):
    where = "clean" if x is BATCH["image"] else "adversarial" if x is X_ADV else "attack"
    self.calls.append((where, "batch" if train else "running", int(model_state["passes"])))
    return apply_fn(params, model_state, x, train=train)

  def attack(self, logits_fn, x, targets, rng):
    assert rng is KEYS
    self.targets = targets
    self.attacked_logits = [logits_fn(x + 0.1), logits_fn(x - 0.1)]
    return X_ADV


@pytest.fixture
def watch():
  return Watch()


def test_attack_leaves_statistics_alone(watch):
  """Target and steps of the attack: statistics of their own batch, and no update from either."""
  _, (model_state, _) = run(net=watch.net, attack=watch.attack)
  clean, _ = apply_fn(PARAMS, STATE, BATCH["image"], train=True)
  assert_close(watch.targets, jax.nn.softmax(clean))
  for logits, shift in zip(watch.attacked_logits, (0.1, -0.1), strict=True):
    assert_close(logits, apply_fn(PARAMS, STATE, BATCH["image"] + shift, train=True)[0])
  steps = [call for call in watch.calls if call[0] == "attack"]
  assert steps == [("attack", "batch", 0)] * 2
  assert model_state["passes"] == 1


def test_clean_pass_uses_batch_statistics(watch):
  """The clean pass serves cross entropy, penalty and target at once, and its update is dropped."""
  _, (_, metrics) = run(net=watch.net, attack=watch.attack)
  assert [call for call in watch.calls if call[0] == "clean"] == [("clean", "batch", 0)]
  clean, _ = apply_fn(PARAMS, STATE, BATCH["image"], train=True)
  assert_close(metrics["cross_entropy"], losses.cross_entropy(clean, BATCH["target"]).mean())
  assert watch.calls[-1] == ("adversarial", "batch", 0)  # it did not see the clean pass's update

  _, (model_state, _) = run(clean_pass_updates=True)
  _, expected = apply_fn(PARAMS, STATE, BATCH["image"], train=True)
  _, expected = apply_fn(PARAMS, expected, X_ADV, train=True)
  assert_close(model_state, expected)


def test_adversarial_pass_updates_statistics(watch):
  _, (model_state, _) = run(net=watch.net, attack=watch.attack)
  assert_close(model_state, apply_fn(PARAMS, STATE, X_ADV, train=True)[1])
  _assert_apart(model_state["mean"], STATE["mean"], 1e-2)


def test_protocol_of_2019(watch):
  """The attack and its target use running statistics; clean, then adversarial pass update them."""
  options = {"attack_statistics": "running", "clean_pass_updates": True}
  run(net=watch.net, attack=watch.attack, **options)
  assert watch.calls == [
    ("clean", "batch", 0),
    ("clean", "running", 0),
    ("attack", "running", 0),
    ("attack", "running", 0),
    ("adversarial", "batch", 1),
  ]
  clean, _ = apply_fn(PARAMS, STATE, BATCH["image"], train=False)
  assert_close(watch.targets, jax.nn.softmax(clean))


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_attack_sees_frozen_parameters(statistics):
  """An attack that stops no gradient itself gives the gradient at its result, held constant."""

  def leaky(logits_fn, x, targets, rng):
    return X_ADV + 0.05 * (jnp.tanh(logits_fn(x)) + targets**2).sum(1)[:, None, None, None]

  x_adv = []
  run(attack=lambda *a: x_adv.append(leaky(*a)) or x_adv[0], attack_statistics=statistics)
  expected = gradient(attack=lambda *_: x_adv[0], attack_statistics=statistics)
  assert_close(gradient(attack=leaky, attack_statistics=statistics), expected)


def test_attack_needs_no_labels():
  """The inner maximisation is the same whatever the targets are."""
  found = []
  for target in (BATCH["target"], BATCH["target"][::-1]):
    run(
      attack=lambda *args: found.append(PGD(*args)) or found[-1],
      batch={**BATCH, "target": target},
    )
  np.testing.assert_array_equal(*found)
  assert np.abs(found[0] - BATCH["image"]).max() > 0.1


def test_attack_target_label_is_the_mixed_label(watch):
  """As with CutMix: the attack ascends away from the batch's targets, the penalty stays a KL."""
  loss, _ = run(net=watch.net, attack=watch.attack, attack_target="label")
  assert watch.targets is BATCH["target"]
  assert_close(loss, by_hand(PARAMS, 6.0))
  run(net=watch.net, attack=watch.attack, attack_target="label", attack_statistics="running")
  assert watch.calls.count(("clean", "batch", 0)) == 2
  assert ("clean", "running", 0) not in watch.calls  # no pass for a reference that is not used


def test_attack_moves_the_prediction():
  kl = [run(attack=attack)[1][1]["kl"] for attack in (lambda logits_fn, x, *_: x, PGD)]
  assert abs(kl[0]) < 1e-6 and kl[1] > 0.1


def test_misspelt_options():
  with pytest.raises(ValueError, match="attack_statistics='runing': did you mean 'running'"):
    run(attack_statistics="runing")
  with pytest.raises(ValueError, match="attack_target='labels': did you mean 'label'"):
    run(attack_target="labels")
