"""Ordinary training, and that every objective trains a net through the update of the loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rows import mostly_slow

from jax_robust import attacks, losses, models, objectives
from jax_robust.objectives import standard
from jax_robust.train import step
from jax_robust.train.state import create_state, make_apply_fn
from jax_robust.types import Progress

DRAW = np.random.default_rng(0)
KERNEL = jnp.asarray(DRAW.normal(size=(4, 3)))
BATCH = {
  "image": jnp.asarray(DRAW.uniform(size=(6, 2, 2, 1))),
  "target": jnp.asarray(DRAW.dirichlet(np.ones(3), 6)),
}


def apply_fn(kernel, model_state, x, *, train):
  assert train
  return x.reshape(6, -1) @ kernel, model_state + 1


def test_it_is_the_mean_loss_of_one_training_pass():
  logits = BATCH["image"].reshape(6, -1) @ KERNEL
  for options, loss_fn in (({}, losses.cross_entropy), ({"loss_fn": losses.margin}, losses.margin)):
    loss, (model_state, metrics) = standard(
      apply_fn, KERNEL, 0, BATCH, None, Progress(0, 0.0), **options
    )
    np.testing.assert_allclose(loss, loss_fn(logits, BATCH["target"]).mean(), rtol=1e-5)
    assert metrics["loss"] == loss and model_state == 1
    hits = np.argmax(logits, -1) == np.argmax(BATCH["target"], -1)
    np.testing.assert_allclose(metrics["accuracy"], hits.mean(), rtol=1e-6)


def test_exits_are_averaged():
  def two_exits(kernel, model_state, x, *, train):
    logits, model_state = apply_fn(kernel, model_state, x, train=train)
    return (logits, 2 * logits), model_state

  loss, _ = standard(two_exits, KERNEL, 0, BATCH, None, Progress(0, 0.0))
  both = [standard(apply_fn, k, 0, BATCH, None, Progress(0, 0.0))[0] for k in (KERNEL, 2 * KERNEL)]
  np.testing.assert_allclose(loss, np.mean(both), rtol=1e-5)


PGD = functools.partial(attacks.pgd, ball=attacks.linf_ball(0.02), num_steps=2, unroll=1)
OPTIONS = {
  "adversarial": {"attack": PGD},
  "consistency": {"sigma": 0.1, "lbd": 1.0, "adv_training": True, "epsilon": 0.1, "num_steps": 2},
  "gaussian": {"sigma": 0.1},
  "grad_align": {"eps": 0.02},
  "macer": {"sigma": 0.1, "num_noise_vec": 4, "lbd": 0.01, "deferred": 2},
  "multi_exit": {"attack": PGD, "penalties": (0.001,)},
  "smoothadv": {"sigma": 0.1, "num_noise_vec": 2, "epsilon": 0.1, "num_steps": 2},
  "smoothmix": {"sigma": 0.1, "num_noise_vec": 2, "alpha": 0.1, "num_steps": 2, "warmup": 100},
  "stability": {"sigma": 0.1, "lbd": 0.1},
  "standard": {},
  "trades": {"attack": PGD, "beta": 1.0},
}


def test_every_objective_of_classifiers_is_in_the_table():
  assert OPTIONS.keys() == objectives.OBJECTIVES.keys() - {"denoising"}


@pytest.fixture(scope="module")
def start():
  """A net, an optimiser, and the state before the first step."""
  net = models.create("mlp", num_classes=4, hidden=(8,), norm=True)
  optimizer = optax.sgd(0.5)
  return net, optimizer, create_state(net, optimizer, [jnp.zeros((1, 2, 2, 1))], seed=0)


@pytest.mark.parametrize("name", mostly_slow(OPTIONS, "standard", "adversarial", "trades", "macer"))
def test_every_objective_trains(name, start):
  """Each learns which corner of an image is bright, by the update that the loop calls."""
  net, optimizer, state = start
  labels = np.arange(16) % 4
  corners = np.eye(4, dtype=np.float32)[labels]
  batch = {
    "image": (corners * 0.6 + DRAW.uniform(0, 0.4, (16, 4))).reshape(16, 2, 2, 1),
    "target": corners,
    "row": np.arange(16),
  }
  update = step.make_update(
    functools.partial(objectives.OBJECTIVES[name], **OPTIONS[name]),
    make_apply_fn(net),
    optimizer,
    prepare=lambda raw, key: raw,
    steps_per_epoch=1.0,
  )
  update = jax.jit(update)
  history = []
  for _ in range(30):
    state, metrics = update(state, jax.tree.map(jnp.float32, batch) | {"row": batch["row"]})
    assert metrics["finite"]
    history.append(float(metrics["loss"]))
  assert history[-1] < 0.3 * history[0]
  answer = jax.jit(functools.partial(make_apply_fn(net), train=True))
  logits, _ = answer(state.params, state.model_state, jnp.float32(batch["image"]))
  assert np.mean(np.argmax(logits, -1) == labels) == 1
