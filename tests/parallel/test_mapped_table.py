"""Every loss, attack and objective: eager = jit = shard_map = pmap. A new one adds a row here."""

import functools

import jax
import jax.numpy as jnp
import mapped_problems as problems
import numpy as np
import pytest
from mapped_problems import NUM_CLASSES, NUM_ROWS
from two_exits import on_two_exits

from jax_robust import attacks, losses, models, objectives
from jax_robust.train import parallel, state
from jax_robust.types import fold_ids

# Targets that a loss takes.
LOSSES_UNDER_TEST = {
  "cross_entropy": ("labels", "probabilities"),
  "kl_divergence": ("probabilities",),
  "margin": ("labels", "probabilities"),
  "dlr": ("labels", "probabilities"),
}

# Settings of an attack; those that can start at random do.
ATTACKS_UNDER_TEST = {
  "fgsm": ({},),
  "rs_fgsm": ({},),
  "n_fgsm": ({},),
  "pgd": (
    {"num_steps": 1, "num_restarts": 2, "norm": "l2", "start": "normal"},
    {"num_steps": 2, "optimizer": "adam", "step_sizes": {"0": 0.05}},
  ),
  "bim": ({"num_steps": 2},),
  "mim": ({"num_steps": 2},),
  "cw_linf": ({"num_steps": 2},),
  "multi_targeted": ({"num_steps": 2, "num_targets": 2, "num_restarts": 2},),
  # What is misclassified already stays where it is, so these are given predictions for labels.
  "cw_l2": (
    {
      "num_steps": 10,
      "num_searches": 2,
      "initial_c": 9.0,
      "learning_rate": 0.2,
      "norm": "l2",
      "eps": 9,
    },
  ),
  "ddn": ({"num_steps": 10, "norm": "l2", "eps": 9},),
  "apgd": ({"num_steps": 3}, {"num_steps": 6, "norm": "l1", "eps": 2, "large_radii": True}),
  "apgd_targeted": ({"num_steps": 3, "num_targets": 2},),
  "fab": ({"num_steps": 5, "num_restarts": 2, "eps": 1},),
  "fab_targeted": ({"num_steps": 5, "num_targets": 2, "norm": "l2", "eps": 9},),
  "square": ({"num_queries": 10}, {"num_queries": 10, "norm": "l2", "eps": 1}),
  "slowdown": ({"num_steps": 2},),
}

MINIMUM_NORM = ("cw_l2", "ddn", "fab", "fab_targeted")
NEED_SEVERAL_EXITS = ("slowdown",)

# Settings of an objective, and rows of a BatchNorm group (None: the whole batch).
OBJECTIVES_UNDER_TEST = {
  "standard": (({}, None),),
  "adversarial": (({}, 2),),
  "multi_exit": (({}, None),),
  "trades": (({}, None),),
  "gaussian": (({"sigma": 0.2}, None),),
  "grad_align": (({"eps": 0.1}, None),),
  "stability": (({"sigma": 0.2}, None),),
  "smoothadv": (({"sigma": 0.2, "num_noise_vec": 2, "method": "pgd", "num_steps": 1}, 4),),
  "macer": (({"sigma": 0.2, "num_noise_vec": 2}, None),),
  "consistency": (({"sigma": 0.2}, None),),
  "smoothmix": (({"sigma": 0.2, "num_noise_vec": 2, "num_steps": 1}, None),),
  "denoising": (({}, None),),
}

# Under `shard_map` an entry must itself do right by the devices. `pmap` maps the same function,
# `jit` splits what was written for one device, and the tests of each entry call it eagerly, so for
# what is not named here they are left to the slow tests, and `shard_map` to `.ci/run`: those named
# are of every kind of loop, draw and average.
IN_EVERY_MODE = {
  *("cross_entropy", "kl_divergence"),
  *("pgd", "apgd", "fab", "square"),
  *("adversarial", "macer"),
}

EAGERLY_SLOW = {"adversarial", "macer", "pgd", "apgd", "fab", "square"}
"""Of those in every mode, what is a hundred programs eagerly: a slow test.

Whole updates; and attacks that `tests/attacks/test_lost_points.py` compares with their program.
"""

ALL_MODES = ("eager", *parallel.MODES)

TABLES = {
  "loss": (losses.LOSSES, LOSSES_UNDER_TEST),
  "attack": (attacks.ATTACKS, ATTACKS_UNDER_TEST),
  "objective": (objectives.OBJECTIVES, OBJECTIVES_UNDER_TEST),
}


def cases(table):
  """`(name, setting, modes)` of every row, with readable ids; second attacks are slow tests."""
  found = []
  for name, settings in table.items():
    for i, setting in enumerate(settings):
      id = f"{name}-{i}" if len(settings) > 1 else name
      if i and table is ATTACKS_UNDER_TEST:
        found.append(pytest.param(name, setting, ALL_MODES, id=id, marks=pytest.mark.slow))
        continue
      quick = ALL_MODES if name in IN_EVERY_MODE else ("shard_map",)
      quick = parallel.MODES if name in EAGERLY_SLOW else quick
      marks = () if name in IN_EVERY_MODE else pytest.mark.thorough
      found.append(pytest.param(name, setting, quick, id=id, marks=marks))
      if quick != ALL_MODES:
        others = ("eager", *(mode for mode in parallel.MODES if mode not in quick))
        others = ALL_MODES if name in EAGERLY_SLOW else others
        found.append(pytest.param(name, setting, others, id=f"{id}-others", marks=pytest.mark.slow))
  return found


@pytest.fixture(autouse=True)
def x64():
  """In float64, so that rounding can neither hide a difference nor flip a gradient's sign."""
  with jax.enable_x64(True):
    yield


@pytest.mark.parametrize("kind", TABLES)
def test_every_entry_is_in_the_table(kind):
  known, under_test = TABLES[kind]
  assert set(known) == set(under_test), f"add the new {kind} to the table of this file"
  assert all(under_test.values()), "a row without settings tests nothing"


def assert_modes_agree(make_step, tree, batch, modes, *, per_row=False):
  """Runs a step on one device and in the given modes on eight; returns the first result.

  On one device it is called eagerly where that is one of the modes, and as one program otherwise.
  """
  mesh = parallel.data_mesh(NUM_ROWS)
  assert mesh.devices.size == 8
  step = make_step(None) if "eager" in modes else jax.jit(make_step(None))
  expected = step(tree, jax.tree.map(jnp.asarray, batch))
  for mode in parallel.MODES:
    if mode not in modes:
      continue
    mapped = parallel.map_step(make_step, mesh, mode=mode, per_row=per_row)
    result = mapped(*problems.place(tree, batch, mesh))
    try:
      problems.assert_same(result, expected)
    except AssertionError as error:
      raise AssertionError(f"{mode} differs from the call on one device") from error
  return expected


def targets_of(kind):
  """Labels `[b]`, or probabilities `[b, k]`."""
  draw = np.random.default_rng(1)
  if kind == "labels":
    return draw.integers(0, NUM_CLASSES, NUM_ROWS)
  return draw.dirichlet(np.ones(NUM_CLASSES), NUM_ROWS)


@pytest.mark.parametrize(("name", "kind", "modes"), cases(LOSSES_UNDER_TEST))
def test_losses(name, kind, modes):
  batch = {
    "outputs": np.random.default_rng(0).normal(size=(NUM_ROWS, NUM_CLASSES)),
    "targets": targets_of(kind),
  }

  def make_step(axis_name):
    return lambda scale, rows: losses.LOSSES[name](scale * rows["outputs"], rows["targets"])

  result = assert_modes_agree(make_step, jnp.asarray(2.0), batch, modes, per_row=True)
  assert result.shape == (NUM_ROWS,) and len(np.unique(result)) == NUM_ROWS


@functools.cache
def attacked():
  """`(apply_fn, weights, images, predictions)` of the net that is attacked."""
  net = models.create("mlp", num_classes=NUM_CLASSES, hidden=(8,), dtype="float64")
  weights = problems.initial_state(net)
  apply_fn = state.make_apply_fn(net)
  image = np.random.default_rng(0).uniform(size=(NUM_ROWS, *problems.IMAGE))
  logits = jax.jit(functools.partial(apply_fn, train=False))(
    weights.params, weights.model_state, image
  )[0]
  return apply_fn, weights, image, np.argmax(logits, axis=-1)


@pytest.mark.parametrize(("name", "options", "modes"), cases(ATTACKS_UNDER_TEST))
def test_attacks(name, options, modes):
  apply_fn, weights, image, predicted = attacked()
  attack = attacks.make_attack(name, **{"eps": 0.1, **options})
  attack = on_two_exits(attack) if name in NEED_SEVERAL_EXITS else attack
  batch = {
    "image": image,
    "target": predicted if name in MINIMUM_NORM else targets_of("labels"),
    "row": np.arange(NUM_ROWS, dtype=np.int32),
  }

  def make_step(axis_name):
    def run(weights, batch):
      def logits_fn(x):
        return apply_fn(weights.params, weights.model_state, x, train=False)[0]

      keys = fold_ids(jax.random.key(0), batch["row"])
      return attack(logits_fn, batch["image"], batch["target"], keys)

    return run

  x_adv = assert_modes_agree(make_step, weights, batch, modes, per_row=True)
  assert x_adv.dtype == np.float64
  delta = np.asarray(x_adv - image).reshape(NUM_ROWS, -1)
  if name != "n_fgsm":  # which leaves the ball
    norm, eps = (options.get(key, default) for key, default in (("norm", "linf"), ("eps", 0.1)))
    distance = np.linalg.norm(delta, {"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=1)
    assert np.all(distance <= eps * (1 + 1e-13))
  moved = np.abs(delta).max(1)
  # An attack that does nothing agrees with itself. A boundary may be as near as it likes.
  assert np.all(moved > (0 if name in MINIMUM_NORM else 0.005))


@functools.cache
def trained(name=""):
  """The state that an objective starts from; groups of BatchNorm change nothing in it."""
  return problems.initial_state(problems.make_net(name=name))


@pytest.mark.parametrize(("name", "setting", "modes"), cases(OBJECTIVES_UNDER_TEST))
def test_objectives(name, setting, modes):
  options, group_size = setting
  name_of_net = name if name == "denoising" else ""
  net = problems.make_net(group_size, name=name_of_net)
  make_update = problems.make_update(net, problems.make_objective(name, **options))
  before = trained(name_of_net)
  after, metrics = assert_modes_agree(make_update, before, problems.raw_batch(), modes)
  assert metrics["finite"] and int(after.step) == 1
  for old, new in zip(
    jax.tree.leaves((before.params, before.model_state, before.ema)),
    jax.tree.leaves((after.params, after.model_state, after.ema)),
    strict=True,
  ):
    assert np.any(old != new)


@pytest.mark.parametrize("mode", parallel.MODES)
def test_gradient_is_the_mean_over_devices(mode):
  """A trap: under `shard_map` with its check on, pmean of gradients is their sum."""
  mesh = parallel.data_mesh(8)

  def make_step(axis_name):
    def step(weight, batch):
      grad = jax.grad(lambda w: jnp.mean(w * batch["x"]))(weight)
      return grad if axis_name is None else jax.lax.pmean(grad, axis_name)

    return step

  mapped = parallel.map_step(make_step, mesh, mode=mode)
  gradient = mapped(*problems.place(jnp.asarray(3.0), {"x": np.arange(8.0)}, mesh))
  assert float(gradient) == 3.5


def test_unknown_mode_is_refused():
  with pytest.raises(ValueError, match=r"parallel='pmpa': did you mean 'pmap'"):
    parallel.map_step(lambda axis_name: None, parallel.data_mesh(8), mode="pmpa")
