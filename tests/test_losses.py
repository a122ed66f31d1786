"""The per-example losses: values by hand and by SciPy, gradients, edge cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import special

from jax_robust import losses

pytestmark = pytest.mark.fast

DRAW = np.random.default_rng(0)
LOGITS = jnp.asarray(DRAW.normal(size=(6, 5)) * 3, jnp.float32)
LABELS = jnp.array([0, 4, 2, 1, 1, 3])
SOFT = jnp.asarray(DRAW.dirichlet(np.ones(5), size=6), jnp.float32)
ONE_HOT = jax.nn.one_hot(LABELS, 5)

every_loss = pytest.mark.parametrize("name", losses.LOSSES)


def test_cross_entropy_is_minus_log_likelihood():
  log_probs = special.log_softmax(np.float64(LOGITS), axis=1)
  expected = -log_probs[np.arange(6), LABELS]
  np.testing.assert_allclose(losses.cross_entropy(LOGITS, LABELS), expected, rtol=1e-5)
  np.testing.assert_allclose(losses.cross_entropy(LOGITS, ONE_HOT), expected, rtol=1e-5)
  soft = -(SOFT * log_probs).sum(1)
  np.testing.assert_allclose(losses.cross_entropy(LOGITS, SOFT), soft, rtol=1e-5)


def test_kl_divergence_is_scipys():
  expected = special.rel_entr(np.float64(SOFT), special.softmax(np.float64(LOGITS), axis=1)).sum(1)
  np.testing.assert_allclose(losses.kl_divergence(LOGITS, SOFT), expected, rtol=1e-5)


def test_kl_is_zero_at_its_reference():
  reference = jax.nn.softmax(LOGITS)
  np.testing.assert_allclose(losses.kl_divergence(LOGITS, reference), 0.0, atol=1e-6)
  gradient = jax.grad(lambda z: losses.kl_divergence(z, reference).sum())(LOGITS)
  np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


def test_kl_takes_zero_probabilities():
  value, gradients = jax.value_and_grad(
    lambda z, t: losses.kl_divergence(z, t).sum(), argnums=(0, 1)
  )(LOGITS, jnp.asarray(ONE_HOT))
  np.testing.assert_allclose(value, losses.cross_entropy(LOGITS, LABELS).sum(), rtol=1e-5)
  for gradient in gradients:
    assert np.all(np.isfinite(gradient))


def test_kl_sends_its_gradient_through_both_arguments():
  divergence = jax.jit(lambda z, s: losses.kl_divergence(z, jax.nn.softmax(s)))
  arguments = (LOGITS / 3, LOGITS[::-1] / 3)
  check_grads(divergence, arguments, order=1, modes=["rev"], atol=2e-2, rtol=2e-2)


def test_kl_and_cross_entropy_differ_by_the_entropy_of_the_target():
  # Hence one gradient: TRADES' attack may ascend either.
  both = [
    jax.grad(lambda z, loss=loss: loss(z, SOFT).sum())(LOGITS)
    for loss in (losses.kl_divergence, losses.cross_entropy)
  ]
  np.testing.assert_allclose(*both, atol=1e-6)


def test_margin_is_best_other_minus_true():
  expected = [
    max(z for k, z in enumerate(row) if k != label) - row[label]
    for row, label in zip(LOGITS, LABELS, strict=True)
  ]
  np.testing.assert_allclose(losses.margin(LOGITS, LABELS), expected, rtol=1e-6)
  np.testing.assert_allclose(losses.margin(LOGITS, ONE_HOT), expected, rtol=1e-6)
  wrong = np.argmax(LOGITS, axis=1) != LABELS
  assert 0 < wrong.sum() < 6
  np.testing.assert_array_equal(np.asarray(losses.margin(LOGITS, LABELS)) > 0, wrong)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_margin_survives_half_precision(dtype):
  logits = jnp.array([[1.5, -60000.0, 0.5], [2.0, 2.0, -1.0]], dtype)
  np.testing.assert_array_equal(losses.margin(logits, jnp.array([0, 1])), np.array([-1, 0], dtype))


def test_margin_gradient_is_of_two_logits():
  gradient = jax.grad(lambda z: losses.margin(z, LABELS).sum())(LOGITS)
  np.testing.assert_array_equal(np.sort(gradient, axis=1), np.tile([-1, 0, 0, 0, 1], (6, 1)))
  np.testing.assert_array_equal(np.argmin(gradient, axis=1), LABELS)


def test_dlr_is_the_margin_over_a_gap():
  top = -np.sort(-np.asarray(LOGITS), axis=1)
  expected = np.asarray(losses.margin(LOGITS, LABELS)) / (top[:, 0] - top[:, 2])
  np.testing.assert_allclose(losses.dlr(LOGITS, LABELS), expected, rtol=1e-5)
  np.testing.assert_allclose(losses.dlr(LOGITS, ONE_HOT), expected, rtol=1e-5)


def test_dlr_has_the_sign_of_the_margin():
  for target in (LABELS, SOFT):
    np.testing.assert_array_equal(
      np.sign(losses.dlr(LOGITS, target)), np.sign(losses.margin(LOGITS, target))
    )


def test_targeted_dlr_is_by_hand():
  logits = jnp.array([[5.0, 1.0, 4.0, 3.0, -2.0]] * 3)
  labels, goals = jnp.array([0, 2, 0]), jnp.array([4, 0, 0])
  expected = np.array([-7, 1, 0]) / (5 - 0.5 * (3 + 1))
  np.testing.assert_allclose(losses.targeted_dlr(logits, labels, goals), expected, rtol=1e-6)
  soft = jax.nn.one_hot(labels, 5)
  np.testing.assert_allclose(losses.targeted_dlr(logits, soft, goals), expected, rtol=1e-6)


def test_dlr_ignores_shift_and_scale():
  changed = 1e-3 * LOGITS + 1e-3
  np.testing.assert_allclose(losses.dlr(changed, LABELS), losses.dlr(LOGITS, LABELS), rtol=1e-4)
  log_probs = jax.nn.log_softmax(LOGITS)
  np.testing.assert_allclose(losses.dlr(log_probs, LABELS), losses.dlr(LOGITS, LABELS), rtol=1e-4)


def test_targeted_dlr_ignores_shift_and_scale():
  goals = (LABELS + 2) % 5
  expected = losses.targeted_dlr(LOGITS, LABELS, goals)
  for changed in (1e-3 * LOGITS + 1e-3, jax.nn.log_softmax(LOGITS)):
    np.testing.assert_allclose(losses.targeted_dlr(changed, LABELS, goals), expected, rtol=1e-4)


def test_dlr_gradients_are_those_of_differences():
  goals = (LABELS + 2) % 5
  for loss in (
    lambda z: losses.dlr(z, LABELS).sum(),
    lambda z: losses.targeted_dlr(z, LABELS, goals).sum(),
  ):
    with jax.enable_x64(True):
      check_grads(jax.jit(loss), (jnp.float64(LOGITS),), order=1, modes=["rev"])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_dlr_of_equal_logits_is_zero(dtype):
  logits, labels = jnp.ones((2, 5), dtype), jnp.array([0, 3])
  np.testing.assert_array_equal(losses.dlr(logits, labels), np.zeros(2))
  np.testing.assert_array_equal(losses.targeted_dlr(logits, labels, labels), np.zeros(2))


def test_dlr_needs_three_classes_and_the_targeted_one_four():
  assert losses.dlr(LOGITS[:, :3], LABELS % 3).shape == (6,)
  with pytest.raises(ValueError, match="2 classes: dlr needs at least 3"):
    losses.dlr(LOGITS[:, :2], LABELS % 2)
  assert losses.targeted_dlr(LOGITS[:, :4], LABELS % 4, LABELS % 3).shape == (6,)
  with pytest.raises(ValueError, match="3 classes: targeted_dlr needs at least 4"):
    losses.targeted_dlr(LOGITS[:, :3], LABELS % 3, LABELS % 2)


@every_loss
def test_losses_are_per_example(name):
  loss = losses.LOSSES[name](LOGITS, ONE_HOT)
  assert loss.shape == (6,)
  for i in range(6):
    alone = losses.LOSSES[name](LOGITS[i : i + 1], ONE_HOT[i : i + 1])
    np.testing.assert_allclose(alone, loss[i : i + 1], rtol=1e-6)


@every_loss
def test_losses_are_invariant_to_a_shift_of_the_logits(name):
  shifted = LOGITS + 7
  np.testing.assert_allclose(
    losses.LOSSES[name](shifted, SOFT), losses.LOSSES[name](LOGITS, SOFT),
    atol=8e-7 * jnp.abs(shifted).max(),
  )  # fmt: skip


@every_loss
def test_large_logits_stay_finite(name):
  logits = jnp.array([[1e4, -1e4, 0.0, 0.0]])
  expected = 2.0 if name == "dlr" else 2e4
  value, gradient = jax.value_and_grad(
    lambda z: losses.LOSSES[name](z, jnp.array([[0.0, 1.0, 0.0, 0.0]])).sum()
  )(logits)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  assert np.all(np.isfinite(gradient)) and np.any(gradient != 0)


@every_loss
def test_over_exits_is_the_mean_over_exits(name):
  loss = losses.LOSSES[name]
  exits = (LOGITS, LOGITS[::-1], 2 * LOGITS)
  expected = np.mean([loss(each, SOFT) for each in exits], axis=0)
  np.testing.assert_allclose(losses.over_exits(loss)(exits, SOFT), expected, rtol=1e-5)
  np.testing.assert_array_equal(losses.over_exits(loss)(LOGITS, SOFT), loss(LOGITS, SOFT))


@every_loss
def test_a_tuple_of_exits_is_refused_with_the_remedy(name):
  message = rf"2 exits: losses\.{name} .* losses\.over_exits\(losses\.{name}\)"
  with pytest.raises(ValueError, match=message):
    losses.LOSSES[name]((LOGITS, LOGITS), SOFT)
  with pytest.raises(ValueError, match=r"2 exits: losses\.targeted_dlr"):
    losses.targeted_dlr((LOGITS, LOGITS), LABELS, LABELS)


def test_over_exits_takes_targets_of_each_exit():
  loss = losses.over_exits(losses.kl_divergence)
  both = [losses.kl_divergence(LOGITS, each) for each in (SOFT, ONE_HOT)]
  np.testing.assert_allclose(loss((LOGITS, LOGITS), (SOFT, ONE_HOT)), np.mean(both, 0), rtol=1e-5)
  with pytest.raises(ValueError):
    loss((LOGITS, LOGITS), (SOFT,))


def test_over_exits_refuses_what_is_no_tuple_of_exits():
  for outputs in ((LOGITS, LOGITS[:, :3]), {"logits": LOGITS}):
    with pytest.raises(ValueError, match="expected .*exits? *|expected logits"):
      losses.over_exits(losses.margin)(outputs, LABELS)


EXITS = tuple(jnp.asarray(DRAW.normal(size=(6, 5)) * 2, jnp.float32) for _ in range(3))


def test_cross_entropy_to_uniform_is_that_of_all_exits_but_the_last():
  expected = sum(-special.log_softmax(np.float64(z), axis=1).mean(1) for z in EXITS[:-1])
  np.testing.assert_allclose(losses.cross_entropy_to_uniform(EXITS), expected, rtol=1e-5)
  with pytest.raises(ValueError, match="1 exit: slowdown needs a net of several"):
    losses.cross_entropy_to_uniform(EXITS[0])


def test_uniform_exits_are_the_least():
  level = (*(jnp.full_like(z, 3.0) for z in EXITS[:-1]), EXITS[-1])
  least = losses.cross_entropy_to_uniform(level)
  np.testing.assert_allclose(least, 2 * np.log(5), rtol=1e-6)
  assert np.all(losses.cross_entropy_to_uniform(EXITS) > least)
  gradient = jax.grad(lambda z: losses.cross_entropy_to_uniform(z).sum())(level)
  np.testing.assert_allclose(gradient[0], 0.0, atol=1e-7)


def test_a_loss_of_all_exits_is_lifted_to_itself():
  for loss in (losses.cross_entropy_to_uniform, losses.slowdown_loss(weight=0.5)):
    assert losses.over_exits(loss) is loss
    towards = losses.over_exits(losses.towards(loss))(EXITS, LABELS)
    np.testing.assert_array_equal(towards, -loss(EXITS, LABELS))
  lifted = losses.over_exits(losses.margin)
  assert losses.over_exits(lifted) is lifted


def test_slowdown_loss_adds_that_of_the_answer():
  loss = losses.slowdown_loss(weight=0.5, loss_fn=losses.margin)(EXITS, LABELS)
  expected = 0.5 * losses.margin(EXITS[-1], LABELS) - losses.cross_entropy_to_uniform(EXITS)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_small_gradients_keep_their_angle(scale):
  one, other = jnp.array([[0.0, 0], [3, 4], [1, 0]]), jnp.array([[1.0, 0], [4, 3], [-2, 0]])
  found = losses.cosines(scale * one, other, of_zero=1.0)
  np.testing.assert_allclose(found, [1, 0.96, -1], rtol=1e-6)
  slope = jax.grad(lambda x: losses.cosines(x, other).sum())(scale * one)
  assert np.isfinite(slope).all() and not slope[0].any()
