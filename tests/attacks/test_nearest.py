"""What the minimum-norm attacks share, and that every search bears rows out of step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows import mostly_thorough

from jax_robust import attacks
from jax_robust.attacks import stepwise
from jax_robust.nets.randomised import keyed

KEY = jax.random.key(0)
SEARCHES = {
  "cw": (attacks.cw_search(num_steps=4, num_searches=3), attacks.l2_ball(0.5)),
  "ddn": (attacks.ddn_search(num_steps=12), attacks.l2_ball(0.5)),
  "ddn_levels": (attacks.ddn_search(num_steps=12, levels=16), attacks.l2_ball(0.5)),
  "multi_targeted": (
    attacks.multi_targeted_search(num_targets=2, num_steps=3, num_restarts=2),
    attacks.linf_ball(0.1),
  ),
  "multi_targeted_l1": (
    attacks.multi_targeted_search(num_targets=2, num_steps=3), attacks.l1_ball(0.5),
  ),
}  # fmt: skip


@jax.jit
def dense(x, rng=None):
  draw = np.random.default_rng(3)
  w1, w2 = (jnp.asarray(draw.normal(size=size), x.dtype) for size in ((8, 12), (12, 4)))
  x = x if rng is None else x + 0.1 * jax.random.normal(rng, x.shape, x.dtype)
  return jnp.tanh((x - 0.5) @ w1) @ w2


def randomised(x, rng):
  return dense(x, rng)


@jax.jit
def problem():
  x = jax.random.uniform(KEY, (4, 8))
  labels = jnp.argmax(dense(x), axis=-1)
  goals = jnp.stack([(labels + 1) % 4, (labels + 2) % 4], axis=1)
  return stepwise.Problem(x, labels, goals, jax.random.split(KEY, 4))


def states_equal(first, second):
  plain = lambda leaf: (  # noqa: E731
    jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
  )
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
    a, b = np.asarray(plain(a)), np.asarray(plain(b))
    largest = np.abs(b, where=np.isfinite(b), out=np.zeros(b.shape)).max()
    np.testing.assert_allclose(a, b, atol=2e-6 * largest)


@pytest.mark.parametrize(
  "logits_fn", mostly_thorough([dense, randomised], lambda logits_fn: logits_fn is dense)
)
@pytest.mark.parametrize("name", SEARCHES)
def test_rows_may_be_out_of_step(name, logits_fn):
  search, ball = SEARCHES[name]
  step = jax.jit(lambda state: search.step(ball, keyed(logits_fn), state))
  states, select = [jax.jit(search.init)(ball, problem())], jax.jit(stepwise.select)
  for _ in range(9):
    states.append(step(states[-1]))
  late = np.array([True, False, True, False])
  mixed = select(late, states[0], states[4])
  for k in range(1, 6):
    mixed = step(mixed)
    expected = select(late, states[k], states[4 + k])
    states_equal(mixed, expected)


@pytest.mark.parametrize("name", SEARCHES)
def test_every_leaf_has_the_batch_first(name):
  search, ball = SEARCHES[name]
  state = jax.eval_shape(lambda: search.init(ball, problem()))
  assert {leaf.shape[0] for leaf in jax.tree.leaves(state)} == {4}
  after = jax.eval_shape(lambda: search.step(ball, keyed(dense), search.init(ball, problem())))
  assert jax.tree.map(lambda leaf: leaf.dtype, state) == jax.tree.map(lambda z: z.dtype, after)


@pytest.mark.thorough
@pytest.mark.parametrize("name", SEARCHES)
def test_found_is_what_the_net_says_of_x_adv(name):
  search, ball = SEARCHES[name]
  given = problem()
  state = jax.jit(lambda given: stepwise.run(search, keyed(dense), given, ball=ball))(given)
  wrong = jnp.argmax(dense(state.x_adv), axis=-1) != given.labels
  np.testing.assert_array_equal(state.found, wrong)
  assert np.all(state.count == search.num_steps)
  assert np.all(ball.distance(state.x_adv, given.x) <= ball.eps * (1 + 1e-6))


@pytest.mark.parametrize("name", ["cw", "ddn", "multi_targeted"])
def test_logits_that_are_not_numbers_are_no_success(name):
  search, ball = SEARCHES[name]
  given = problem()
  for spoilt in (
    lambda x: jnp.full((x.shape[0], 4), jnp.nan),
    lambda x: dense(x).at[:, 1].set(jnp.nan),
  ):
    state = jax.jit(lambda x, f=spoilt: stepwise.run(
      search, keyed(f), given._replace(x=x), ball=ball
    ))(given.x)  # fmt: skip
    assert not np.any(state.found)
    np.testing.assert_array_equal(state.x_adv, given.x)


@pytest.mark.parametrize("name", ["cw_l2", "ddn", "multi_targeted"])
def test_exits_are_refused(name):
  exits = lambda x: (dense(x), dense(x))  # noqa: E731
  given = problem()
  with pytest.raises(ValueError, match=f"2 exits: {name} needs one array .*select_exit"):
    attacks.ATTACKS[name](exits, given.x, given.labels, KEY, ball=attacks.l2_ball(0.5))


@pytest.mark.parametrize("name", ["cw_l2", "ddn"])
@pytest.mark.parametrize("ball", [attacks.linf_ball(0.1), attacks.l1_ball(1.0)])
def test_minimum_norm_attacks_are_for_l2_only(name, ball):
  given = problem()
  with pytest.raises(ValueError, match=f"ball.norm='{ball.norm}': {name} .* an l2_ball"):
    attacks.ATTACKS[name](dense, given.x, given.labels, KEY, ball=ball)
