"""Loops over queries of a net: unrolled on the CPU, and none where there is a single step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust.nets.loops import scan

pytestmark = pytest.mark.fast


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
