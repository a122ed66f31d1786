"""A study trains many nets that are alike, for two steps each: on one device, and compiled once."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from one_device import on_one_device  # noqa: F401


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
  """A training finds the programs that the one before has compiled."""
  options = {
    "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("xla")),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
  }
  before = {name: getattr(jax.config, name) for name in options}
  _use(options)
  yield
  _use(before)


def _use(options):
  for name, value in options.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()  # it looks at the options once
