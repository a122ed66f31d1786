"""Attacks from plain data."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_exits import on_two_exits

from jax_robust import attacks, losses

pytestmark = pytest.mark.fast

KEY = jax.random.key(0)


def logits_fn(x):
  return jnp.tanh(x @ jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), x.dtype))


X = jax.random.uniform(KEY, (4, 6))
LABELS = jnp.argmax(logits_fn(X), axis=-1)


def test_a_config_builds_what_python_would():
  config = {
    "name": "pgd", "norm": "linf", "eps": 0.1, "num_steps": 4, "loss": "margin",
    "optimizer": "adam", "step_sizes": {0: 0.1, 2: 0.01},
  }  # fmt: skip
  in_python = functools.partial(
    attacks.pgd, ball=attacks.linf_ball(0.1), num_steps=4, loss_fn=losses.margin,
    optimizer=attacks.adam({0: 0.1, 2: 0.01}),
  )  # fmt: skip
  run = lambda attack: jax.jit(lambda x: attack(logits_fn, x, LABELS, KEY))(X)  # noqa: E731
  for written in (config, json.loads(json.dumps(config))):
    np.testing.assert_array_equal(run(attacks.make_attack(**written)), run(in_python))


def test_ball_options_reach_the_ball():
  attack = attacks.make_attack("pgd", norm="l1", eps=1.0, sparsity=0.5, num_steps=2)
  assert attack.keywords["ball"] == attacks.l1_ball(1.0, sparsity=0.5)
  assert attacks.make_attack("fgsm", norm="l2", eps=1.0, exact=True).keywords["ball"].exact


def test_step_sizes_without_optimizer_are_those_of_steepest_ascent():
  attack = attacks.make_attack("pgd", eps=1.0, step_sizes={"0": 0.25, "5": 0.125})
  assert [float(attack.keywords["step_size"](step)) for step in (4, 5)] == [0.25, 0.125]


def test_eps_may_be_traced():
  @jax.jit
  def run(eps):
    return attacks.make_attack("pgd", eps=eps, num_steps=2)(logits_fn, X, LABELS, KEY)

  for eps in (0.0, 0.1):
    # X is a constant of the compiled program: XLA's folding must not undo the rounding.
    assert np.abs(run(eps) - X).max() <= np.float32(eps)


@pytest.mark.parametrize("name", attacks.RECIPES)
def test_every_recipe_runs(name):
  recipe = json.loads(json.dumps(attacks.RECIPES[name]))
  attack = on_two_exits(attacks.make_attack(**recipe, unroll=1))  # a slowdown needs several
  x_adv = jax.jit(lambda x: attack(logits_fn, x, LABELS, KEY))(X)
  ball = attacks.BALLS[recipe["norm"]](recipe["eps"])
  distance = ball.distance(x_adv, X)
  assert np.all(distance <= recipe["eps"] * (1 + 1e-6)) and np.all(distance > 0.5 * recipe["eps"])
  before, after = (losses.cross_entropy(logits_fn(z), LABELS) for z in (X, x_adv))
  assert np.all(after > before)


@pytest.mark.parametrize(
  ("config", "error", "message"),
  [
    ({"name": "pdg"}, ValueError, "name='pdg': did you mean 'pgd'"),
    ({"name": "pgd", "norm": "lnf"}, ValueError, "norm='lnf': did you mean 'linf'"),
    ({"name": "pgd", "loss": "margins"}, ValueError, "loss='margins': did you mean 'margin'"),
    (
      {"name": "pgd", "optimizer": "adma", "step_sizes": {0: 1}},
      ValueError,
      "optimizer='adma': did you mean 'adam'",
    ),
    ({"name": "pgd", "optimizer": "adam"}, ValueError, "without step_sizes"),
    ({"name": "pgd", "step_size": 0.1, "step_sizes": {0: 1}}, ValueError, "both given"),
    (
      {"name": "pgd", "num_step": 3},
      TypeError,
      "pgd in linf .* 'num_step': did you mean 'num_st",
    ),
    ({"name": "pgd", "sparsity": 0.1}, TypeError, "'sparsity'"),
    ({"name": "fgsm", "num_steps": 3}, TypeError, "fgsm in linf has no option 'num_steps'"),
    ({"name": "fgsm", "step_sizes": {1: 1}}, ValueError, "smallest step is 0"),
    ({"name": "pgd", "eps": -1.0}, ValueError, "eps=-1.0"),
  ],
)
def test_misspelt_configs_raise(config, error, message):
  with pytest.raises(error, match=message):
    attacks.make_attack(**{"eps": 0.1, **config})
