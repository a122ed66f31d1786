"""The points of an evaluation of exits: those of the attacks, each scored under every rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

from jax_robust import attacks, losses
from jax_robust.early_exit import answer
from jax_robust.evaluate import exit_attacks, exit_scores
from jax_robust.nets import select_exit

EPS, SEED = 0.1, 0
DRAW = np.random.default_rng(0)
WEIGHTS = tuple(jnp.asarray(DRAW.normal(size=(6, 3)) * s, jnp.float32) for s in (1, 3))
X = DRAW.uniform(0.2, 0.8, (8, 6)).astype(np.float32)
LABELS = np.argmax(X @ np.asarray(WEIGHTS[1]), axis=1).astype(np.int32)
KEYS = jax.random.split(jax.random.key(1), 8)
THRESHOLDS = (0.6,)
BALL = attacks.linf_ball(EPS)


def make_outputs_fn(early, late):
  return lambda x: (x @ early, jnp.tanh(x) @ late)


NET = make_outputs_fn(*WEIGHTS)


def options(names, aims=exit_attacks.AIMS, **more):
  return exit_attacks.Options(names, aims, THRESHOLDS, EPS, **more)


def found_by(chosen):
  run = exit_attacks.make_points(make_outputs_fn, WEIGHTS, chosen, batch_size=8)
  found = {}
  for attempt in exit_attacks.attempts(chosen):
    made = run(attempt, X, LABELS, KEYS)
    found |= dict(zip(exit_attacks.points(attempt, chosen), made, strict=True))
  return found


@pytest.fixture(scope="module")
def found():
  names = ("fgsm", "bim", "mim", "pgd_20", "cw_linf", "square")
  return found_by(options(names, max_steps=3, num_queries=20))


def test_the_points_are_those_that_are_announced(found):
  attempts = list(dict.fromkeys(name.split(", ")[0] for name in found))
  names = ["fgsm", "bim", "mim", "pgd_20", "cw_linf", "square"]
  assert attempts == [*names, "pgd_20 at twice eps"]
  assert "square, average" not in found and "pgd_20 at twice eps, deployed" in found


def test_the_points_are_in_ball_and_box(found):
  for name, x_adv in found.items():
    radius = 2 * EPS if exit_attacks.TWICE in name else EPS
    assert np.abs(np.float64(x_adv) - X).max() <= radius * (1 + 1e-6), name
    assert x_adv.min() >= 0 and x_adv.max() <= 1


STEPS = {"num_steps": 3, "step_size": EPS / 4}
PARITY = {
  "fgsm": lambda net: attacks.fgsm(net, X, LABELS, KEYS, ball=BALL),
  "bim": lambda net: attacks.bim(net, X, LABELS, KEYS, ball=BALL, **STEPS),
  "mim": lambda net: attacks.mim(net, X, LABELS, KEYS, ball=BALL, **STEPS),
}


@pytest.mark.parametrize(("aim", "choose"), [("average", lambda net: net),
                         ("mean:1", lambda net: select_exit(net, "mean"))])  # fmt: skip
@pytest.mark.parametrize("name", PARITY)
def test_attacks_in_steps_are_the_attacks(found, name, aim, choose):
  assert_close(found[f"{name}, {aim}"], jax.jit(lambda: PARITY[name](choose(NET)))())


@pytest.mark.parametrize("name", ["pgd_20", "cw_linf"])
def test_random_starts_are_in_the_ball_and_lead_on(found, name):
  loss_fn = losses.cross_entropy if name == "pgd_20" else losses.margin
  for k in (0, 1):
    before, after = (loss_fn(NET(x)[k], LABELS) for x in (X, found[f"{name}, exit {k}"]))
    assert (after > before).all()


def test_max_average_is_the_worst_of_the_exits(found):
  average = losses.over_exits(losses.cross_entropy)
  loss = {aim: average(NET(found[f"mim, {aim}"]), LABELS) for aim in ("exit 0", "exit 1")}
  assert_close(
    average(NET(found["mim, max_average"]), LABELS), jnp.maximum(loss["exit 0"], loss["exit 1"])
  )


def test_cw_in_l2_is_apart_from_the_ball():
  chosen = options(("cw_l2",), ("exits",), max_steps=20)._replace(eps=1e-4)
  points = found_by(chosen)
  assert list(points) == ["cw_l2, exit 0", "cw_l2, exit 1"]
  assert any(np.abs(x_adv - X).max() > 1e-3 for x_adv in points.values())
  assert not any(map(exit_attacks.is_counted, points))


def test_autoattack_runs_within_the_budget():
  points = found_by(options(("autoattack",), ("deployed",), max_steps=2, version=("apgd-ce",)))
  assert list(points) == ["autoattack, deployed"]
  assert np.abs(points["autoattack, deployed"] - X).max() <= EPS * (1 + 1e-6)


def test_every_rule_is_scored_by_one_pass():
  correct, finite = exit_attacks.make_correct(make_outputs_fn, WEIGHTS, THRESHOLDS)(X, LABELS)
  assert finite.all()
  rules = [NET(X)[0], NET(X)[1], select_exit(NET, "mean")(X), answer(NET(X), THRESHOLDS)[0]]
  assert list(exit_attacks.rules(THRESHOLDS)) == ["exit 0", "exit 1", "mean:1", "deployed"]
  for column, logits in zip(correct.T, rules, strict=True):
    assert column.tolist() == (np.argmax(logits, axis=1) == LABELS).tolist()


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"names": ("pgd_2",)}, "attacks='pgd_2': did you mean 'pgd_20'"),
    ({"names": ()}, "expected one or several"),
    ({"names": ("fgsm", "fgsm")}, "each once"),
    ({"aims": ("exit",)}, "aims='exit': did you mean 'exits'"),
    ({"aims": ("max_average",)}, "add 'exits'"),
    ({"names": ("fgsm", "square"), "aims": ("average",)}, "'square',.*add 'exits', 'mean' or"),
    ({"names": ("cw_l2",)}, "'cw_l2',.* belong to no eps, so that none is left to count"),
    ({"version": "standart"}, "did you mean 'standard'"),
  ],
)
def test_what_is_no_option_is_refused(changes, said):
  with pytest.raises(ValueError, match=said):
    exit_attacks.check_options(options(**{"names": ("fgsm",), **changes}))


RULES = ["exit 0", "deployed"]


def flags(**left):
  """Flags of 100 images of which a point leaves so many under the rule 'deployed'."""
  correct = {
    name.replace("__", " at twice eps, ").replace("_by_", ", "): np.stack(
      [np.ones(100, bool), np.arange(100) < count], axis=1
    )
    for name, count in left.items()
  }
  found = exit_scores.find_flags(RULES, np.ones((100, 2), bool), correct)
  return [(each["kind"], each["rule"]) for each in found]


def test_masked_gradients_are_flagged():
  steady = {"pgd_20_by_deployed": 50, "pgd_20__deployed": 20}
  assert flags(**steady) == []
  assert flags(**steady, square_by_deployed=45) == []
  assert flags(**steady, square_by_deployed=30) == [("gradient_free", "deployed")]
  assert flags(**steady, **{"pgd_20_by_exit 0": 30}) == [
    ("transfer", "deployed"), ("larger_eps", "exit 0")
  ][:1]  # fmt: skip
  assert flags(**{**steady, "pgd_20__deployed": 50}) == [("larger_eps", "deployed")]
  assert ("more_steps", "deployed") in flags(**steady, pgd_100_by_deployed=70)
  # The strongest attack on the rule is the measure, so FGSM's points are no transfer.
  assert flags(**steady, fgsm_by_deployed=30) == [("one_step", "deployed")]
  assert flags(pgd_20_by_deployed=0, pgd_20__deployed=0) == []


def test_robust_is_robust_to_every_counted_point():
  rng = np.random.default_rng(0)
  names = ["fgsm, exit 0", "fgsm, deployed", "mim, deployed", "cw_l2, exit 0",
           "fgsm at twice eps, exit 0"]  # fmt: skip
  correct = {name: rng.random((40, 2)) < 0.8 for name in names}
  clean = rng.random((40, 2)) < 0.9
  result = exit_scores.summarise_points(RULES, clean, correct)
  for column, rule in enumerate(RULES):
    left = [
      all([clean[i, column], *(correct[name][i, column] for name in names[:3])]) for i in range(40)
    ]
    assert result["robust"][rule]["value"] == pytest.approx(np.mean(left))
    for part in ("attacks", "aims", "points"):
      assert all(each[rule] >= np.mean(left) - 1e-12 for each in result[part].values())
  assert list(result["apart"]) == ["cw_l2, exit 0"] and len(result["checks"]) == 1
  page = exit_scores.markdown(
    {**result, "num_examples": 40, "eps": EPS, "flags": [], "apart_distance": 1.0}
  )
  assert "| all of these |" in page and "No sign of masked gradients" in page


@pytest.mark.slow
def test_a_net_whose_gradients_are_masked_is_flagged():
  """Rounded inputs have no gradient: PGD finds nothing, and random search does."""

  def make_masked(weights):
    return lambda x: ((jnp.round(8 * x) / 8) @ weights, (jnp.round(8 * x) / 8) @ weights)

  x = DRAW.uniform(0.2, 0.8, (40, 6)).astype(np.float32)
  labels = np.argmax(make_masked(WEIGHTS[1])(x)[0], axis=1).astype(np.int32)
  chosen = options(("bim", "square"), ("exits",), max_steps=2, num_queries=60)
  run = exit_attacks.make_points(make_masked, WEIGHTS[1:], chosen, batch_size=40)
  correct_of = exit_attacks.make_correct(make_masked, WEIGHTS[1:], THRESHOLDS)
  correct = {}
  for attempt in exit_attacks.attempts(chosen):
    made = run(attempt, x, labels, jax.random.split(jax.random.key(2), 40))
    for name, x_adv in zip(exit_attacks.points(attempt, chosen), made, strict=True):
      correct[name] = correct_of(x_adv, labels)[0]
  rules = list(exit_attacks.rules(THRESHOLDS))
  found = exit_scores.find_flags(rules, correct_of(x, labels)[0], correct)
  kinds = {(each["kind"], each["rule"]) for each in found}
  assert {("gradient_free", "exit 0"), ("larger_eps", "exit 0")} <= kinds
