"""Free adversarial training against a loop in NumPy, its passes, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closeness import assert_close

from jax_robust import objectives
from jax_robust.errors import ConfigError
from jax_robust.objectives.free import FREE, make_free
from jax_robust.runs.training import training_method
from jax_robust.train import state, step

DRAW = np.random.default_rng(0)
ROWS, CLASSES, RATE, EPS, STEP, REPLAYS = 6, 3, 0.5, 0.1, 0.04, 4
KERNELS = {"early": DRAW.normal(size=(4, CLASSES)), "late": DRAW.normal(size=(4, CLASSES))}
# Some pixels are at the ends of [0, 1], where perturbed images are clipped.
IMAGES = np.clip(DRAW.uniform(-0.3, 1.3, (2, ROWS, 2, 2, 1)), 0, 1)
LABELS = DRAW.integers(0, CLASSES, (2, ROWS))


def apply_fn(params, model_state, x, *, train):
  assert train
  x = x.reshape(len(x), -1)
  return tuple(x @ params[name] for name in sorted(params)), {"passes": model_state["passes"] + 1}


def make_update(count=REPLAYS, **options):
  """The update, under plain gradient descent."""
  return make_free(
    apply_fn,
    prepare_batch=functools.partial(
      step.prepare_batch, prepare=lambda raw, key: raw, steps_per_epoch=1.0
    ),
    apply_gradients=functools.partial(step.apply_gradients, optimizer=optax.sgd(RATE)),
    **{"eps": EPS, "num_replays": count, **options},
  )


def start(names):
  """The state before the first batch, in float64."""
  params = {name: jnp.asarray(KERNELS[name]) for name in names}
  return state.TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    model_state={"passes": jnp.zeros((), jnp.int32)},
    opt_state=optax.sgd(RATE).init(params),
    ema=params,
    carry=FREE.init_carry((2, 2, 1), ROWS),
    rng=jax.random.key_data(jax.random.key(0)),
  )


def batch(number):
  return {
    "image": jnp.asarray(IMAGES[number]),
    "target": jnp.asarray(np.eye(CLASSES)[LABELS[number]]),
    "row": np.arange(ROWS, dtype=np.int32),
  }


def in_numpy(names, step_size):
  """Two batches, each replayed: the weights and perturbations by hand."""
  kernels, delta = {name: KERNELS[name].copy() for name in names}, np.zeros((ROWS, 4))
  for images, labels in zip(IMAGES, LABELS, strict=True):
    x, target = images.reshape(ROWS, 4), np.eye(CLASSES)[labels]
    for _ in range(REPLAYS):
      x_adv, ascent, slopes = np.clip(x + delta, 0, 1), np.zeros_like(delta), {}
      for name, kernel in kernels.items():
        probs = np.exp(x_adv @ kernel)
        error = (probs / probs.sum(1, keepdims=True) - target) / ROWS / len(names)
        slopes[name] = x_adv.T @ error
        ascent += error @ kernel.T
      ascent *= (x + delta >= 0) & (x + delta <= 1)
      delta = np.clip(delta + step_size * np.sign(ascent), -EPS, EPS)
      kernels = {name: kernel - RATE * slopes[name] for name, kernel in kernels.items()}
  return kernels, delta


@pytest.mark.parametrize("names", [("late",), ("early", "late")])
@pytest.mark.parametrize("step_size", [STEP, None])
def test_linear_net_in_numpy(names, step_size):
  """Two batches, so that perturbations are seen to be kept, of one exit and of two."""
  with jax.enable_x64(True):
    current, update = start(names), jax.jit(make_update(step_size=step_size))
    for number in range(2):
      current, metrics = update(current, batch(number))
  kernels, delta = in_numpy(names, STEP if step_size else EPS)
  found = current.carry["rows"]["delta"].reshape(ROWS, 4)
  np.testing.assert_allclose(found, delta, rtol=0, atol=1e-12)
  for name, kernel in kernels.items():
    assert_close(current.params[name], kernel, 1e-9)
  assert np.abs(delta).max() == EPS and metrics["finite"] and current.step == 2
  assert metrics.keys() == {"loss", "adversarial_accuracy", "finite", "grad_norm"}
  assert update._cache_size() == 1, "compiled once"


def test_one_pass_per_replay():
  """As many passes as replays, each a product forward, one for the net, one for the images."""
  with jax.enable_x64(True):
    for count in (1, 3):
      update = jax.jit(make_update(count))
      assert update(start(("late",)), batch(0))[0].model_state["passes"] == count
      assert str(jax.make_jaxpr(update)(start(("late",)), batch(0))).count("dot_general[") == 3


def test_a_replay_that_is_not_finite_is_told():
  """The last replay alone would not say so: its loss is finite."""
  calls = []

  def broken(current, grads, model_state, metrics):
    calls.append(None)
    finite = current.opt_state != 1  # the second replay
    return current._replace(opt_state=current.opt_state + 1), {**metrics, "finite": finite}

  update = make_free(
    apply_fn, prepare_batch=lambda current, raw: step.Prepared(raw, None, None),
    apply_gradients=broken, eps=EPS, num_replays=3,
  )  # fmt: skip
  before = start(("late",))._replace(opt_state=jnp.zeros((), jnp.int32))
  _, metrics = jax.jit(update)(before, batch(0))
  assert calls and not metrics["finite"]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"eps": -0.1}, "eps=-0.1: expected a finite radius >= 0"),
    ({"eps": 8}, "eps=8: .*did you mean 8/255"),
    ({"num_replays": 0}, "num_replays=0: expected a whole number, at least 1"),
    ({"num_replays": 2.5}, "num_replays=2.5: expected a whole number"),
    ({"step_size": -1.0}, "step_size=-1.0: expected a finite number of at least 0"),
  ],
)
def test_what_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    make_update(**options)
  with pytest.raises(ConfigError, match=f"config.objective: {message}"):
    training_method({"objective": {"name": "free", **options}})


def test_it_is_an_update_by_name():
  assert objectives.UPDATES["free"] is FREE
  assert FREE.updates_per_batch() == 8 and FREE.updates_per_batch(num_replays=3) == 3
  with pytest.raises(ConfigError, match=r"'objective.num_replay': did you mean 'num_replays'"):
    training_method({"objective": {"name": "free", "num_replay": 3}})
  with pytest.raises(ConfigError, match=r"objective.name='fre': did you mean 'free'"):
    training_method({"objective": {"name": "fre"}})
