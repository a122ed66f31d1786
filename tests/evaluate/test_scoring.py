"""Scoring: what counts as robust, and that no batching shows in the flags."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import attacks
from jax_robust.data import sources
from jax_robust.data.evaluation import eval_batches
from jax_robust.evaluate import evaluators, scoring

DRAW = np.random.default_rng(0)
NUM = 13
IMAGES = DRAW.integers(0, 256, (NUM, 2, 2, 1), np.uint8)
KERNEL = jnp.asarray(DRAW.normal(size=(4, 3)), jnp.float32)
STATE = {"mean": jnp.float32(0.5)}
X = IMAGES / np.float32(255)
LOGITS = (X.reshape(NUM, -1) - 0.5) @ np.asarray(KERNEL)
# Two in three labels are the net's own; 0, that of the padding, is among them.
LABELS = np.where(np.arange(NUM) % 3 > 0, LOGITS.argmax(-1), (LOGITS.argmax(-1) + 1) % 3)
SOURCE = sources.array_source(IMAGES, LABELS, num_classes=3, name="made")


def apply_fn(params, model_state, x, *, train):
  """A linear net that subtracts the running mean, or in training the batch's."""
  mean = jnp.mean(x) if train else model_state["mean"]
  return (x.reshape(x.shape[0], -1) - mean) @ params, model_state


def make_scorer(attack, net=apply_fn):
  """A compiled scorer of clean accuracy and under `attack(logits_fn, x, targets, rng, eps=)`."""
  attacked = functools.partial(
    evaluators.attacked, attack=lambda eps: functools.partial(attack, eps=eps)
  )

  def make_logits_fn(params, model_state):
    return lambda x: net(params, model_state, x, train=False)[0]

  return jax.jit(
    scoring.make_scorer(make_logits_fn, {"clean": evaluators.clean, "robust": attacked})
  )


def breakable(is_bad, value=jnp.nan):
  """The linear net, its logits `value` where a pixel is bad."""

  def net(params, model_state, x, *, train):
    logits, model_state = apply_fn(params, model_state, x, train=train)
    return jnp.where(jnp.any(is_bad(x), axis=(1, 2, 3))[:, None], value, logits), model_state

  return net


def make_weights(params, eps, seed=0):
  """What the scorer takes besides images."""
  rng = jax.random.key_data(jax.random.key(seed))
  return scoring.Weights(params, STATE, rng, {"robust": {"eps": jnp.float32(eps)}})


def flags(scorer, *, batch_size=5, eps=0.05, seed=0, names=("clean", "robust")):
  weights = make_weights(KERNEL, eps, seed)
  batches = eval_batches(SOURCE, batch_size=batch_size)
  return scoring.score(scorer, weights, batches, place=jax.device_put, names=names)


def pgd(*args, eps):
  return attacks.pgd(*args, ball=attacks.linf_ball(eps), num_steps=2, unroll=1)


def nothing(logits_fn, x, targets, rng, *, eps):
  return x


PGD, NOTHING = make_scorer(pgd), make_scorer(nothing)
ALL = ("clean", "robust", "robust/x_adv", "robust/probs", "robust/probs_adv")


def test_clean_is_whether_the_largest_logit_is_the_labels():
  result = flags(NOTHING)
  np.testing.assert_array_equal(result["clean"], np.arange(NUM) % 3 > 0)
  np.testing.assert_array_equal(result["robust"], result["clean"])


def test_an_attack_takes_images_away():
  result = flags(PGD)
  assert 0 < result["robust"].sum() < result["clean"].sum()


def test_robust_implies_correct():
  """An attack that mends what is misclassified earns nothing, and its claims are not believed."""

  def mend(logits_fn, x, targets, rng, *, eps):
    """Descends the loss."""
    reward = -jax.nn.one_hot(targets, 3)
    return attacks.pgd(
      logits_fn, x, reward, rng, ball=attacks.linf_ball(eps), num_steps=20, unroll=1
    )

  result = flags(make_scorer(mend), eps=1.0, names=ALL)
  mended = result["robust/probs_adv"].argmax(-1) == LABELS
  assert np.any(mended & ~result["clean"])
  np.testing.assert_array_equal(result["robust"], mended & result["clean"])

  result = flags(PGD, names=ALL)
  assert not np.any(result["robust"] & ~result["clean"])
  rescored = (result["robust/x_adv"].reshape(NUM, -1) - 0.5) @ np.asarray(KERNEL)
  np.testing.assert_array_equal(result["robust"], result["clean"] & (rescored.argmax(-1) == LABELS))
  for name, logits in (("robust/probs", LOGITS), ("robust/probs_adv", rescored)):
    np.testing.assert_allclose(result[name], jax.nn.softmax(logits), rtol=1e-4, atol=1e-6)


def test_nan_is_wrong():
  """A logit of NaN is the largest for argmax, whatever the label is."""
  result = flags(make_scorer(lambda logits_fn, x, *_, eps: x, breakable(lambda x: x > -1)))
  assert np.any(LABELS == 0) and not result["clean"].any() and not result["robust"].any()


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_lost_point_is_no_attack(value):
  columns = ("clean", "robust", *(f"robust/{c}" for c in ("lost", "x_adv", "probs", "probs_adv")))
  scorer = make_scorer(lambda logits_fn, x, *_, eps: x + 5, breakable(lambda x: x > 5.9, value))
  found = flags(scorer, names=columns)
  lost = np.any(X + 5 > 5.9, axis=(1, 2, 3))
  assert 0 < lost.sum() < NUM and found["clean"][lost].any()
  np.testing.assert_array_equal(found["robust/lost"], lost)
  np.testing.assert_array_equal(found["robust"][lost], found["clean"][lost])
  np.testing.assert_allclose(found["robust/x_adv"][lost], X[lost], atol=1e-6)
  np.testing.assert_array_equal(found["robust/probs_adv"][lost], found["robust/probs"][lost])
  np.testing.assert_allclose(found["robust/x_adv"][~lost], X[~lost] + 5, atol=1e-6)
  assert scoring.measures(found) == ("clean", "id", "label", "robust")


def test_independent_of_batches():
  alone = flags(PGD, batch_size=1, names=ALL)
  for batch_size in (5, 16):
    together = flags(PGD, batch_size=batch_size, names=ALL)
    for name in ("clean", "robust", "label", "id"):
      np.testing.assert_array_equal(together[name], alone[name])
    np.testing.assert_allclose(together["robust/x_adv"], alone["robust/x_adv"], atol=1e-6)


def test_draws_follow_the_seed_and_the_id():
  def noise(logits_fn, x, targets, rng, *, eps):
    return x + eps * jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(rng)

  scorer = make_scorer(noise)
  draws = flags(scorer, eps=1.0, names=("robust/x_adv",))["robust/x_adv"] - X
  assert len(np.unique(draws)) == draws.size
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), np.arange(NUM))
  np.testing.assert_allclose(draws[7], jax.random.normal(keys[7], (2, 2, 1)), atol=1e-6)
  other = flags(scorer, eps=1.0, seed=1, names=("robust/x_adv",))["robust/x_adv"] - X
  assert np.abs(other - draws).max() > 0.1


@pytest.mark.parametrize("batch_size", [1, 5, 13, 16])
def test_every_example_is_counted_once(batch_size):
  """The net calls black images 0, and padding is black with label 0: counted, it would show."""
  right_on_black = KERNEL.at[:, 0].add(-8.0)
  weights = make_weights(right_on_black, 0)
  black, _ = apply_fn(right_on_black, STATE, jnp.zeros((1, 2, 2, 1)), train=False)
  assert np.argmax(black) == 0
  batches = eval_batches(SOURCE, batch_size=batch_size)
  result = scoring.score(NOTHING, weights, batches, place=jax.device_put, names=("clean",))
  np.testing.assert_array_equal(result["id"], np.arange(NUM))
  np.testing.assert_array_equal(result["label"], LABELS)
  logits = (X.reshape(NUM, -1) - 0.5) @ np.asarray(right_on_black)
  np.testing.assert_array_equal(result["clean"], logits.argmax(-1) == LABELS)


def test_results_come_in_the_order_of_the_ids():
  batches = list(eval_batches(SOURCE, batch_size=4))[::-1]
  weights = make_weights(KERNEL, 0)
  result = scoring.score(NOTHING, weights, batches, place=jax.device_put, names=("clean",))
  np.testing.assert_array_equal(result["id"], np.arange(NUM))
  np.testing.assert_array_equal(result["clean"], np.arange(NUM) % 3 > 0)


def test_evaluation_uses_running_statistics():
  calls = []

  def watched(params, model_state, x, *, train):
    calls.append(train)
    return apply_fn(params, model_state, x, train=train)

  result = flags(make_scorer(pgd, watched), names=("robust/probs",))
  assert len(calls) >= 3 and not any(calls)
  np.testing.assert_allclose(result["robust/probs"], jax.nn.softmax(LOGITS), rtol=1e-4, atol=1e-6)


def test_radius_and_weights_are_data():
  """One compiled scorer serves a whole curve of radii, and success never falls along it."""
  scorer = make_scorer(pgd)
  robust = [flags(scorer, eps=eps)["robust"].sum() for eps in (0.0, 0.05, 0.2, 0.5)]
  assert scorer._cache_size() == 1
  assert robust[0] == flags(NOTHING)["clean"].sum() and robust[-1] < robust[0]
  assert robust == sorted(robust, reverse=True)


def test_nothing_to_score():
  with pytest.raises(ValueError, match="nothing to score"):
    scoring.score(NOTHING, None, [], place=jax.device_put, names=("clean",))
