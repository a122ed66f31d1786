"""Eight virtual CPU devices, strict rank promotion, shape checks, and where the real data lies."""

import gc
import os
import pathlib
import signal

from quick_compilation import ENVIRONMENT, XLA_FLAGS

os.environ |= {**ENVIRONMENT, **os.environ}
os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count=8 {XLA_FLAGS}")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hypothesis
import jax
import pytest
import quick_lowering
import quick_typing

quick_typing.install()
quick_lowering.install()
jax.config.update("jax_numpy_rank_promotion", "raise")

# A shell that starts the suite in the background makes it, and all its children, deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

# An example that compiles takes as long as it takes.
hypothesis.settings.register_profile("jax_robust", deadline=None)
hypothesis.settings.load_profile("jax_robust")


def pytest_xdist_auto_num_workers(config):
  """One worker more than there are cores, since tests wait for child processes and the disk."""
  return (os.cpu_count() or 1) + 1


def pytest_collection_finish(session):
  """Thousands of tests and whole frameworks are no garbage, and need no looking through."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(20_000, 20, 20)


def pytest_runtest_setup(item):
  quick_typing.begin()


REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
SHARED = pathlib.Path(os.environ.get("JAX_ROBUST_DATA", REPOSITORY.parent / "shared"))


@pytest.fixture(scope="session")
def repository():
  """The root of the checkout."""
  return REPOSITORY


@pytest.fixture(scope="session")
def shared():
  """The folder with real data and oracles; its tests are skipped, saying so, where it is absent."""
  if not (SHARED / "data").is_dir():
    pytest.skip(f"no data in {SHARED}: set JAX_ROBUST_DATA to the folder of data/ and oracles/")
  return SHARED


@pytest.fixture(scope="session")
def oracles(shared):
  """The recorded outputs of reference programs."""
  if not (shared / "oracles").is_dir():
    pytest.skip(f"no oracles in {shared}")
  return shared / "oracles"
