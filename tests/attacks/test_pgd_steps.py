"""Step-size schedules, and loops that are none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust import attacks
from jax_robust.attacks.pgd_steps import scan

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
  with pytest.raises(ValueError, match="smallest step is 0"):
    attacks.piecewise_constant(step_sizes)


@pytest.mark.parametrize(("count", "num_loops"), [(1, 0), (2, 1)])
def test_a_single_step_is_no_loop(count, num_loops):
  """A convolution in a loop is slow on the CPU, and JAX makes a loop of one step too."""
  run = jax.jit(lambda x: scan(lambda x, i: (jnp.sin(x + i), x), x, jnp.arange(count), unroll=1))
  assert run.lower(1.0).as_text().count("while") == num_loops
  expected, history = 1.0, []
  for i in range(count):
    history.append(expected)
    expected = np.sin(expected + i)
  carry, made = run(1.0)
  np.testing.assert_allclose((carry, *made), (expected, *history), rtol=1e-6)
