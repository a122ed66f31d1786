"""Fast adversarial training of multi-exit nets: the formula, its penalty, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

from jax_robust import attacks, losses
from jax_robust.objectives import adversarial, multi_exit
from jax_robust.objectives.multi_exit import PUBLISHED_PENALTIES, kernel_statistics, last_kernels
from jax_robust.types import Progress

DRAW = np.random.default_rng(0)
EXITS = 12  # exit_10 must not come before exit_2
PARAMS = {
  f"exit_{k}": {"logits": {"kernel": jnp.asarray(DRAW.normal(size=(4, 3)), jnp.float32) * (k + 1)}}
  for k in range(EXITS)
}
BATCH = {
  "image": jnp.asarray(DRAW.uniform(size=(6, 2, 2, 1)), jnp.float32),
  "target": jnp.asarray(DRAW.dirichlet(np.ones(3), 6), jnp.float32),
}
X_ADV = jnp.clip(BATCH["image"] + 0.1, 0, 1)
KEYS = jax.random.split(jax.random.key(0), 6)
EPS = 0.1


def apply_fn(params, model_state, x, *, train):
  x = x.reshape(len(x), -1)
  names = sorted(params, key=lambda name: int(name.split("_")[1]))
  return tuple(x @ params[name]["logits"]["kernel"] for name in names), model_state


def first(count):
  return {f"exit_{k}": PARAMS[f"exit_{k}"] for k in range(count)}


def run(params, *, attack=lambda *_: X_ADV, objective=multi_exit, **options):
  return objective(apply_fn, params, {}, BATCH, KEYS, Progress(0, 0.0), attack=attack, **options)


def kernel(number):
  return np.asarray(PARAMS[f"exit_{number}"]["logits"]["kernel"], np.float64)


def sum_of_losses(x, count):
  exits = apply_fn(first(count), {}, x, train=True)[0]
  return sum(float(jnp.mean(losses.cross_entropy(each, BATCH["target"]))) for each in exits)


@pytest.mark.parametrize("count", [1, 5, 7])
@pytest.mark.parametrize(("penalty", "power"), [("squared", 2), ("norm", 1)])
def test_it_is_the_sum_over_exits_and_the_published_penalty(count, penalty, power):
  loss, (_, metrics) = run(first(count), penalty=penalty)
  norms = [np.sqrt((kernel(k) ** 2).sum()) for k in range(count)]
  expected = sum(w * n**power for w, n in zip(PUBLISHED_PENALTIES, norms, strict=False))
  assert_close(loss, np.float64(sum_of_losses(X_ADV, count) + expected))
  assert_close(metrics["loss"], loss)
  for k, norm in enumerate(norms):
    assert_close(metrics[f"kernel_norm_{k}"], norm)
    assert_close(metrics[f"kernel_variance_{k}"], np.var(kernel(k)))
    hits = np.argmax(apply_fn(first(count), {}, X_ADV, train=True)[0][k], -1)
    hits = np.mean(hits == np.argmax(BATCH["target"], -1))
    assert_close(metrics[f"adversarial_accuracy_{k}"], hits)
  assert_close(metrics["adversarial_accuracy"], metrics[f"adversarial_accuracy_{count - 1}"])


def test_penalties_are_given_in_the_order_of_the_exits():
  penalties = [0.0] * EXITS
  penalties[10] = 0.5
  loss, _ = run(PARAMS, penalties=penalties)
  expected = sum_of_losses(X_ADV, EXITS) + 0.5 * (kernel(10) ** 2).sum()
  assert_close(loss, np.float64(expected))
  for number, found in enumerate(last_kernels(PARAMS, EXITS)):
    np.testing.assert_array_equal(found, PARAMS[f"exit_{number}"]["logits"]["kernel"])


def test_one_exit_without_penalty_is_adversarial():
  for attack in (lambda *_: X_ADV, attacks.make_attack("fgsm", eps=EPS)):
    options = ({"penalties": [0.0]}, {"objective": adversarial})
    losses = (lambda p, a=attack, o=each: run(p, attack=a, **o)[0] for each in options)
    ours, theirs = (jax.jit(jax.value_and_grad(loss))(first(1)) for loss in losses)
    assert_close(ours, theirs)


def test_the_clean_term_is_the_same_loss_at_the_images():
  loss, _ = run(first(2), penalties=[0.0], clean_weight=0.5)
  clean = 0.5 * sum_of_losses(BATCH["image"], 2)
  assert_close(loss, np.float64(sum_of_losses(X_ADV, 2) + clean))


def test_fgsm_ascends_the_sum_of_the_exits():
  """On linear exits: the sign of the gradient of the summed loss."""
  seen = []

  def spied(*arguments):
    seen.append(attacks.make_attack("fgsm", eps=EPS)(*arguments))
    return seen[-1]

  run(first(3), attack=spied)

  def total(x):
    exits = apply_fn(first(3), {}, x, train=True)[0]
    return sum(jnp.sum(losses.cross_entropy(each, BATCH["target"])) for each in exits)

  x = BATCH["image"]
  expected = jnp.clip(x + EPS * jnp.sign(jax.grad(total)(x)), 0, 1)
  np.testing.assert_allclose(seen[0], expected, rtol=0, atol=1e-6)


def test_late_exits_are_compared_with_early_ones():
  ones = [jnp.ones((1, 4)) * size for size in (1.0, 2.0, 5.0, 3.0, 4.0)]
  assert kernel_statistics(ones)["late_to_early"] == 2.5
  assert "late_to_early" not in kernel_statistics(ones[:1])


@pytest.mark.parametrize(
  ("count", "options", "message"),
  [
    (3, {"penalties": [0.1, 0.1]}, r"penalties=\(0.1, 0.1\) has 2 entries, .* has 3 exits"),
    (2, {"penalties": [0.1, 0.1, 0.2]}, r"has 3 entries, and the net has 2 exits"),
    (3, {"penalties": [0.1]}, r"has 1 entries, and the net has 3 exits"),
    (8, {}, "has 7 entries, and the net has 8 exits: give one for each, or"),
    (2, {"penalties": [0.1, -0.1]}, "penalties=-0.1: expected a finite number of at least 0"),
    (2, {"penalty": "square"}, r"penalty='square': did you mean 'squared'\?"),
    (2, {"clean_weight": -1.0}, "clean_weight=-1.0: expected a finite number of at least 0"),
  ],
)
def test_what_is_refused(count, options, message):
  with pytest.raises(ValueError, match=message):
    run(first(count), **options)


def test_a_net_without_named_last_layers_is_refused():
  renamed = {"exit_0": {"logits": {"weights": jnp.ones((4, 3))}}}
  one = functools.partial(multi_exit, lambda p, s, x, train: (jnp.ones((6, 3)), s))
  with pytest.raises(ValueError, match="1 exits and 0 layers named 'logits'"):
    one(renamed, {}, BATCH, KEYS, Progress(0, 0.0), attack=lambda *_: X_ADV)
