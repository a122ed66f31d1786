"""How a batch that is driven from the host goes to the devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jax_robust.errors import shown


def compiler_options() -> dict[str, Any] | None:
  """For `jax.jit` of a program that holds convolutions and is not part of a larger one.

  XLA's CPU scheduler looks for operations that can run at the same time. Convolutions, each of
  which takes all cores already, then get into each other's way: a TRADES step took 1.07 times as
  long.
  """
  if jax.default_backend() != "cpu":
    return None
  return {"xla_cpu_enable_concurrency_optimized_scheduler": False}


class Devices(NamedTuple):
  """How the rows of a batch are spread over devices.

  Attributes:
    compile_fn: compiles `fn(shared, rows) -> rows`; rows have the batch as first axis.
    place: puts rows of the host on the devices.
    share: puts what all rows need, weights above all, on every device.
    count: how many devices share the rows evenly.
  """

  compile_fn: Callable[[Callable], Callable] = lambda fn: jax.jit(
    fn, compiler_options=compiler_options()
  )
  place: Callable[[Any], Any] = jax.device_put
  share: Callable[[Any], Any] = lambda tree: tree
  count: int = 1


def check_devices(devices: Any) -> None:
  """Raises TypeError for anything else than `Devices`, such as their number."""
  if not isinstance(devices, Devices):
    raise TypeError(f"devices={shown(devices)}: expected nets.devices.Devices(...)")


def row_count(num_rows: int, largest: int, num_devices: int) -> int:
  """Rows of a batch: a number that all devices share, with few different ones between n and 2 n.

  At most a sixteenth of the rows are idle for the sake of that, and a row for each device.

  >>> row_count(3, 128, 1), row_count(49, 128, 2), row_count(71, 128, 1), row_count(1000, 100, 1)
  (3, 50, 72, 100)
  """
  rows = min(num_rows, largest)
  unit = 1 << max(rows.bit_length() - 5, 0)
  rows = -(-rows // unit) * unit
  return max(-(-rows // num_devices), 1) * num_devices
