"""One TRADES training step against a second program, in PyTorch, in both flavours of the recipe.

The recorded step starts from given noise, so that nothing here is random: every stage is compared
with its record, from the attack's start to the averaged parameters. Tolerances are those of the
records: logits 1e-4, gradients 1e-4 of their largest entry, losses 1e-4 relative.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closeness import assert_close

from jax_robust import attacks, losses, models, objectives
from jax_robust.models.convert import from_torch, to_torch
from jax_robust.models.normalization import constants
from jax_robust.objectives import common
from jax_robust.train import optim, step
from jax_robust.train.state import TrainState, make_apply_fn

KEY = jax.random.key(0)

# The divergence is a difference of two sums of order 1, known to float32's rounding only.
KL_RESOLUTION = 5e-7


class Flavour(NamedTuple):
  """What tells the released program from that of 2019."""

  statistics: str
  options: Mapping[str, Any]
  bn_momentum: float
  recipe: str


FLAVOURS = {
  "released": Flavour("batch", {}, 0.99, "trades_adam"),
  "trades_2019": Flavour("running", {"clean_pass_updates": True}, 0.9, "trades_2019"),
}

both_flavours = pytest.mark.parametrize("name", FLAVOURS)


@pytest.fixture(scope="module")
def recorded(oracles):
  with np.load(oracles / "training" / "trades_step.npz", allow_pickle=False) as arrays:
    return dict(arrays)


def under(recorded, prefix):
  """The records whose names start with `prefix`, without it."""
  return {k.removeprefix(prefix): v for k, v in recorded.items() if k.startswith(prefix)}


def load_net(recorded, name, dtype=np.float32):
  """The recorded net: `(apply_fn, params, model_state)`."""
  mean, std = constants("cifar10")
  net = models.create(
    "wide_resnet",
    num_classes=10,
    depth=10,
    width=2,
    mean=mean,
    std=std,
    bn_momentum=FLAVOURS[name].bn_momentum,
    dtype=dtype,
  )
  shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  variables = from_torch(under(recorded, "weights/"), shapes, names="wide_resnet")
  variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
  return make_apply_fn(net), variables.pop("params"), variables


def attacked_net(recorded, name, dtype=np.float32):
  """What the attack sees: `(logits_fn, x, clean probabilities)`."""
  logits_fn = common.attacked_logits_fn(
    *load_net(recorded, name, dtype), statistics=FLAVOURS[name].statistics
  )
  x = jnp.asarray(recorded["images_uint8"], dtype) / 255
  return logits_fn, x, jax.nn.softmax(jax.jit(logits_fn)(x))


def attack_of(name):
  return attacks.make_attack(**attacks.RECIPES[FLAVOURS[name].recipe])


def assert_gradients_close(actual, expected, what=""):
  largest = np.abs(expected).max()
  assert largest > 0
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * largest, err_msg=what)


@both_flavours
def test_first_gradient(recorded, name):
  """In float64: at the start of 2019's attack the prediction has moved by .0005, and float32 loses
  1e-4 of the gradient to the difference, in the record (9.8e-5) as well as here (1.3e-4)."""
  with jax.enable_x64(True):
    logits_fn, _, clean = attacked_net(recorded, name, np.float64)
    x_start = jnp.asarray(recorded[f"{name}/x_start"], np.float64)
    gradient_fn = jax.grad(lambda z: losses.kl_divergence(logits_fn(z), clean).sum())
    # Unoptimised, as the tests are compiled, a convolution in float64 takes five times as long.
    optimised = jax.jit(gradient_fn, compiler_options={"xla_backend_optimization_level": 3})
    assert_gradients_close(optimised(x_start), recorded[f"{name}/first_gradient"])


def run_attack(recorded, name, x_start, num_steps):
  """The recipe's attack from `x_start`: all iterates, the last included, and their divergences."""
  logits_fn, x, clean = attacked_net(recorded, name)
  iterates = []

  def watched(z):
    jax.debug.callback(lambda z: iterates.append(np.asarray(z)), z, ordered=True)
    return logits_fn(z)

  attack = attack_of(name)
  run = jax.jit(lambda start: attack(watched, x, clean, KEY, start=start, num_steps=num_steps))
  x_adv = run(jnp.asarray(x_start))
  jax.effects_barrier()
  iterates.append(x_adv)
  assert len(iterates) == num_steps + 1
  forward = jax.jit(lambda z: losses.kl_divergence(logits_fn(z), clean))
  return iterates, np.stack([forward(z) for z in iterates])


@pytest.mark.thorough
def test_released_attack(recorded):
  expected = under(recorded, "released/")
  x = jnp.asarray(recorded["images_uint8"], jnp.float32) / 255
  start = x + 8 / 255 * recorded["noise/uniform"]
  iterates, kl = run_attack(recorded, "released", start, num_steps=10)
  np.testing.assert_allclose(iterates[0], expected["x_start"], rtol=0, atol=1e-6)
  np.testing.assert_allclose(iterates[1], expected["x_after_1"], rtol=0, atol=1e-6)
  np.testing.assert_allclose(kl, expected["attack_kl"], rtol=1e-4, atol=KL_RESOLUTION)
  np.testing.assert_allclose(iterates[-1], expected["x_adv"], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_attack_of_2019(recorded):
  """Its program does not clip the start to [0, 1], `pgd` does: hence the first step by hand."""
  expected = under(recorded, "trades_2019/")
  x = jnp.asarray(recorded["images_uint8"], jnp.float32) / 255
  x_start = x + 1e-3 * recorded["noise/normal"]
  np.testing.assert_allclose(x_start, expected["x_start"], rtol=0, atol=1e-6)

  attack = attack_of("trades_2019")
  ball, step_size = attack.keywords["ball"], attack.keywords["step_size"]
  gradient = jnp.asarray(expected["first_gradient"])
  after_1 = ball.project(x_start + step_size * ball.ascent(gradient), x)
  np.testing.assert_allclose(after_1, expected["x_after_1"], rtol=0, atol=1e-6)

  iterates, kl = run_attack(recorded, "trades_2019", expected["x_after_1"], num_steps=9)
  np.testing.assert_allclose(kl, expected["attack_kl"][1:], rtol=1e-4, atol=KL_RESOLUTION)
  np.testing.assert_allclose(iterates[-1], expected["x_adv"], rtol=0, atol=1e-6)


@pytest.fixture(scope="module", params=FLAVOURS)
def updated(request, recorded):
  """One update as the loop makes it, with the recorded x_adv for an attack.

  Returns the flavour, its records, and `(gradient, new state, metrics)`.
  """
  name = request.param
  apply_fn, params, model_state = load_net(recorded, name)

  def objective(apply_fn, *args):
    outputs = []

    def watched(params, model_state, x, *, train):
      result = apply_fn(params, model_state, x, train=train)
      if train:
        outputs.append(result[0])
      return result

    loss, (model_state, metrics) = objectives.trades(
      watched,
      *args,
      attack=lambda *_: jnp.asarray(recorded[f"{name}/x_adv"]),
      attack_statistics=FLAVOURS[name].statistics,
      **FLAVOURS[name].options,
    )
    return loss, (model_state, metrics | {"outputs": outputs})

  keep = optax.GradientTransformation(lambda params: params, lambda g, state, params: (g, g))
  optimizer = optax.chain(keep, optim.make_optimizer(lambda count: 0.1, weight_decay=5e-4))
  update = step.make_update(
    objective,
    apply_fn,
    optimizer,
    prepare=lambda raw, key: raw,
    steps_per_epoch=1.0,
    ema={"decay": 0.995},
  )
  key = jax.random.key_data(KEY)
  start = TrainState(jnp.int32(0), params, model_state, optimizer.init(params), params, {}, key)
  batch = {
    "image": recorded["images_uint8"] / np.float32(255),
    "target": recorded["targets"],
    "row": np.arange(24),
  }
  state, metrics = jax.jit(update)(start, batch)
  return name, under(recorded, f"{name}/"), (state.opt_state[0], state, metrics)


def test_logits_and_losses(updated):
  _, expected, (_, _, metrics) = updated
  clean_logits, adv_logits = metrics["outputs"]
  assert_close(clean_logits, expected["clean_logits"], 2e-5)
  assert_close(adv_logits, expected["adv_logits"], 2e-5)
  np.testing.assert_allclose(metrics["cross_entropy"], expected["cross_entropy"].mean(), rtol=1e-4)
  np.testing.assert_allclose(metrics["kl"], expected["kl"].mean(), rtol=1e-4)
  np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-4)
  assert metrics["finite"]


def test_every_gradient(updated):
  _, expected, (gradient, _, metrics) = updated
  gradient = to_torch({"params": gradient}, names="wide_resnet")
  expected = under(expected, "gradient/")
  assert gradient.keys() == expected.keys()
  for parameter, value in expected.items():
    assert_gradients_close(gradient[parameter], value, parameter)
  norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in expected.values()))
  np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)


def test_running_statistics(updated, recorded):
  _, expected, (_, state, _) = updated
  actual = to_torch(state.model_state, names="wide_resnet")
  expected = under(expected, "batch_stats/")
  assert actual.keys() == expected.keys()
  for statistic, value in expected.items():
    assert np.abs(value - recorded[f"weights/{statistic}"]).max() > 1e-4
    np.testing.assert_allclose(actual[statistic], value, rtol=1e-5, atol=1e-6, err_msg=statistic)


def test_half_square_of_the_decaying_weights(recorded):
  _, params, _ = load_net(recorded, "released")
  squares = jax.tree.map(
    lambda leaf, decays: decays * np.square(leaf, dtype=np.float64).sum() / 2,
    params,
    optim.weight_decay_mask(params),
  )
  total = sum(jax.tree.leaves(squares))
  np.testing.assert_allclose(total, recorded["released/half_square_weights"], rtol=1e-6)


def test_first_nesterov_step_and_average(updated):
  name, expected, (_, state, _) = updated
  for stage, tree in (("after_sgd/", state.params), ("ema/", state.ema)):
    actual, records = to_torch({"params": tree}, names="wide_resnet"), under(expected, stage)
    assert len(records) == (4 if name == "released" else 0)  # not recorded for the other
    for parameter, value in records.items():
      # The step is 1.9 learning rates times the gradient: hence its tolerance.
      np.testing.assert_allclose(
        actual[parameter],
        value,
        rtol=1e-6,
        atol=0.19 * 1e-4 * np.abs(expected[f"gradient/{parameter}"]).max(),
        err_msg=stage + parameter,
      )
