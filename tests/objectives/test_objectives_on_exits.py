"""Every objective with two exits: it trains, or says by name that it can't.

That all train with one output is held by `tests/parallel/test_mapped_table.py`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import attacks, objectives
from jax_robust.objectives import common
from jax_robust.types import Progress

CLASSES, ROWS = 3, 4
X = np.random.default_rng(0).uniform(size=(ROWS, 2, 2, 1)).astype(np.float32)
BATCH = {"image": jnp.asarray(X), "target": jax.nn.one_hot(np.arange(ROWS) % CLASSES, CLASSES)}
PARAMS = {
  "exit_0": {"logits": {"kernel": jnp.ones((4, CLASSES)) * 0.1}},
  "exit_1": {"logits": {"kernel": jnp.eye(4, CLASSES)}},
}
LAST = {"exit_1": PARAMS["exit_1"]}
KEYS = jax.random.split(jax.random.key(0), ROWS)

ONE_EXIT_ONLY = {"stability", "smoothadv", "macer", "consistency", "smoothmix"}
OPTIONS = {
  "grad_align": {"eps": 0.1},
  "smoothadv": {"num_noise_vec": 2, "num_steps": 2},
  "macer": {"num_noise_vec": 2},
  "smoothmix": {"num_noise_vec": 2, "num_steps": 2},
}


def two_exits(params, model_state, x, *, train):
  x = x.reshape(len(x), -1)
  return tuple(x @ params[name]["logits"]["kernel"] for name in sorted(params)), model_state


def one_exit(params, model_state, x, *, train):
  return two_exits(params, model_state, x, train=train)[0][-1], model_state


OF_CLASSIFIERS = {*objectives.OBJECTIVES} - {"denoising"}


@functools.cache
def step(name, apply_fn, *, exits=1):
  """Loss, metrics and gradients of one step."""
  function, options = objectives.OBJECTIVES[name], dict(OPTIONS.get(name, {}))
  known = attacks.recipes.keywords(function)
  if "sigma" in known:
    options["sigma"] = 0.25
  if "attack" in known:
    loss = "kl_divergence" if name == "trades" else "cross_entropy"
    options["attack"] = attacks.make_attack("pgd", eps=0.1, num_steps=2, loss=loss)
  bound = functools.partial(function, **options)
  run = jax.value_and_grad(
    lambda params: bound(apply_fn, params, {}, BATCH, KEYS, Progress(0, 0.0)), has_aux=True
  )
  (loss, (_, metrics)), grads = jax.jit(run)(PARAMS if exits > 1 else LAST)
  return loss, metrics, grads


@pytest.mark.parametrize("name", sorted(OF_CLASSIFIERS))
def test_two_exits_train_or_are_refused_by_name(name):
  if name in ONE_EXIT_ONLY:
    with pytest.raises(ValueError, match=f"'{name}' needs a net with one exit, and this one has 2"):
      step(name, two_exits, exits=2)
    return
  loss, _, grads = step(name, two_exits, exits=2)
  assert np.isfinite(loss)
  assert all(np.any(gradient != 0) for gradient in jax.tree.leaves(grads)), "every exit learns"


# `multi_exit` is a sum, and has a penalty for each exit.
@pytest.mark.parametrize("name", sorted(OF_CLASSIFIERS - ONE_EXIT_ONLY - {"multi_exit"}))
def test_equal_exits_train_as_one(name):
  """The mean over exits that say the same is what one of them says."""

  def twice(params, model_state, x, *, train):
    outputs, model_state = one_exit(params, model_state, x, train=train)
    return (outputs, outputs), model_state

  (loss, metrics, grads), (expected, wanted, gradient) = step(name, twice), step(name, one_exit)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  for key, value in wanted.items():
    np.testing.assert_allclose(metrics[key], value, rtol=1e-5, err_msg=key)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5), grads, gradient)


def test_accuracy_is_that_of_the_last_exit():
  right, wrong = BATCH["target"], jnp.roll(BATCH["target"], 1, axis=1)
  assert common.accuracy((wrong, right), BATCH["target"]) == 1
  assert common.accuracy((right, wrong), BATCH["target"]) == 0


@pytest.mark.parametrize("name", sorted(OF_CLASSIFIERS))
def test_features_are_not_taken_for_exits(name):
  def with_features(params, model_state, x, *, train):
    outputs, model_state = one_exit(params, model_state, x, train=train)
    return (outputs, x.reshape(len(x), -1)), model_state

  with pytest.raises(
    ValueError, match=r"a tuple of \(\d+, 3\), \(\d+, 4\): expected a tuple of exits"
  ):
    step(name, with_features)
