"""Which devices a run uses, and what of its batch has to stay together on one of them."""

import contextlib
import os
import platform
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_robust.errors import ConfigError
from jax_robust.nets.devices import Devices
from jax_robust.train import parallel


def make_mesh(config: Any, net: Any) -> Mesh:
  """The devices of a run: the most that leave its micro-batches and BatchNorm's groups whole.

  Raises:
    ConfigError: groups that don't fit the batch, or several processes whose devices don't.
  """
  try:
    return parallel.data_mesh(
      config.batch.microbatch or config.batch.size,
      rows_together=1 if _is_one_batch(config) else _group_size(net),
    )
  except ValueError as error:
    raise ConfigError(
      f"batch.size={config.batch.size}, batch.microbatch={config.batch.microbatch}, "
      f"model.bn_group_size={getattr(net, 'bn_group_size', None)}: {error}"
    ) from error


def local_devices(mode: str) -> Devices:
  """This process's devices, over which a job in pieces spreads the rows of an evaluation."""
  mesh = parallel.data_mesh(jax.local_device_count(), devices=jax.local_devices())
  rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((parallel.AXIS,), ()))
  return Devices(
    compile_fn=lambda fn: parallel.map_step(lambda axis_name: fn, mesh, mode=mode, per_row=True),
    place=lambda tree: jax.device_put(tree, rows),
    share=lambda tree: jax.device_put(tree, whole),
    count=mesh.devices.size,
  )


def run_filled(
  spread: Devices, program: Any, shared: Any, rows: Mapping[str, np.ndarray], *, size: int
) -> Any:
  """`program(shared, rows)` of some rows, filled up to the number that all batches have.

  Args:
    spread: the devices.
    program: compiled by them.
    shared: what all rows need, on every device already.
    rows: arrays by name, at most `size` rows each.
    size: rows of a batch, rounded up to what the devices share evenly.

  Returns:
    What the program returns, of the rows alone, as NumPy arrays.
  """
  num_rows = len(next(iter(rows.values())))
  filled = np.minimum(np.arange(-(-size // spread.count) * spread.count), num_rows - 1)
  placed = spread.place({name: values[filled] for name, values in rows.items()})
  found = jax.device_get(program(shared, placed))
  return jax.tree.map(lambda values: np.asarray(values[:num_rows]), found)


def describe() -> str:
  """Number and name of the devices, as a result notes them; of the CPU, cores and processor."""
  kinds = sorted({device.device_kind for device in jax.devices()})
  if jax.default_backend() != "cpu":
    return f"{jax.device_count()} x {', '.join(kinds)}"
  name = platform.processor() or platform.machine()
  with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo") as lines:
    name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
  return f"{os.cpu_count()} cores of {name}"


def num_microbatches(config: Any, net: Any, mesh: Mesh) -> int:
  """How many pieces a batch is cut into; checks that what acts on groups of rows finds them whole.

  Raises:
    ConfigError: it would not.
  """
  count, size = mesh.devices.size, config.batch.size
  microbatch = config.batch.microbatch or size
  if size % microbatch or microbatch % count:
    raise ConfigError(
      f"batch.microbatch={microbatch}: expected a divisor of batch.size={size} and a multiple of "
      f"the {count} devices"
    )
  if microbatch < size and _has_norm(net) and net.bn_group_size is None:
    raise ConfigError(
      f"batch.microbatch={microbatch} with whole-batch BatchNorm would change its statistics: set "
      f"model.bn_group_size to a divisor of {microbatch // count}"
    )
  at_once = size if _is_one_batch(config) else microbatch // count
  if at_once % _group_size(net):
    raise ConfigError(
      f"model.bn_group_size={net.bn_group_size}: expected a divisor of the {at_once} rows that are "
      f"normalised at once (batch.microbatch={microbatch} on {count} devices, "
      f"parallel={config.parallel!r})"
    )
  _check_mixing(config, size // count)
  return size // microbatch


def _is_one_batch(config) -> bool:
  """Whether BatchNorm's groups may span devices: a sharded batch is one batch, unless it is cut."""
  return config.parallel == "jit" and config.batch.microbatch in (0, config.batch.size)


def _has_norm(net) -> bool:
  """Whether a net has BatchNorm: classifiers do, unless they are told to do without."""
  return hasattr(net, "bn_group_size") and getattr(net, "norm", True)


def _group_size(net) -> int:
  """Rows that BatchNorm must find together; 1 where nothing is asked for."""
  return (net.bn_group_size or 1) if _has_norm(net) else 1


def _check_mixing(config, rows: int) -> None:
  """Raises where CutMix or mixup would find other partners than in the whole batch."""
  group = config.augment.get("group_size", None)
  mixes = config.augment.get("cutmix", False) or config.augment.get("mixup_alpha", 0)
  if mixes and config.parallel != "jit" and rows % (group or config.batch.size):
    raise ConfigError(
      f"augment.group_size={group} with parallel={config.parallel!r}: CutMix and mixup would stop "
      f"at the {rows} rows of a device; set it to a divisor of that, or parallel to 'jit'"
    )
