"""Published logs, which several modules look at and read_log takes a while to read."""

import functools

import pytest

from jax_robust import smoothing


@pytest.fixture(scope="session")
def published_log(oracles):
  """`published_log(name)`: a recorded certification log, read once."""
  return functools.cache(lambda name: smoothing.read_log(oracles / "certify_logs" / f"{name}.gz"))
