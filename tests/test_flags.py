"""A flag is True or False: texts, numbers and None, which Python counts as one, are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from unchecked import as_a_user  # noqa: F401

from jax_robust import attacks, errors, models, objectives
from jax_robust.attacks.recipes import parameters
from jax_robust.data import augment, tfds
from jax_robust.train import optim, overfitting

pytestmark = pytest.mark.fast

X, LABELS, KEY = jnp.full((1, 4), 0.5), jnp.zeros(1, int), jax.random.key(0)
BATCH = {"image": jnp.full((1, 2, 2, 1), 0.5), "target": jnp.eye(2)[:1]}
WRONG = ("no", "true", 0, 1, None)


def exits(x):
  return x[:, :2], x[:, 2:]


def apply_fn(params, model_state, x, train=False):
  return x.reshape(len(x), -1)[:, :2] + params, model_state


def flags_of(function):
  return [name for name, each in parameters(function).items() if each.annotation is bool]


def call_attack(function, **flag):
  return function(exits, X, LABELS, KEY, ball=attacks.linf_ball(0.1), **flag)


def call_objective(function, **flag):
  needed = {name: each for name, each in parameters(function).items() if each.default is each.empty}
  options = {name: (lambda f, x, t, k: x) if name == "attack" else 0.5 for name in needed}
  rng = jax.random.split(KEY, 1)
  return function(apply_fn, jnp.zeros(2), {}, BATCH, rng, None, **options, **flag)


def others():
  """What else takes flags: the function, and how it is called."""
  return [
    (attacks.l2_ball, lambda **flag: attacks.l2_ball(0.5, **flag)),
    (attacks.invert, lambda **flag: attacks.invert(lambda x: x, X, X, **flag)),
    (augment.make_prepare, lambda **flag: augment.make_prepare(num_classes=2, **flag)),
    (optim.make_optimizer, lambda **flag: optim.make_optimizer(optax.constant_schedule(1), **flag)),
    (optim.ema_update, lambda **flag: optim.ema_update(0.0, 1.0, 0, **flag)),
    (overfitting.judge, lambda **flag: overfitting.judge({}, 1, {}, **flag)),
    (tfds.load_tfds, lambda **flag: tfds.load_tfds("mnist", "train", **flag)),
    (attacks.autoattack, lambda **flag: call_attack(attacks.autoattack, **flag)),
  ]


def calls():
  """Every call with a wrong flag, by the names of function and flag."""
  found = {}
  for call, table in ((call_attack, attacks.ATTACKS), (call_objective, objectives.OBJECTIVES)):
    for name, function in table.items():
      found |= {f"{name}.{flag}": (call, function, flag) for flag in flags_of(function)}
  for function, call in others():
    found |= {f"{function.__name__}.{flag}": (call, None, flag) for flag in flags_of(function)}
  return found


@pytest.mark.parametrize("name", calls())
def test_a_flag_that_is_none_is_refused(name):
  call, function, flag = calls()[name]
  arguments = () if function is None else (function,)
  for value in WRONG:
    with pytest.raises(TypeError, match=f"{flag}=.*: expected True or False"):
      call(*arguments, **{flag: value})


def test_the_flags_of_a_net_are_refused():
  for name, net in models.MODELS.items():
    for field in dataclasses.fields(net):
      if field.type is bool:
        with pytest.raises(TypeError, match=f"{field.name}='no': expected True or False"):
          models.create(name, num_classes=2, **{field.name: "no"})


def test_a_flag_may_be_of_numpy():
  errors.check_flag(flip=np.True_, cutmix=False)


def test_the_flags_that_are_known():
  """A flag that this file does not find is one that nobody has looked at."""
  assert {"pgd.keep_best", "cw_linf.keep_best", "apgd.large_radii", "square.resc_schedule"} <= {
    *calls()
  }
  assert {"trades.clean_pass_updates", "smoothadv.no_grad_attack"} <= {*calls()}
