"""Loops stay loops in this folder."""

import pytest

from jax_robust import attacks


@pytest.fixture(autouse=True)
def rolled(monkeypatch):
  """A step of an attack is compiled once, not once for each step; the result is the same."""
  monkeypatch.setattr(attacks, "default_unroll", lambda num_steps: 1)
