"""Rows of the host go to the devices in batches of one size, so every program compiles once."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jax_robust.types import fold, fold_ids


@dataclasses.dataclass(frozen=True)
class HostKeys:
  """Keys on the host, one per row: cutting and joining them compiles nothing.

  Attributes:
    data: of the keys, `[n, ...]`.
    impl: what makes keys of it.
  """

  data: np.ndarray
  impl: Any

  def __len__(self) -> int:
    return len(self.data)

  def __getitem__(self, rows: Any) -> "HostKeys":
    return HostKeys(self.data[rows], self.impl)

  def typed(self) -> Array:
    """The keys on a device, `[n]`."""
    return jax.random.wrap_key_data(jnp.asarray(self.data), impl=self.impl)

  def fold(self, number: Any, size: int) -> "HostKeys":
    """Every key, folded with one number; in batches of `size`."""
    fold_some = lambda keys: _fold(keys.typed(), number)  # noqa: E731
    return HostKeys(in_batches(fold_some, (self,), size), self.impl)


def to_host(keys: Array) -> HostKeys:
  """Keys of a device, `[n]`."""
  return HostKeys(np.asarray(jax.random.key_data(keys)), jax.random.key_impl(keys))


def keys_of_ids(rng: Array, ids: np.ndarray, size: int) -> HostKeys:
  """One key, folded with each id; in batches of `size`."""
  data = in_batches(lambda some: _fold_ids(rng, some), (ids,), size)
  return HostKeys(data, jax.random.key_impl(rng))


@jax.jit
def _fold(keys, number):
  """Key data of keys that are folded with a number."""
  return jax.random.key_data(fold(keys, number))


@jax.jit
def _fold_ids(rng, ids):
  """Key data of one key, folded with each id."""
  return jax.random.key_data(fold_ids(rng, ids))


def in_batches(fn: Callable[..., Any], rows: tuple[Any, ...], size: int) -> np.ndarray:
  """`fn(*rows)` of n >= 1 rows, called with `size` rows at a time, the first ones to fill up.

  Args:
    fn: of arrays `[size, ...]` to an array `[size, ...]`, row by row.
    rows: arrays of the host `[n, ...]`, or `HostKeys`.
    size: rows of a call.

  Returns:
    `[n, ...]`, on the host.
  """
  num_rows = len(rows[0])
  done = []
  for first in range(0, num_rows, size):
    chosen = np.arange(first, first + size) % num_rows
    done.append(np.asarray(fn(*(each[chosen] for each in rows)))[: num_rows - first])
  return np.concatenate(done)
