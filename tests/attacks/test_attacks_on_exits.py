"""Every attack on models with one exit or two, deterministic or randomised: works or refuses.

A new attack that needs one array of logits adds its name to `NEEDS_ONE_EXIT`, one that needs
several to `NEEDS_SEVERAL`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import attacks, losses
from jax_robust.attacks import stepwise
from jax_robust.attacks.apgd_search import apgd_search
from jax_robust.attacks.autoattack import STAGES, Settings, evaluation
from jax_robust.attacks.entry import check_inputs
from jax_robust.attacks.square_search import square_search
from jax_robust.nets.exits import mean_of_exits, select_exit

KEY = jax.random.key(0)
WEIGHTS = np.random.default_rng(0).normal(size=(2, 12, 4)).astype(np.float32)
X = jax.random.uniform(KEY, (3, 2, 2, 3), minval=0.3, maxval=0.7)
LABELS = jnp.array([0, 1, 2])

NEEDS_ONE_EXIT = ("multi_targeted", "cw_l2", "ddn", "fab", "fab_targeted")
NEEDS_SEVERAL = ("slowdown",)

SHORT = {"num_steps": 2, "num_searches": 1, "num_queries": 2, "num_restarts": 1, "num_targets": 2}

ONCE = (STAGES["apgd-ce"](Settings(num_restarts=1, num_steps=2)),)


def two_exits(x):
  flat = x.reshape(len(x), -1) - 0.5
  return flat @ WEIGHTS[0], flat @ WEIGHTS[1]


def one_exit(x):
  return two_exits(x)[1]


def noisy(logits_fn):
  """The model with noise on its input."""
  return lambda x, rng: logits_fn(x + 0.1 * jax.random.normal(rng, x.shape))


MODELS = {
  "one": one_exit,
  "one, randomised": noisy(one_exit),
  "two": two_exits,
  "two, randomised": noisy(two_exits),
}


def make(name, **options):
  """An attack of the table, as short as can be, in a ball that it takes."""
  norm = "l2" if name in ("cw_l2", "ddn") else "linf"
  known = attacks.recipes.keywords(attacks.ATTACKS[name])
  short = {key: value for key, value in SHORT.items() if key in known}
  return attacks.make_attack(name, norm=norm, eps=0.1, **short, **options)


def trace(attack, logits_fn):
  """Shape and dtype of the result: nothing is compiled."""
  return jax.eval_shape(lambda x, labels: attack(logits_fn, x, labels, KEY), X, LABELS)


every_attack = pytest.mark.parametrize("name", attacks.ATTACKS)
every_attack_of_one = pytest.mark.parametrize(
  "name", [n for n in attacks.ATTACKS if n not in NEEDS_SEVERAL]
)


@every_attack
@pytest.mark.parametrize("model", MODELS)
def test_an_attack_works_or_refuses_by_name(name, model):
  if model.startswith("two") and name in NEEDS_ONE_EXIT:
    with pytest.raises(ValueError, match=r"2 exits: (\w+) needs one .*select_exit") as raised:
      trace(make(name), MODELS[model])
    assert f"2 exits: {name} needs" in str(raised.value) or name == "fab_targeted"
    return
  if model.startswith("one") and name in NEEDS_SEVERAL:
    with pytest.raises(ValueError, match=f"1 exit: {name} needs a net of several"):
      trace(make(name), MODELS[model])
    return
  x_adv = trace(make(name), MODELS[model])
  assert x_adv.shape == X.shape and x_adv.dtype == X.dtype


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("recipe", attacks.RECIPES)
def test_every_recipe_takes_exits(recipe, model):
  attack = attacks.make_attack(**attacks.RECIPES[recipe], unroll=1)
  if model.startswith("one") and attacks.RECIPES[recipe]["name"] in NEEDS_SEVERAL:
    return
  assert trace(attack, MODELS[model]).shape == X.shape


@every_attack_of_one
@pytest.mark.parametrize("exit", [0, "mean"])
def test_a_chosen_exit_of_a_randomised_model_gets_its_keys(name, exit):
  seen = []

  def model(x, rng):
    seen.append(rng)
    return noisy(two_exits)(x, rng)

  assert trace(make(name), select_exit(model, exit)).shape == X.shape
  assert seen and all(jnp.issubdtype(rng.dtype, jax.dtypes.prng_key) for rng in seen)


@every_attack
@pytest.mark.parametrize(
  ("outputs", "message"),
  [
    (lambda x: (one_exit(x), x), r"a tuple of \(3, 4\), \(3, 2, 2, 3\): .* all of one shape"),
    (lambda x: {"logits": one_exit(x)}, r"a dict: expected logits .*\['logits'\]"),
  ],
)
def test_what_is_no_tuple_of_exits_is_refused(name, outputs, message):
  with pytest.raises(ValueError, match=message):
    trace(make(name), outputs)


@pytest.mark.parametrize("model", MODELS)
def test_autoattack_works_or_refuses(model, monkeypatch):
  monkeypatch.setattr(evaluation, "_DRAWS", 2)  # quicker to compile
  evaluate = functools.partial(
    attacks.autoattack, x=X, labels=LABELS, rng=KEY, ball=attacks.linf_ball(0.1), version=ONCE
  )
  logits_fn = MODELS[model]
  if model.startswith("two"):
    with pytest.raises(ValueError, match="2 exits: autoattack needs one .*select_exit"):
      evaluate(logits_fn)
    logits_fn = select_exit(logits_fn, "last")
  result = evaluate(logits_fn, check=False)
  assert list(result.robust_after) == ["apgd-ce"]
  if model == "two":
    np.testing.assert_array_equal(result.x_adv, evaluate(one_exit, check=False).x_adv)


def test_the_mean_of_the_losses_is_ascended():
  attack = functools.partial(attacks.fgsm, ball=attacks.l2_ball(0.1), loss_fn=losses.margin)
  x_adv = jax.jit(functools.partial(attack, two_exits))(X, LABELS, KEY)
  gradient = jax.grad(lambda x: sum(losses.margin(z, LABELS).sum() for z in two_exits(x)))(X)
  unit = gradient / jnp.sqrt(jnp.sum(gradient**2, axis=(1, 2, 3), keepdims=True))
  np.testing.assert_allclose(x_adv, X + 0.1 * unit, rtol=1e-5)


def test_a_chosen_exit_is_attacked_alone():
  attack = jax.jit(make("fgsm"), static_argnums=0)
  last = attack(select_exit(two_exits, -1), X, LABELS, KEY)
  np.testing.assert_array_equal(last, attack(one_exit, X, LABELS, KEY))
  mean = attack(select_exit(two_exits, "mean"), X, LABELS, KEY)
  by_hand = attack(lambda x: mean_of_exits(two_exits(x)), X, LABELS, KEY)
  np.testing.assert_array_equal(mean, by_hand)


def walls(distances, x, keys):
  """Exits of two classes, each broken where the mean pixel rose by its distance from .5."""
  del keys
  rise = jnp.mean(x, axis=(1, 2, 3)) - 0.5
  return tuple(jnp.stack([d - rise, jnp.zeros_like(rise)], axis=1) for d in distances)


@pytest.mark.parametrize(
  "search",
  [
    apgd_search(lambda outputs, labels, goals: losses.margin(outputs, labels), num_steps=4),
    square_search(num_queries=60),
  ],
)
def test_success_is_that_of_the_last_exit(search):
  x, labels = jnp.full((2, 2, 2, 1), 0.5), jnp.zeros(2, jnp.int32)
  ball = attacks.linf_ball(0.1)
  problem = stepwise.make_problem(check_inputs("apgd", lambda x: x, x, labels, KEY, ball))
  for distances, is_broken in (((0.05, 0.2), False), ((0.2, 0.05), True)):
    model = functools.partial(walls, distances)
    state = jax.jit(lambda p, model=model: stepwise.run(search, model, p, ball=ball))(problem)
    assert np.all(state.found == is_broken)
