"""What holds for every attack in every ball. A new attack adds one row to `ATTACKS_UNDER_TEST`.

That eager calls, `jit` and any number of devices, and so of rows, give the same result is held by
`tests/parallel/test_mapped_table.py`, which is also in float64.
"""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows import mostly_slow
from two_exits import on_two_exits

from jax_robust import attacks, losses
from jax_robust.types import as_keys

BALLS = {
  "linf": attacks.linf_ball,
  "l2": attacks.l2_ball,
  "l2_exact": functools.partial(attacks.l2_ball, exact=True),
  "l1": functools.partial(attacks.l1_ball, sparsity=0.2),
}
# About as hard to resist in each norm; 12 pixels.
RADII = {"linf": 0.1, "l2": 0.3, "l2_exact": 0.3, "l1": 0.8}


class Row(NamedTuple):
  """An attack with its settings, the balls it works in, and what is not true of it.

  A minimum-norm attack gives x back where it finds nothing inside the ball.
  """

  attack: Any
  balls: tuple[str, ...] = ("linf", "l2", "l1")
  stays_in_ball: bool = True
  depends_on_key: bool = True
  minimum_norm: bool = False


pgd = functools.partial(attacks.pgd, num_steps=4, unroll=1)  # rolled up: quicker to compile
multi_targeted = functools.partial(
  attacks.multi_targeted, num_targets=2, num_steps=3, num_restarts=1
)

ATTACKS_UNDER_TEST = {
  "fgsm": Row(attacks.fgsm, depends_on_key=False),
  "rs_fgsm": Row(attacks.rs_fgsm),
  "n_fgsm": Row(attacks.n_fgsm, balls=("linf",), stays_in_ball=False),
  "pgd": Row(pgd, balls=tuple(BALLS)),
  "pgd_normal": Row(functools.partial(pgd, start="normal"), balls=("l2",)),
  "pgd_adam": Row(functools.partial(pgd, optimizer=attacks.adam({0: 0.05})), balls=("linf", "l2")),
  "pgd_best": Row(functools.partial(pgd, num_restarts=2, keep_best=True), balls=("linf", "l1")),
  "bim": Row(functools.partial(attacks.bim, num_steps=4, unroll=1), depends_on_key=False),
  "mim": Row(functools.partial(attacks.mim, num_steps=4, unroll=1), depends_on_key=False),
  "cw_linf": Row(functools.partial(attacks.cw_linf, num_steps=5, unroll=1), balls=("linf",)),
  "multi_targeted": Row(multi_targeted),
  "multi_targeted_adam": Row(
    functools.partial(multi_targeted, stop_when_found=True, optimizer=attacks.adam({0: 0.05})),
    balls=("l2",),
  ),
  "cw_l2": Row(
    functools.partial(
      attacks.cw_l2, num_steps=20, num_searches=3, initial_c=0.1, learning_rate=0.1
    ),
    balls=("l2", "l2_exact"),
    depends_on_key=False,
    minimum_norm=True,
  ),
  "ddn": Row(
    functools.partial(attacks.ddn, num_steps=20, gamma=0.2),
    balls=("l2", "l2_exact"),
    depends_on_key=False,
    minimum_norm=True,
  ),
  "apgd": Row(functools.partial(attacks.apgd, num_steps=6)),
  "apgd_restarts": Row(
    functools.partial(attacks.apgd, num_steps=5, num_restarts=2, loss_fn=losses.dlr),
    balls=("linf",),
  ),
  "apgd_targeted": Row(functools.partial(attacks.apgd_targeted, num_steps=5, num_targets=2)),
  "fab": Row(functools.partial(attacks.fab, num_steps=8), depends_on_key=False, minimum_norm=True),
  "fab_targeted": Row(
    functools.partial(attacks.fab_targeted, num_steps=8, num_targets=2),
    depends_on_key=False,
    minimum_norm=True,
  ),
  "square": Row(functools.partial(attacks.square, num_queries=30)),
  # With a weight, since by itself it asks for no wrong answer.
  "slowdown": Row(
    on_two_exits(functools.partial(attacks.slowdown, weight=2.0, num_steps=4, unroll=1)),
    balls=("linf",),
  ),
}

CASES = [(name, ball) for name, row in ATTACKS_UNDER_TEST.items() for ball in row.balls]

# These two are of every attack, and of every kind of step in every ball; the others are slow tests.
QUICK = (
  ("fgsm", "linf"), ("n_fgsm", "linf"), ("pgd", "linf"), ("pgd", "l1"), ("pgd_adam", "l2"),
  ("mim", "l2"), ("cw_linf", "linf"), ("cw_l2", "l2"), ("ddn", "l2"), ("apgd", "linf"),
  ("apgd_targeted", "l2"), ("fab", "l2"), ("square", "linf"), ("slowdown", "linf"),
)  # fmt: skip
THOROUGH = (
  ("rs_fgsm", "l2"), ("pgd", "l2_exact"), ("pgd_best", "linf"), ("bim", "linf"),
  ("multi_targeted", "l2"), ("apgd", "l1"), ("fab", "l1"), ("fab_targeted", "linf"),
  ("square", "l2"), ("square", "l1"),
)  # fmt: skip
VARIANTS = ("rs_fgsm", "n_fgsm", "bim", "mim", "cw_linf", "apgd_targeted", "fab_targeted",
            "slowdown", "pgd_normal", "pgd_best", "multi_targeted_adam",
            "apgd_restarts")  # fmt: skip
"""They leave the gradients to another attack of the table."""

every_case = pytest.mark.parametrize(
  ("name", "ball_name"), mostly_slow(CASES, *QUICK, thorough=THOROUGH)
)

NUM_ROWS = 8


def logits_fn(x):
  """A dense net of two layers on 2 x 2 x 3 pixels, five classes."""
  draw = np.random.default_rng(3)
  w1 = jnp.asarray(draw.normal(size=(12, 16)), x.dtype) * 0.7
  w2 = jnp.asarray(draw.normal(size=(16, 5)), x.dtype)
  return jnp.tanh((x.reshape(x.shape[0], -1) - 0.5) @ w1) @ w2


def problem(dtype=jnp.float32):
  """Images with the labels the net gives them, two of their pixels on the faces of the box."""
  x = jax.random.uniform(jax.random.key(0), (NUM_ROWS, 2, 2, 3), dtype)
  x = x.at[:, 0, 0, 0].set(0.0).at[:, 0, 0, 1].set(1.0)
  return x, jnp.argmax(logits_fn(x), axis=-1)


@functools.cache
def jitted(name, ball_name):
  """The attack, compiled once for all the tests of its row; eps and keys are traced."""
  chex.clear_trace_counter()
  attack = ATTACKS_UNDER_TEST[name].attack

  @jax.jit
  @chex.assert_max_traces(n=1)
  def run(x, labels, keys, eps):
    return attack(logits_fn, x, labels, keys, ball=BALLS[ball_name](eps))

  return run


def run(name, ball_name, eps=None, seed=0):
  """x and x_adv of the standard problem."""
  x, labels = problem()
  keys = as_keys(jax.random.key(seed), NUM_ROWS)
  eps = RADII[ball_name] if eps is None else eps
  return x, jitted(name, ball_name)(x, labels, keys, jnp.float32(eps))


def test_every_attack_is_in_the_table():
  under_test = {
    getattr(row.attack, "func", row.attack).__name__ for row in ATTACKS_UNDER_TEST.values()
  }
  assert {attack.__name__ for attack in attacks.ATTACKS.values()} <= under_test
  covered = {*QUICK, *THOROUGH}
  assert {name for name, _ in covered} >= attacks.ATTACKS.keys() and covered <= {*CASES}


@every_case
def test_result_is_in_ball_and_box(name, ball_name):
  eps = RADII[ball_name]
  x, x_adv = run(name, ball_name)
  assert x_adv.min() >= 0 and x_adv.max() <= 1
  assert x_adv.shape == x.shape and x_adv.dtype == x.dtype
  distance = np.asarray(BALLS[ball_name](eps).distance(x_adv, x))
  if ATTACKS_UNDER_TEST[name].stays_in_ball:
    assert np.all(distance <= eps * (1 + 1e-6))
  else:
    assert np.any(distance > eps)
  moved = distance > 0.1 * eps
  assert np.any(moved) if ATTACKS_UNDER_TEST[name].minimum_norm else np.all(moved)


@every_case
def test_zero_radius_is_the_identity(name, ball_name):
  x, x_adv = run(name, ball_name, eps=0.0)
  np.testing.assert_array_equal(x_adv, x)


@every_case
def test_same_key_gives_the_same_result(name, ball_name):
  _, first = run(name, ball_name, seed=1)
  _, second = run(name, ball_name, seed=1)
  _, other = run(name, ball_name, seed=2)
  np.testing.assert_array_equal(first, second)
  if ATTACKS_UNDER_TEST[name].depends_on_key:
    assert not np.array_equal(first, other)


@every_case
def test_one_compilation_serves_every_radius(name, ball_name):
  for eps in (0.3, 0.5, 1.0):  # `jitted` raises at the second trace
    run(name, ball_name, eps=eps * RADII[ball_name])
  assert jitted(name, ball_name)._cache_size() == 1


@every_case
def test_success_never_falls_with_eps(name, ball_name):
  labels = problem()[1]
  rates = []
  for scale in (0.0, 0.25, 0.5, 1.0, 2.0, 4.0):
    _, x_adv = run(name, ball_name, eps=scale * RADII[ball_name])
    rates.append(np.mean(np.argmax(logits_fn(x_adv), axis=-1) != labels))
  assert rates[0] == 0 and rates[-1] >= 0.5
  assert rates == sorted(rates)


@every_case
def test_result_is_independent_of_the_batch(name, ball_name):
  """Other neighbours, at another place; other batch sizes are for the mapped table."""
  x, labels = problem()
  keys, eps = as_keys(jax.random.key(0), NUM_ROWS), jnp.float32(RADII[ball_name])
  rows = jnp.array([5, 5, 0, 5, 3, 3, 1, 0])
  moved = jitted(name, ball_name)(x[rows], labels[rows], keys[rows], eps)
  np.testing.assert_allclose(moved, run(name, ball_name)[1][rows], atol=2e-6)


def test_one_key_is_folded_with_the_row_number():
  x, labels = problem()
  attack = functools.partial(attacks.rs_fgsm, ball=attacks.linf_ball(0.1))
  key = jax.random.key(4)
  attack = jax.jit(functools.partial(attack, logits_fn))
  together = attack(x, labels, key)
  keys = jnp.stack([jax.random.key(9), jax.random.fold_in(key, 3)])
  row = attack(x[2:4], labels[2:4], keys)[1:]
  np.testing.assert_allclose(row, together[3:4], atol=1e-6)


@pytest.mark.parametrize("name", mostly_slow(ATTACKS_UNDER_TEST, lambda name: name not in VARIANTS))
def test_no_gradient_flows_out(name):
  ball_name = ATTACKS_UNDER_TEST[name].balls[-1]
  x, labels = problem()
  attack, ball = ATTACKS_UNDER_TEST[name].attack, BALLS[ball_name](RADII[ball_name])

  @jax.jit
  def gradients(scale, x, targets):
    def outer(scale, x, targets):
      scaled = lambda x: scale * logits_fn(x)  # noqa: E731
      return jnp.sum(attack(scaled, x, targets, jax.random.key(0), ball=ball) ** 2)

    return jax.grad(outer, argnums=(0, 1, 2))(scale, x, targets)

  for gradient in gradients(1.0, x, jax.nn.one_hot(labels, 5)):
    np.testing.assert_array_equal(gradient, jnp.zeros_like(gradient))


# Most by default in the mapped table alone.
@pytest.mark.parametrize("name", mostly_slow(attacks.ATTACKS, "pgd", "square"))
def test_float64_stays_float64(name):
  ball_name = ATTACKS_UNDER_TEST[name].balls[-1]
  with jax.enable_x64(True):
    x, labels = problem(jnp.float64)
    attack, eps = ATTACKS_UNDER_TEST[name].attack, RADII[ball_name]
    ball = BALLS[ball_name](eps)
    x_adv = jax.jit(functools.partial(attack, logits_fn, ball=ball))(x, labels, jax.random.key(0))
    assert x_adv.dtype == jnp.float64
    if ATTACKS_UNDER_TEST[name].stays_in_ball:
      assert np.all(ball.distance(x_adv, x) <= eps * (1 + 1e-13))
