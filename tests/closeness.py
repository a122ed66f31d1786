"""How close two programs' numbers must be: in units of the largest entry of each array."""

import jax
import numpy as np


def assert_close(actual, expected, tolerance=1e-5):
  """Raises unless each array differs by at most `tolerance` times its largest expected entry."""
  jax.tree.map(lambda a, b: _assert_close(a, b, tolerance), actual, expected)


def _assert_close(a, b, tolerance):
  np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())
