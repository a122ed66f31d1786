"""Schedules at the published steps, weight decay through momentum, the averaging ramp."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_robust import models
from jax_robust.train import optim

# 400 epochs of 50,000 in batches of 1024, the first ten of them warm-up.
TOTAL, WARMUP, PEAK = 19531, 488, 0.4


def rates(name, steps, **options):
  options = {"peak": PEAK, "total_steps": TOTAL, "warmup_steps": WARMUP} | options
  schedule = optim.make_schedule(name=name, **options)
  return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_warmup_is_linear_from_zero(name):
  steps = np.array([0, 122, 244, 487, 488])
  np.testing.assert_allclose(rates(name, steps), PEAK * steps / WARMUP, rtol=1e-5)


def test_cosine_falls_to_zero_at_the_end():
  middle = (WARMUP + TOTAL) // 2
  steps = [WARMUP, middle, TOTAL - 1, TOTAL, TOTAL + 100]
  expected = [
    PEAK / 2 * (1 + np.cos(np.pi * min(1, (step - WARMUP) / (TOTAL - WARMUP)))) for step in steps
  ]
  np.testing.assert_allclose(rates("cosine", steps), expected, rtol=1e-4, atol=1e-8)
  assert rates("cosine", [TOTAL]) == [0.0]


@pytest.mark.parametrize("share", [0.5, 0.4])
def test_cyclic_is_linear_up_to_the_peak_and_down(share):
  steps = np.array([0, 1, 37, 400, 500, 999, 1000, 1100])
  options = {"total_steps": 1000, "warmup_steps": 0, "warmup_share": share}
  expected = PEAK * np.interp(steps, [0, share * 1000, 1000], [0, 1, 0])
  np.testing.assert_allclose(rates("linear", steps, **options), expected, rtol=1e-4, atol=1e-7)


def test_step_schedule_counts_two_thirds_after_the_warmup():
  np.testing.assert_allclose(
    rates("step", [WARMUP, 13507, 13508, TOTAL]), [0.4, 0.4, 0.04, 0.04], rtol=1e-6
  )
  np.testing.assert_allclose(
    rates("step", [0, 199, 200], total_steps=300, warmup_steps=0), [0.4, 0.4, 0.04], rtol=1e-6
  )


def test_constant_stays():
  np.testing.assert_allclose(rates("constant", [WARMUP, TOTAL]), [PEAK, PEAK], rtol=1e-6)
  np.testing.assert_allclose(rates("constant", [0], warmup_steps=0), [PEAK], rtol=1e-6)


def test_milestones():
  """The published MNIST schedule: .01 for 31 epochs, .001 for 30, .0001 for the rest."""
  schedule = optim.make_schedule(
    name="milestones", peak=0.01, total_steps=90, warmup_steps=2, milestone_steps=[31, 61]
  )
  rates = [float(schedule(step)) for step in range(90)]
  np.testing.assert_allclose(rates[:3], [0, 0.005, 0.01])
  np.testing.assert_allclose(rates[2:31], 0.01)
  np.testing.assert_allclose(rates[31:61], 0.001, rtol=1e-6)
  np.testing.assert_allclose(rates[61:], 0.0001, rtol=1e-6)


@pytest.mark.parametrize(
  ("batch_size", "expected"), [(1024, 0.4), (512, 0.2), (256, 0.1), (128, 0.1), (1, 0.1)]
)
def test_scaled_learning_rate(batch_size, expected):
  assert optim.scaled_learning_rate(0.1, batch_size) == pytest.approx(expected)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"name": "cosin"}, "schedule name='cosin': did you mean 'cosine'"),
    (
      {"name": "spiral"},
      "schedule name='spiral': expected one of 'constant', 'cosine', 'linear', ",
    ),
    ({"milestone_steps": [5]}, r"milestone_steps=\[5\] with schedule name='cosine'"),
    (
      {"name": "milestones", "milestone_steps": [1], "warmup_steps": 2},
      r"milestone_steps=\[1\]: expected at least 2, where the warm-up ends",
    ),
    ({"warmup_steps": 2, "warmup_share": 0.5}, "warmup_share=0.5 with warmup_steps=2: expected"),
    ({"warmup_share": 1.5}, "warmup_share=1.5 with warmup_steps=0: expected a share of the run"),
    ({"warmup_steps": 11}, "warmup_steps=11: expected 0 to total_steps=10"),
    ({"warmup_steps": -1}, "warmup_steps=-1: expected 0 to total_steps=10"),
  ],
)
def test_schedule_errors(options, message):
  with pytest.raises(ValueError, match=message):
    optim.make_schedule(**{"peak": 0.1, "total_steps": 10, **options})


def test_optimizer_error():
  with pytest.raises(ValueError, match="optimizer name='adm': did you mean 'adam'"):
    optim.make_optimizer(optax.constant_schedule(0.1), name="adm")


@pytest.mark.parametrize(
  "net",
  [
    models.create("wide_resnet", num_classes=10, depth=10, width=1),
    models.create("preact_resnet18", num_classes=10),
    models.create("small_cnn", num_classes=10),
    models.create("small_cnn", num_classes=10, norm=False),
    models.create("mlp", num_classes=10, norm=True),
    models.create("mlp", num_classes=10),
  ],
  ids=lambda net: f"{type(net).__name__}-{getattr(net, 'norm', True)}",
)
def test_everything_decays_but_batchnorm(net):
  """BatchNorm's layers are told by their having running statistics, not by their names."""
  variables = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  with_statistics = {path[:-1] for path, _ in leaves(variables.get("batch_stats", {}))}
  mask = leaves(optim.weight_decay_mask(variables["params"]))
  for path, decays in mask:
    assert decays == (path[:-1] not in with_statistics), path
  assert sum(not decays for _, decays in mask) == 2 * len(with_statistics)
  assert dict(mask)["logits", "bias"] and dict(mask)["logits", "kernel"]


def leaves(tree):
  """Pairs of path and leaf."""
  return [(tuple(k.key for k in path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]


PARAMS = {
  "batchnorm_0": {"scale": jnp.array([1.0, 2.0]), "bias": jnp.array([-1.0, 0.5])},
  "logits": {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.array([2.0, -0.25])},
}


def loss(params):
  """A loss whose gradient changes from step to step."""
  return sum(jnp.sum(jnp.sin(3 * leaf) + leaf**2) for leaf in jax.tree.leaves(params))


def minimise(loss, optimizer, num_steps=3):
  @jax.jit
  def step(params, state):
    updates, state = optimizer.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state

  params, state = PARAMS, jax.jit(optimizer.init)(PARAMS)
  for _ in range(num_steps):
    params, state = step(params, state)
  return params


@pytest.mark.parametrize("options", [{}, {"nesterov": False}, {"momentum": 0.5}, {"name": "adam"}])
def test_coupled_decay_is_the_half_square_in_the_loss(options):
  decay, schedule = 0.3, optax.linear_schedule(0.1, 0.02, 3)

  def loss_with_decay(params):
    return loss(params) + decay / 2 * sum(jnp.sum(leaf**2) for leaf in params["logits"].values())

  coupled = minimise(loss, optim.make_optimizer(schedule, weight_decay=decay, **options))
  inside = minimise(loss_with_decay, optim.make_optimizer(schedule, weight_decay=0.0, **options))
  without = minimise(loss, optim.make_optimizer(schedule, weight_decay=0.0, **options))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), coupled, inside)
  jax.tree.map(np.testing.assert_array_equal, coupled["batchnorm_0"], without["batchnorm_0"])
  for leaf, other in zip(coupled["logits"].values(), without["logits"].values(), strict=True):
    assert np.abs(leaf - other).max() > 1e-3


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_is_pytorchs(nesterov):
  """`v <- mu v + g`, then `w <- w - lr (g + mu v)`, or `- lr v` without looking ahead."""
  schedule = optax.linear_schedule(0.1, 0.02, 3)
  actual = minimise(loss, optim.make_optimizer(schedule, nesterov=nesterov, weight_decay=0.0))
  w = np.asarray(PARAMS["logits"]["kernel"], np.float64)
  v = np.zeros_like(w)
  for step in range(3):
    g = 3 * np.cos(3 * w) + 2 * w
    v = 0.9 * v + g
    w = w - float(schedule(step)) * (g + 0.9 * v if nesterov else v)
  np.testing.assert_allclose(actual["logits"]["kernel"], w, rtol=1e-5)


def rate(step, **options):
  """The share of the old average that is kept."""
  return float(optim.ema_update(jnp.float32(1), jnp.float32(0), jnp.int32(step), **options))


def test_ema_ramp_values():
  assert rate(0) == pytest.approx(0.1)
  assert rate(8) == pytest.approx(0.5)
  assert rate(1789) == pytest.approx(1790 / 1799, abs=1e-7)
  assert rate(1789) < rate(1790)
  assert rate(1790) == rate(1791) == rate(100_000) == pytest.approx(0.995)
  assert rate(100_000, decay=0.9999) == pytest.approx(0.9999, abs=1e-6)


def test_ema_follows_during_the_warmup_and_ramps_after_it():
  assert rate(0, warmup_steps=5) == rate(4, warmup_steps=5) == 0
  assert rate(5, warmup_steps=5) == pytest.approx(0.1)
  assert rate(13, warmup_steps=5) == pytest.approx(0.5)


def test_ema_without_a_ramp():
  assert rate(0, ramp=False) == pytest.approx(0.995)
  assert rate(0, ramp=False, warmup_steps=1) == 0


def test_ema_decay_zero_is_no_average():
  assert rate(1000, decay=0.0) == 0


def test_ema_averages_a_tree_and_keeps_its_dtypes():
  old = {"a": jnp.array([1.0, 2.0]), "b": {"c": jnp.array(4.0, jnp.bfloat16)}}
  new = {"a": jnp.array([3.0, 0.0]), "b": {"c": jnp.array(0.0, jnp.bfloat16)}}
  average = jax.jit(optim.ema_update)(old, new, 8)
  np.testing.assert_allclose(average["a"], [2.0, 1.0], rtol=1e-6)
  assert average["b"]["c"] == 2.0 and average["b"]["c"].dtype == jnp.bfloat16
