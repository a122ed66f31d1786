"""Points whose logits are NaN or infinite are no attack, are counted, and the run goes on."""

import functools
import itertools

import jax
import jax.numpy as jnp
import linear_net
import numpy as np
import pytest
from rows import mostly_slow
from two_exits import on_two_exits

from jax_robust import attacks
from jax_robust.attacks import stepwise
from jax_robust.attacks.autoattack import STAGES, Settings
from jax_robust.errors import RobustnessWarning

KEY = jax.random.key(0)
LOST_ROWS = (2, 5)


def problem():
  """Images of six pixels; the first one of those of `LOST_ROWS` has little room."""
  x, _ = linear_net.interior(8)
  x = x.at[:, 0].set(0.95).at[jnp.array(LOST_ROWS), 0].set(0.41)
  return x, jnp.argmax(linear_net.linear(x), axis=1)


def leaves(x):
  """Whether the first pixel has left the room of `LOST_ROWS`; others stay above .6."""
  return (x[:, :1] < 0.4) | ((x[:, :1] > 0.42) & (x[:, :1] < 0.6))


def nan_outside(x):
  """NaN, and no gradient, where an image leaves."""
  return linear_net.linear(x) + 0 * jnp.log(jnp.where(leaves(x), -1.0, x[:, :1]))


def infinite_outside(x):
  """Of one class alone, and without a NaN in the gradient."""
  is_last = jnp.arange(4)[None] == 3
  return linear_net.linear(x) + jnp.where(leaves(x) & is_last, jnp.inf, 0.0)


def nan_below(x):
  """A net behind a logarithm, whose domain ends beside `LOST_ROWS`."""
  return linear_net.linear(x) + 0 * jnp.log(x[:, :1] - 0.4)


ATTACKS = {
  "fgsm": ("linf", attacks.fgsm, {}),
  "n_fgsm": ("linf", attacks.n_fgsm, {"noise_scale": 0.1}),
  "pgd": ("linf", attacks.pgd, {"num_steps": 20, "unroll": 1}),
  "pgd-best": ("linf", attacks.pgd, {"num_steps": 10, "unroll": 1, "num_restarts": 2}),
  "mim": ("linf", attacks.mim, {"num_steps": 10, "unroll": 1}),
  "cw_linf": ("linf", attacks.cw_linf, {"num_steps": 10, "unroll": 1}),
  "apgd": ("linf", attacks.apgd, {"num_steps": 20}),
  "apgd_targeted": ("linf", attacks.apgd_targeted, {"num_steps": 20}),
  "fab": ("linf", attacks.fab, {"num_steps": 20}),
  "fab_targeted": ("linf", attacks.fab_targeted, {"num_steps": 20}),
  "square": ("linf", attacks.square, {"num_queries": 100}),
  "multi_targeted": ("linf", attacks.multi_targeted, {"num_steps": 10, "num_restarts": 1}),
  "slowdown": ("linf", on_two_exits(attacks.slowdown), {"num_steps": 20, "unroll": 1}),
  "cw_l2": ("l2", attacks.cw_l2, {"num_steps": 40, "num_searches": 3, "initial_c": 1.0}),
  "ddn": ("l2", attacks.ddn, {"num_steps": 40, "initial_norm": 0.3}),
}
EPS = {"linf": 0.15, "l2": 0.4}
QUICK = [("pgd", "nan"), ("apgd", "inf"), ("fab", "nan"), ("square", "inf"), ("cw_l2", "inf")]
THOROUGH = [("n_fgsm", "inf"), ("multi_targeted", "nan"), ("ddn", "nan")]
LOST = {"nan": nan_outside, "inf": infinite_outside}


@pytest.mark.parametrize(
  ("name", "lost"),
  mostly_slow(itertools.product(ATTACKS, LOST), *QUICK, thorough=THOROUGH),
)
def test_a_lost_point_is_no_attack_and_its_image_is_named(name, lost):
  logits_fn = LOST[lost]
  norm, attack, options = ATTACKS[name]
  x, labels = problem()
  ball = attacks.BALLS[norm](EPS[norm])
  run = functools.partial(attack, x=x, targets=labels, rng=KEY, ball=ball, **options)
  with pytest.warns(RobustnessWarning, match=r"NaN or infinite at \d+ points that were tried") as w:
    x_adv = run(logits_fn)
  named = {int(row) for row in str(w[0].message).split("of images ")[1].split(":")[0].split(", ")}
  assert named and named <= set(LOST_ROWS)
  assert jnp.isfinite(logits_fn(x_adv)).all()
  others = np.setdiff1d(np.arange(8), LOST_ROWS)  # they notice nothing
  expected = jax.jit(lambda: run(linear_net.linear))()
  np.testing.assert_allclose(x_adv[others], expected[others], atol=1e-6)


@pytest.mark.parametrize("name", ["pgd-best", "apgd", "square", "multi_targeted"])
def test_the_run_goes_on(name):
  """Every image can be broken without the pixel whose fall is lost; that has been found."""
  norm, attack, options = ATTACKS[name]
  x, labels = problem()
  ball = attacks.BALLS[norm](2.5 * EPS[norm])
  with pytest.warns(RobustnessWarning):
    x_adv = attack(nan_below, x, labels, KEY, ball=ball, **options)
  assert np.all(jnp.argmax(nan_below(x_adv), axis=1) != labels)


@pytest.mark.parametrize("name", ["pgd", "apgd", "fab", "square", "cw_l2", "multi_targeted"])
def test_logits_that_are_lost_at_an_image_are_refused(name):
  norm, attack, options = ATTACKS[name]
  x, labels = problem()
  ball = attacks.BALLS[norm](EPS[norm])
  with pytest.raises(ValueError, match="logits are NaN or infinite for images 3"):
    attack(nan_below, x.at[3, 0].set(0.3), labels, KEY, ball=ball, **options)


@pytest.mark.thorough
def test_autoattack_counts_lost_points_and_names_the_ids():
  x, labels = problem()
  settings = Settings(num_steps=10, num_restarts=1, num_queries=60)
  stages = tuple(STAGES[name](settings) for name in ("apgd-ce", "apgd-t", "fab-t", "square", "mt"))
  evaluate = attacks.make_autoattack(nan_outside, norm="linf", version=stages, batch_size=8)
  ball, ids = attacks.linf_ball(0.03), np.arange(100, 108)
  with pytest.warns(RobustnessWarning, match="NaN or infinite at .* of images 102, 105"):
    result = evaluate(x, labels, KEY, ball=ball, ids=ids, check=False)
  assert any("of images 102, 105" in line for line in result.warnings)
  np.testing.assert_array_equal(np.flatnonzero(result.num_lost), LOST_ROWS)
  assert not any(result.rejected.values())
  assert np.isfinite(nan_outside(result.x_adv)).all()
  with pytest.raises(ValueError, match="NaN or infinite for images 103"):
    evaluate(x.at[3, 0].set(0.3), labels, KEY, ball=ball, ids=ids, check=False)


def test_under_jit_lost_points_are_counted_by_the_searches():
  x, labels = problem()
  search = attacks.cw_search(num_steps=30, num_searches=2, initial_c=1.0)
  keys = jax.random.split(KEY, 8)
  run = lambda x: stepwise.run(  # noqa: E731
    search, lambda x, keys: nan_outside(x), stepwise.Problem(x, labels, labels, keys),
    ball=attacks.l2_ball(0.4),
  )  # fmt: skip
  num_lost = np.asarray(jax.jit(run)(x).num_lost)
  assert set(np.flatnonzero(num_lost)) <= set(LOST_ROWS) and num_lost.any()
