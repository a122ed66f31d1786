"""Square Attack: what it keeps, what it finds, and what it refuses."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows import mostly_slow
from square_problem import (
  NUM_ROWS,
  RADII,
  SEARCH,
  begin,
  images,
  jitted_init,
  jitted_step,
  robust_logits,
  walk,
)

from jax_robust import attacks, losses
from jax_robust.attacks import stepwise
from jax_robust.attacks.square import square
from jax_robust.attacks.square_search import square_search
from jax_robust.types import as_keys

every_norm = pytest.mark.parametrize("norm", RADII)


@pytest.mark.parametrize(
  ("norm", "size"),
  mostly_slow(
    itertools.product(RADII, ("7 x 9 x 3", "2 x 2 x 1")),
    lambda norm, size: size == "7 x 9 x 3",
    thorough=[("l2", "2 x 2 x 1")],
  ),
)
def test_every_iterate_is_in_ball_and_box(norm, size):
  x = images(tuple(map(int, size.split(" x "))))
  ball = attacks.BALLS[norm](RADII[norm])
  for state in walk(norm, x, 25, take_all=True):
    x_adv = np.asarray(state.x_adv)
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    distance = np.asarray(ball.distance(state.x_adv, x))
    assert np.all(distance <= RADII[norm] * (1 + 1e-6)) and np.all(distance > 0)


@every_norm
def test_best_margin_never_falls(norm):
  states = walk(norm, images(), 80)
  margins = np.stack([state.best_margin for state in states])
  assert np.all(np.isneginf(margins[0])) and np.all(np.diff(margins[1:], axis=0) >= 0)
  assert np.all(margins[-1] > margins[1])
  for state in states[1::20]:
    margin = losses.margin(robust_logits(state.x_adv), jnp.ones(NUM_ROWS, jnp.int32))
    largest = np.abs(state.best_margin).max()  # about 100
    np.testing.assert_allclose(margin, state.best_margin, atol=1e-6 * largest)
  assert not np.any(states[-1].found)


def test_linear_optimum_is_approached():
  x = images((4, 4, 1), on_faces=False)
  attack = functools.partial(square, robust_logits, ball=attacks.linf_ball(0.1))
  labels = jnp.ones(NUM_ROWS, jnp.int32)
  x_adv = attack(x, labels, jax.random.key(0), num_queries=600, resc_schedule=True)
  weights = np.random.default_rng(0).normal(size=(4, 4, 1))
  np.testing.assert_allclose(x_adv, np.asarray(x) + 0.1 * np.sign(weights), atol=1e-6)


@jax.jit
def quantised_logits(x):
  """A linear model behind a rounding, through which no gradient comes."""
  score = jnp.sum(jnp.round(x * 20) / 20, axis=(1, 2, 3)) / x[0].size
  return 50 * jnp.stack([score - 0.5, 0.5 - score], axis=1)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 1.2)])
def test_quantised_model_is_broken(norm, eps):
  x = np.asarray(jax.random.uniform(jax.random.key(1), (NUM_ROWS, 8, 8, 1)))
  x = x - np.mean(x, axis=(1, 2, 3), keepdims=True) + np.float32(0.45)
  x = np.clip(x, 0.0, 1.0)
  labels, ball = np.argmax(quantised_logits(x), axis=-1), attacks.BALLS[norm](eps)
  attack = functools.partial(attacks.pgd, quantised_logits, ball=ball, start="zero", unroll=1)
  np.testing.assert_array_equal(jax.jit(attack)(x, labels, jax.random.key(0)), x)
  attack = functools.partial(square, quantised_logits, ball=ball, num_queries=300)
  x_adv = jax.jit(attack)(x, labels, jax.random.key(0))
  assert np.all(np.argmax(quantised_logits(x_adv), axis=-1) != labels)


@every_norm
def test_rows_at_different_counts_are_as_if_alone(norm):
  """Rows of two walks, side by side in one batch, go on bitwise as they did by themselves."""
  x = images()
  ball = attacks.BALLS[norm](RADII[norm])
  late, early = walk(norm, x, 62), walk(norm, x, 9)
  odd = np.arange(NUM_ROWS) % 2 == 1
  select = jax.jit(stepwise.select)
  mixed = select(odd, late[54], early[1])
  for _ in range(8):
    mixed = jitted_step(SEARCH, robust_logits)(ball, mixed)
  expected = select(odd, late[62], early[9])
  for name in ("count", "found", "x_adv", "best_margin"):
    np.testing.assert_array_equal(getattr(mixed, name), getattr(expected, name))


@every_norm
def test_zero_radius_is_the_identity(norm):
  x = images()
  _, state = begin(norm, x)
  ball = attacks.BALLS[norm](0.0)
  state = jitted_init(SEARCH)(ball, state.problem)
  for _ in range(5):
    np.testing.assert_array_equal(state.x_adv, x)
    state = jitted_step(SEARCH, robust_logits)(ball, state)
    state = state._replace(best_margin=jnp.full_like(state.best_margin, -jnp.inf))


def test_exact_l2_ball_gives_the_same():
  states = walk("l2", images(), 5)
  ball = attacks.l2_ball(RADII["l2"], exact=True)
  state = jitted_init(SEARCH)(ball, states[0].problem)
  for _ in range(5):
    state = jitted_step(SEARCH, robust_logits)(ball, state)
  np.testing.assert_array_equal(state.x_adv, states[-1].x_adv)


def test_first_adversarial_point_is_kept():
  def fragile(x):  # any increase of the sum by .2 fools it
    score = jnp.sum(x, axis=(1, 2, 3)) - jnp.sum(images((4, 4, 1)), axis=(1, 2, 3))
    return jnp.stack([score - 0.2, jnp.zeros_like(score)], axis=1)

  states = walk("linf", images((4, 4, 1)), 40, logits_fn=fragile)
  found = np.stack([state.found for state in states])
  assert found[-1].all() and not found[0].any()
  for row in range(NUM_ROWS):
    first = np.flatnonzero(found[:, row])[0]
    assert jnp.argmax(fragile(states[first].x_adv), axis=-1)[row] == 0
    for state in states[first:]:
      np.testing.assert_array_equal(state.x_adv[row], states[first].x_adv[row])


@pytest.mark.parametrize("value", [jnp.nan, 0.0])
def test_neither_nan_nor_a_tie_is_success(value):
  states = walk("linf", images((4, 4, 1)), 5, logits_fn=lambda x: jnp.full((NUM_ROWS, 2), value))
  tied = np.isfinite(value)
  # Equal logits have arg max 0, which is wrong here; with label 0 it is right.
  assert np.all(np.asarray(states[-1].found) == tied)
  x, labels = images((4, 4, 1)), jnp.zeros(NUM_ROWS, jnp.int32)
  search, ball = square_search(num_queries=3), attacks.linf_ball(0.1)
  problem = stepwise.Problem(x, labels, labels, as_keys(jax.random.key(0), NUM_ROWS))
  logits_fn = lambda x, keys: jnp.full((NUM_ROWS, 2), value)  # noqa: E731
  state = stepwise.run(search, logits_fn, problem, ball=ball)
  # A point whose logits are NaN is not even the best so far.
  assert not np.any(state.found) and np.all((ball.distance(state.x_adv, x) > 0) == tied)


def test_one_query_a_step_and_one_at_the_start():
  search = square_search(num_queries=3)
  assert search.num_steps == 4 and (search.num_forward, search.num_backward) == (1, 0)
  queries = []

  def count(x, keys):
    queries.append(x.shape)
    return robust_logits(x)

  ball, state = begin("linf", images())
  jax.eval_shape(lambda state: search.step(ball, count, state), state)
  assert queries == [state.x_adv.shape]


def test_randomised_models_get_new_noise_for_every_query():
  @jax.jit
  def step(state):
    state = state._replace(best_margin=jnp.full_like(state.best_margin, -jnp.inf))
    return SEARCH.step(ball, noise, state)

  def noise(x, keys):
    drawn = jax.vmap(jax.random.uniform)(keys)
    return jnp.stack([drawn - 1, jnp.zeros_like(drawn)], axis=1)

  ball, state = begin("linf", images())
  seen = []
  for _ in range(3):
    state = step(state)
    seen.append(state.best_margin)
  assert len(np.unique(np.concatenate(seen))) == 3 * NUM_ROWS


def test_exits_are_attacked_together():
  x, labels = images((4, 4, 1), on_faces=False), jnp.ones(NUM_ROWS, jnp.int32)

  def exits(x):
    score = jnp.mean(x, axis=(1, 2, 3)) - jnp.mean(images((4, 4, 1), False), axis=(1, 2, 3))
    wall = jnp.zeros_like(score)
    return jnp.stack([score - 0.05, wall], axis=1), jnp.stack([score - 0.09, wall], axis=1)

  ball = attacks.linf_ball(0.1)
  x_adv = square(exits, x, labels, jax.random.key(0), ball=ball, num_queries=300)
  assert all(np.all(jnp.argmax(logits, axis=-1) == 0) for logits in exits(x_adv))


def test_calls_that_make_no_sense_are_refused():
  x, labels, key = images((4, 4, 1)), jnp.ones(NUM_ROWS, jnp.int32), jax.random.key(0)
  attack = functools.partial(square, robust_logits, ball=attacks.linf_ball(0.1))
  logits_fn = lambda x: robust_logits(x.reshape(NUM_ROWS, 4, 4, 1))  # noqa: E731
  with pytest.raises(ValueError, match=r"shape \('b', 1, 4, 4, 1\).*\[b, h, w, c\]"):
    square(logits_fn, x[:, None], labels, key, ball=attacks.linf_ball(0.1))
  with pytest.raises(ValueError, match="num_restarts=0"):
    attack(x, labels, key, num_restarts=0)
  with pytest.raises(ValueError, match="num_queries=-1"):
    attack(x, labels, key, num_queries=-1)
  with pytest.raises(ValueError, match=r"p_init=1\.5"):
    attack(x, labels, key, p_init=1.5)
