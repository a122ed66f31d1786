"""An attack of a single step queries its net outside of loops, where convolutions are slow."""

import jax
import jax.numpy as jnp
import pytest
from two_exits import on_two_exits

from jax_robust import attacks

pytestmark = pytest.mark.fast

PGD = {"num_steps": 1, "num_restarts": 1}
POINT = {"num_steps": 0, "num_restarts": 1}  # and the query of the start
ONE_STEP = {
  "fgsm": {}, "rs_fgsm": {}, "n_fgsm": {}, "pgd": PGD, "bim": {"num_steps": 1},
  "mim": {"num_steps": 1}, "cw_linf": PGD, "slowdown": PGD,
  "cw_l2": {"num_steps": 1, "num_searches": 1}, "ddn": {"num_steps": 1}, "apgd": POINT,
  "apgd_targeted": {**POINT, "num_targets": 1}, "fab": PGD,
  "fab_targeted": {**PGD, "num_targets": 1}, "square": {"num_queries": 0, "num_restarts": 1},
}  # fmt: skip
"""`multi_targeted` has no run of one query."""

SEVERAL = {
  name: {key: 65 if key in ("num_steps", "num_queries") else 1 for key in options}
  for name, options in ONE_STEP.items() if options
}  # fmt: skip
"""More than are unrolled."""


def net(x):
  """Its queries are known by their error function, which no attack has."""
  return jax.lax.erf(x)


def parts_of(value):
  """The programs that an equation's parameter holds."""
  if hasattr(value, "eqns"):
    yield value
  elif hasattr(value, "jaxpr"):
    yield from parts_of(value.jaxpr)
  elif isinstance(value, tuple | list):
    for each in value:
      yield from parts_of(each)


def queries(program, in_loop=False):
  """Whether each query of the net that a program makes is inside of a loop."""
  for equation in program.eqns:
    if equation.primitive.name == "erf":
      yield in_loop
    loop = in_loop or equation.primitive.name in ("scan", "while")
    for value in equation.params.values():
      for part in parts_of(value):
        yield from queries(part, loop)


def queries_of(name, options):
  attack = attacks.ATTACKS[name]
  attack = on_two_exits(attack) if name == "slowdown" else attack
  ball = attacks.l2_ball(0.3) if name in ("cw_l2", "ddn") else attacks.linf_ball(0.1)
  run = lambda x, y: attack(net, x, y, jax.random.key(0), ball=ball, **options)  # noqa: E731
  found = jax.make_jaxpr(run)(jnp.full((2, 4), 0.5), jnp.zeros(2, jnp.int32))
  return list(queries(found.jaxpr))


def test_every_attack_is_here():
  assert {*ONE_STEP, "multi_targeted"} == set(attacks.ATTACKS)


@pytest.mark.parametrize("name", ONE_STEP)
def test_a_single_step_is_no_loop(name):
  found = queries_of(name, ONE_STEP[name])
  assert found and not any(found)


@pytest.mark.parametrize("name", SEVERAL)
def test_the_loop_of_many_steps_is_seen(name):
  assert any(queries_of(name, SEVERAL[name]))
