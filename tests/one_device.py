"""Runs on one device: that several agree with it is for `tests/parallel`."""

import contextlib
import functools

import jax
import pytest

from jax_robust.train import parallel


@contextlib.contextmanager
def one_device():
  """Trains and evaluates on the first of the devices, whose programs are quicker to compile."""
  with pytest.MonkeyPatch.context() as patch:
    first = jax.devices()[:1]
    patch.setattr(parallel, "data_mesh", functools.partial(parallel.data_mesh, devices=first))
    yield


@pytest.fixture(scope="module", autouse=True)
def on_one_device():
  """For a conftest of a folder whose tests train many small nets."""
  with one_device():
    yield
