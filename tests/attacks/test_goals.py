"""Targeted attacks: success is the goal, and whatever an exact bound says can be reached is."""

import functools
import inspect

import jax
import jax.numpy as jnp
import linear_net
import numpy as np
import pytest
import scipy.optimize
from rows import mostly_thorough

from jax_robust import attacks, losses
from jax_robust.attacks import stepwise
from jax_robust.attacks.apgd_search import apgd_search

EPS = {"linf": 0.07, "l2": 0.15}
KEY = jax.random.key(1)

SMALLER = attacks.piecewise_constant({0: 0.03, 20: 0.01, 40: 0.003})
SIGNS = {"num_steps": 60, "unroll": 1, "step_size": SMALLER}

# The ball, settings as strong as a linear net of six pixels asks for, and a share of eps: whatever
# goal is as near as that must be reached.
TARGETED = {
  "pgd": ("linf", attacks.pgd, SIGNS, 0.9),
  "pgd-margin": ("linf", attacks.pgd, {**SIGNS, "loss_fn": losses.margin}, 0.9),
  "pgd-l2": ("l2", attacks.pgd, {**SIGNS, "keep_best": True}, 0.9),
  "bim": ("linf", attacks.bim, SIGNS, 0.9),
  "mim": ("linf", attacks.mim, {**SIGNS, "momentum": 0.3}, 0.9),
  "cw_linf": ("linf", attacks.cw_linf, SIGNS, 0.9),
  "apgd": ("linf", attacks.apgd, {"num_steps": 60}, 0.9),
  "apgd-margin": ("linf", attacks.apgd, {"num_steps": 60, "loss_fn": losses.margin}, 0.9),
  "square": ("linf", attacks.square, {"num_queries": 400}, 0.9),
  "fab": ("linf", attacks.fab, {"num_steps": 40}, 0.9),
  "fab-l2": ("l2", attacks.fab, {"num_steps": 40}, 0.95),
  "cw_l2": ("l2", attacks.cw_l2, {"num_steps": 80, "num_searches": 4, "initial_c": 0.1}, 0.95),
  "ddn": ("l2", attacks.ddn, {"num_steps": 100, "initial_norm": 0.1}, 0.9),
}


def logits_fn(x):
  """The linear net with steep logits, whose cross entropy is as good as the margin."""
  return 30 * linear_net.linear(x.reshape(x.shape[0], -1))


@functools.cache
def problem():
  """Images, labels and goals of which about half can be reached, and how far the goals are."""
  x, labels = linear_net.interior(24)
  goals = (labels + 1 + jnp.arange(24) % 3) % 4
  return x, labels, goals, {norm: exact_distances(x, goals, norm) for norm in EPS}


def exact_distances(x, goals, norm):
  """Of each image to where the goal leads, by a linear or quadratic program."""
  weights, found = linear_net.WEIGHTS.astype(np.float64), []
  for image, goal in zip(np.asarray(x, np.float64), np.asarray(goals), strict=True):
    normals = np.delete(weights[:, [goal]] - weights, goal, axis=1).T  # normals @ delta >= behind
    behind = -normals @ (image - 0.5)
    if norm == "linf":  # the smallest t with |delta| <= t
      rows = np.block([[-normals, np.zeros((3, 1))], [np.eye(6), -np.ones((6, 1))],
                       [-np.eye(6), -np.ones((6, 1))]])  # fmt: skip
      bounds = [(None, None)] * 6 + [(0, None)]
      right = np.concatenate([-behind, np.zeros(12)])
      found.append(scipy.optimize.linprog([0] * 6 + [1], rows, right, bounds=bounds).fun)
    else:
      within = {"type": "ineq", "fun": lambda d, n=normals, b=behind: n @ d - b}
      best = scipy.optimize.minimize(lambda d: d @ d, np.zeros(6), constraints=[within])
      found.append(np.sqrt(best.fun))
  return np.array(found)


@pytest.mark.parametrize("name", mostly_thorough(TARGETED, *list(TARGETED)[::2]))
def test_goals_that_can_be_reached_are(name):
  norm, attack, options, share = TARGETED[name]
  x, labels, goals, distances = problem()
  ball = attacks.BALLS[norm](EPS[norm])
  run = functools.partial(attack, logits_fn, rng=KEY, ball=ball, goals=goals, **options)
  x_adv = jax.jit(lambda x: run(x=x, targets=labels))(x)
  reached = np.asarray(jnp.argmax(logits_fn(x_adv), axis=1) == goals)
  near, far = distances[norm] < share * EPS[norm], distances[norm] > EPS[norm] * (1 + 1e-4)
  assert near.sum() > 9 and far.sum() > 3
  assert reached[near].all(), f"missed {np.flatnonzero(near & ~reached)}"
  assert not reached[far].any()
  assert np.all(ball.distance(x_adv, x) <= EPS[norm] * (1 + 1e-6))


@pytest.mark.parametrize("name", ["fgsm", "rs_fgsm", "n_fgsm"])
def test_a_single_step_goes_towards_the_goal(name):
  x, labels, goals, _ = problem()
  attack = functools.partial(attacks.ATTACKS[name], logits_fn, x, labels, KEY)
  x_adv = attack(ball=attacks.linf_ball(0.02), goals=goals)
  loss = lambda x: losses.cross_entropy(logits_fn(x), goals)  # noqa: E731
  assert np.mean(loss(x_adv) < loss(x)) > 0.75  # a random start of two may go the other way


def test_every_attack_takes_goals_or_goes_for_each_class_in_turn():
  in_turn = {"apgd_targeted", "fab_targeted", "multi_targeted"}
  takes = {n for n, a in attacks.ATTACKS.items() if "goals" in inspect.signature(a).parameters}
  assert takes | in_turn == set(attacks.ATTACKS) and not takes & in_turn


@pytest.mark.parametrize("to_goal", [False, True])
def test_success_belongs_to_the_loss(to_goal):
  """Of an image that falls for any other class at once, only the goal is a success."""
  x, labels, goals, distances = problem()
  search = apgd_search(
    lambda outputs, labels, goals: -losses.cross_entropy(outputs, goals), num_steps=30,
    to_goal=to_goal,
  )  # fmt: skip
  state = stepwise.run(
    search, lambda x, keys: logits_fn(x),
    stepwise.Problem(x, labels, goals, jax.random.split(KEY, 24)),
    ball=attacks.linf_ball(EPS["linf"]), stop_when_found=True,
  )  # fmt: skip
  pred = np.argmax(logits_fn(state.x_adv), axis=1)
  np.testing.assert_array_equal(state.found, pred == goals if to_goal else pred != labels)
  if to_goal:
    assert np.asarray(state.found)[distances["linf"] < 0.95 * EPS["linf"]].all()
  else:  # it stopped at another class
    assert np.any(np.asarray(state.found) & (pred != goals))


@pytest.mark.parametrize("name", ["pgd", "n_fgsm", "cw_linf", "apgd", "square", "fab"])
@pytest.mark.parametrize(
  ("goals", "error", "message"),
  [
    ([1.0] * 24, TypeError, "goals have dtype float"),
    ([True] * 24, TypeError, "goals have dtype bool"),
    ([1, 2], ValueError, r"goals have shape \(2,\): expected \(24,\)"),
    (1, ValueError, r"goals have shape \(\)"),
    ([4] * 24, ValueError, "goals 4, 4, .* are outside 0 to 3, the classes of the model"),
    ([-1] * 24, ValueError, "goals -1, -1, .* are outside 0"),
    ("labels", ValueError, "are the labels themselves"),
  ],
)
def test_goals_that_are_none_are_refused(name, goals, error, message):
  x, labels, *_ = problem()
  goals = labels if isinstance(goals, str) else goals
  attack, ball = attacks.ATTACKS[name], attacks.linf_ball(0.1)
  with pytest.raises(error, match=message):
    attack(logits_fn, x, labels, KEY, ball=ball, goals=goals)


@pytest.mark.parametrize("name", ["pgd", "apgd", "ddn"])
def test_dlr_leads_to_no_goal(name):
  x, labels, goals, _ = problem()
  attack, ball = attacks.ATTACKS[name], attacks.BALLS["l2"](0.1)
  with pytest.raises(ValueError, match="dlr, which has no gradient towards a goal"):
    attack(logits_fn, x, labels, KEY, ball=ball, goals=goals, loss_fn=losses.dlr)


def test_goals_are_traced_like_all_else():
  x, labels, goals, _ = problem()
  attack = functools.partial(attacks.pgd, logits_fn, ball=attacks.linf_ball(0.07))
  eager = attack(x, labels, KEY, goals=goals)
  traced = jax.jit(lambda x, labels, goals: attack(x, labels, KEY, goals=goals))(x, labels, goals)
  np.testing.assert_allclose(traced, eager, atol=1e-6)
