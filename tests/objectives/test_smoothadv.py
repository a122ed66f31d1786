"""SmoothAdv and Consistency: their losses by hand, what their attack is asked, what it leaves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close
from smoothing_net import (
  BATCH,
  KERNEL,
  KEYS,
  LABELS,
  NOISE,
  NOISES,
  PARAMS,
  SIGMA,
  STATE,
  TARGETS,
  Watch,
  X,
  centred,
  cross_entropy,
  gradient_of,
  kl_divergence,
  linear,
  logits_of,
  norm,
  numerical_gradient,
  softmax,
  step,
)

from jax_robust.objectives import consistency, noise_attacks, noisy, smoothadv
from jax_robust.objectives.smoothadv import consistency_loss

X_ADV = np.clip(X + np.random.default_rng(0).uniform(-0.2, 0.2, X.shape), 0, 1)


@pytest.fixture
def asked(monkeypatch):
  """What the attacks, which return X_ADV here, were asked: their name and arguments."""
  found = []

  def stub(name, logits_fn, x, labels, noises, keys, **options):
    logits = logits_fn(x)  # raises unless it takes images as they are
    found.append((name, {"labels": labels, "noises": noises, "keys": keys, "logits": logits}))
    found[-1][1].update(options)
    return jnp.float32(X_ADV)

  for name in ("smoothadv_pgd", "smoothadv_ddn"):
    monkeypatch.setattr(noise_attacks, name, functools.partial(stub, name))
  return found


def drawn(count):
  return np.asarray(SIGMA * noisy.draw_noises(KEYS, BATCH["image"], count), np.float64)


def test_smoothadv_is_the_cross_entropy_at_adversarial_points(asked):
  """Under the noises of the attack; the gradient holds the points fixed."""
  loss, model_state, metrics = step(smoothadv, sigma=SIGMA, num_noise_vec=NOISES)
  np.testing.assert_array_equal(asked[0][1]["noises"], jnp.float32(drawn(NOISES)))
  np.testing.assert_array_equal(asked[0][1]["labels"], LABELS)
  logits = logits_of(KERNEL, X_ADV, drawn(NOISES))
  np.testing.assert_allclose(loss, cross_entropy(logits, TARGETS).mean(), rtol=1e-5)
  hits = (logits.argmax(-1) == LABELS[:, None]).mean()
  np.testing.assert_allclose(metrics["adversarial_accuracy"], hits, rtol=1e-5)
  assert metrics["loss"] == loss and model_state["passes"] == 1
  got = gradient_of(
    lambda params: step(smoothadv, params=params, sigma=SIGMA, num_noise_vec=NOISES)[0]
  )
  expected = numerical_gradient(
    lambda kernel: cross_entropy(logits_of(kernel, X_ADV, drawn(NOISES)), TARGETS).mean()
  )
  assert_close(got, expected)


def test_defaults_are_the_published(asked):
  step(smoothadv, sigma=SIGMA)
  name, options = asked[0]
  assert name == "smoothadv_ddn" and options["noises"].shape[1] == 1
  assert (float(options["epsilon"]), options["num_steps"]) == (0.25, 10)
  step(consistency, sigma=SIGMA, adv_training=True, epoch=20.0)
  name, options = asked[1]
  assert name == "smoothadv_pgd" and options["noises"].shape[1] == 2
  assert (float(options["epsilon"]), options["num_steps"]) == (2.0, 4)
  assert not options["no_grad_attack"]


@pytest.mark.parametrize("method", ["pgd", "ddn"])
def test_only_the_radius_warms_up(asked, method):
  options = {"sigma": SIGMA, "method": method, "epsilon": 0.5, "num_steps": 7}
  for epoch, factor in ((0.0, 0.1), (0.9, 0.1), (5.0, 0.6), (9.0, 1.0), (80.0, 1.0)):
    step(smoothadv, warmup=10, epoch=epoch, **options)
    step(consistency, adv_training=True, epoch=epoch, **options)
    for _, seen in asked[-2:]:
      assert float(seen["epsilon"]) == pytest.approx(0.5 * factor)
      assert seen["num_steps"] == 7
  assert {name for name, _ in asked} == {f"smoothadv_{method}"}


def test_its_keys_are_not_those_of_the_noises(asked):
  step(smoothadv, sigma=SIGMA, num_noise_vec=4, method="pgd", no_grad_attack=True)
  assert asked[0][1]["no_grad_attack"]
  data = jax.random.key_data(asked[0][1]["keys"])
  others = [jax.vmap(jax.random.fold_in, (0, None))(KEYS, i) for i in range(4)]
  for keys in (KEYS, *others):
    assert (jax.random.key_data(keys) != data).any(1).all()


@pytest.mark.parametrize("method", ["pgd", "ddn"])
@pytest.mark.parametrize("objective", [smoothadv, consistency])
def test_attack_leaves_statistics_alone(objective, method):
  """Its passes use the running ones; the one training pass uses and updates those of its batch."""
  watch = Watch()
  options = {"adv_training": True} if objective is consistency else {}
  _, model_state, _ = step(
    objective, watch, sigma=SIGMA, num_noise_vec=2, method=method, epsilon=0.5, num_steps=4,
    warmup=1, **options,
  )  # fmt: skip
  *attack, training = watch.calls
  assert set(attack) == {("running", 0)} and training == ("batch", 0)
  _, expected = centred(PARAMS, STATE, watch.images[-1], train=True)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), model_state, expected)
  moved = watch.images[-1] - noisy.noisy_copies(BATCH["image"], jnp.float32(drawn(2)))
  assert norm(moved).max() > 0.1, "the training pass is at adversarial points"


def test_smoothadv_raises_the_loss():
  """Of the smoothed classifier, above that without an attack."""
  options = {"sigma": SIGMA, "num_noise_vec": NOISES, "method": "pgd", "num_steps": 3}
  clean = cross_entropy(logits_of(KERNEL, X, drawn(NOISES)), TARGETS).mean()
  losses = [float(step(smoothadv, epsilon=epsilon, **options)[0]) for epsilon in (1e-6, 0.3)]
  assert losses[0] == pytest.approx(clean, rel=1e-4) and losses[1] > 1.1 * clean


consistency_at = functools.partial(
  consistency_loss, linear, model_state=STATE, x=BATCH["image"], targets=BATCH["target"],
  noises=jnp.float32(NOISE),
)  # fmt: skip


def consistency_by_hand(kernel, lbd, eta, *, x=X, noises=NOISE, held=None):
  """The loss; `held` takes F for a constant in the divergence."""
  logits = logits_of(kernel, x, noises)
  soft = softmax(logits).mean(1)
  divergence = kl_divergence(soft if held is None else held, logits).mean()
  entropy = -(soft * np.log(soft)).sum(1).mean()
  return cross_entropy(logits, TARGETS).mean() + lbd * divergence + eta * entropy


@pytest.mark.parametrize(("lbd", "eta"), [(10.0, 0.5), (1.0, 3.0), (0.0, 0.0)])
def test_consistency_loss_and_gradient_are_those_by_hand(lbd, eta):
  loss, (model_state, metrics) = consistency_at(params=PARAMS, lbd=lbd, eta=eta)
  np.testing.assert_allclose(loss, consistency_by_hand(KERNEL, lbd, eta), rtol=1e-5)
  total = metrics["cross_entropy"] + lbd * metrics["divergence"] + eta * metrics["entropy"]
  np.testing.assert_allclose(total, loss, rtol=1e-6)
  assert model_state["passes"] == 1 and metrics["divergence"] > 0.05
  got = gradient_of(lambda params: consistency_at(params=params, lbd=lbd, eta=eta)[0])
  expected = numerical_gradient(lambda kernel: consistency_by_hand(kernel, lbd, eta))
  assert_close(got, expected)


def test_consistency_gradient_flows_through_the_smoothed_prediction():
  held = softmax(logits_of(KERNEL, X)).mean(1)
  one_sided = numerical_gradient(lambda kernel: consistency_by_hand(kernel, 10, 0.5, held=held))
  got = gradient_of(lambda params: consistency_at(params=params, lbd=10, eta=0.5)[0])
  assert np.abs(got - one_sided).max() > 1e-2


@pytest.mark.parametrize("adv_training", [False, True])
def test_consistency_is_that_at_x_or_at_adversarial_points(asked, adv_training):
  loss, _, _ = step(consistency, sigma=SIGMA, adv_training=adv_training, lbd=3.0, eta=0.2)
  x = X_ADV if adv_training else X
  expected = consistency_by_hand(KERNEL, 3.0, 0.2, x=x, noises=drawn(2))
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  assert len(asked) == adv_training


def test_agreeing_noises_cost_nothing():
  loss, (_, metrics) = consistency_at(params=PARAMS, noises=jnp.zeros(NOISE.shape), lbd=10, eta=0)
  assert abs(metrics["divergence"]) < 1e-6
  np.testing.assert_allclose(loss, metrics["cross_entropy"], rtol=1e-5)


BAD = [
  ({"sigma": 0.0}, "sigma=0.0: expected the standard deviation of the noise, above 0"),
  ({"num_noise_vec": 0}, "num_noise_vec=0: expected .*at least 1"),
  ({"num_steps": 0}, "num_steps=0: expected .*at least 1"),
  ({"epsilon": -0.5}, "epsilon=-0.5: expected at least 0"),
  ({"method": "pdg"}, "method='pdg': did you mean 'pgd'"),
]


@pytest.mark.parametrize(("options", "words"), BAD)
@pytest.mark.parametrize("objective", [smoothadv, consistency])
def test_bad_options_are_refused(objective, options, words):
  with pytest.raises(ValueError, match=words):
    step(objective, **{"sigma": SIGMA, **options})


@pytest.mark.parametrize("name", ["lbd", "eta"])
def test_weights_of_consistency_below_0_are_refused(name):
  with pytest.raises(ValueError, match=f"{name}=-1.0: expected at least 0"):
    step(consistency, **{"sigma": SIGMA, name: -1.0})


def test_what_does_not_go_together_is_refused():
  with pytest.raises(ValueError, match="no_grad_attack=True with method='ddn': expected .*'pgd'"):
    step(smoothadv, sigma=SIGMA, method="ddn", no_grad_attack=True)
  with pytest.raises(ValueError, match="num_noise_vec=1: expected at least 2"):
    step(consistency, sigma=SIGMA, num_noise_vec=1)
