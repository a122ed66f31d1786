"""Loops over queries of a net, which on the CPU are slow unless they are unrolled."""

from collections.abc import Callable
from typing import Any

import jax

from jax_robust.errors import check_count

_MOST_UNROLLED_STEPS = 64


def default_unroll(num_steps: int) -> int:
  """How many steps of a loop over convolutions to unroll: on the CPU all, up to 64; else 1.

  XLA runs a convolution inside a loop 5 to 27 times slower on the CPU, however far the loop is
  unrolled in part. Ten steps of an eight-convolution network on two cores: .29 s unrolled, 1.63 s
  not. Compilation of 40 unrolled steps took 3.5 s against .5 s, repaid by the first call.

  >>> default_unroll(1000)
  1
  """
  if jax.default_backend() == "cpu" and num_steps <= _MOST_UNROLLED_STEPS:
    return max(num_steps, 1)
  return 1


def read_unroll(unroll: int | None, num_steps: int) -> int:
  """How many steps of a loop to unroll: what was asked for, or else `default_unroll`.

  Raises:
    ValueError: it is no whole number of at least 1.

  >>> read_unroll(None, 1000), read_unroll(4, 1000)
  (1, 4)
  """
  if unroll is None:
    return default_unroll(num_steps)
  check_count(unroll=unroll)
  return int(unroll)


def scan(step: Callable, init: Any, xs: Any = None, *, length: int | None = None, unroll: int):
  """`jax.lax.scan`, but a single step is no loop.

  XLA keeps a loop of one step, and on the CPU a convolution in it is slow: FGSM would be.

  >>> scan(lambda carry, x: (carry + x, 2 * x), 1.0, jax.numpy.array([3.0]), unroll=1)
  (Array(4., dtype=float32), Array([6.], dtype=float32))
  """
  count = length if xs is None else len(jax.tree.leaves(xs)[0])
  if count != 1:
    return jax.lax.scan(step, init, xs, length=length, unroll=unroll)
  carry, made = step(init, jax.tree.map(lambda leaf: leaf[0], xs))
  return carry, jax.tree.map(lambda leaf: leaf[None], made)
