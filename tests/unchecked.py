"""Calls the package as a user does, without the shape checks that the suite's hook adds to it."""

import jaxtyping
import pytest


@pytest.fixture(autouse=True)
def as_a_user():
  """The errors are the package's own, not those of jaxtyping and beartype."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)
