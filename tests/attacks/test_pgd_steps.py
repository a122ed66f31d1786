"""Step-size schedules."""

import jax
import pytest

from jax_robust import attacks

pytestmark = pytest.mark.fast


def sizes(schedule, steps):
  return [round(float(jax.jit(schedule)(step)), 6) for step in steps]


def test_sizes_hold_from_their_step_on():
  schedule = attacks.piecewise_constant({0: 0.1, 20: 0.01, 30: 0.001})
  assert sizes(schedule, [0, 19, 20, 29, 30, 39]) == [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]


def test_keys_may_be_strings_in_any_order():
  schedule = attacks.piecewise_constant({"10": 0.01, "9": 0.05, "0": 0.1})
  assert sizes(schedule, [8, 9, 10]) == [0.1, 0.05, 0.01]


@pytest.mark.parametrize("step_sizes", [{}, {5: 0.1}, {-1: 0.1, 0: 0.2}])
def test_the_first_size_must_be_of_step_zero(step_sizes):
  with pytest.raises(ValueError, match="smallest step is 0|first step of step_sizes=-1"):
    attacks.piecewise_constant(step_sizes)
