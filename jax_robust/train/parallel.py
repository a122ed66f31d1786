"""One step function, three ways over many devices: `jit` with a sharded batch, `pmap`, `shard_map`.

There is one axis, the batch's. State and parameters are replicated. `jit` keeps the semantics of
one big batch, so its step is written without an axis name; the mapped ways see a device's rows and
average over `AXIS`. All three take and return the same pytrees.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jax_robust.errors import check_name
from jax_robust.nets.devices import compiler_options

AXIS = "data"
MODES = ("jit", "pmap", "shard_map")


def data_mesh(batch_size: int, *, rows_together: int = 1, devices=None) -> Mesh:
  """A mesh of the most devices that divide the batch evenly.

  With one process a batch of 100 on 8 devices runs on 5, and says so. Several processes need all
  their devices, so there it is an error.

  Args:
    batch_size: rows of the global batch, or of a micro-batch.
    rows_together: contiguous rows that one device must hold, such as a BatchNorm group.
    devices: which to use; all by default.

  Returns:
    A mesh with the one axis `AXIS`.

  Raises:
    ValueError: no number of devices fits; several processes, and a batch that their devices don't
      divide.
  """
  devices = list(jax.devices() if devices is None else devices)
  fitting = [n for n in range(1, len(devices) + 1) if batch_size % (n * rows_together) == 0]
  if not fitting:
    raise ValueError(f"a batch of {batch_size} rows is not made of groups of {rows_together} rows")
  count = fitting[-1]
  if count < len(devices):
    groups = f", in groups of {rows_together}," if rows_together > 1 else ""
    reason = f"{batch_size} rows{groups} can't be shared out evenly among {len(devices)} devices"
    if jax.process_count() > 1:
      raise ValueError(
        f"{reason} of {jax.process_count()} processes: choose a batch size that is a multiple of "
        f"{len(devices) * rows_together}"
      )
    logging.getLogger(__name__).info("%s: running on %d", reason, count)
  return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count])


def padded_batch_size(batch_size: int, num_examples: int) -> int:
  """Rows of an evaluation batch that all devices share evenly, since padding is masked.

  At most `batch_size`, unless there are more devices than that, and no more than `num_examples`
  need.

  >>> padded_batch_size(512, 100) % jax.device_count()
  0
  """
  count = jax.device_count()
  return max(min(batch_size // count, -(-num_examples // count)), 1) * count


def process_rows(batch_size: int) -> slice:
  """The rows of the global batch that this process loads."""
  per_process = batch_size // jax.process_count()
  start = jax.process_index() * per_process
  return slice(start, start + per_process)


def state_specs(state: Any) -> Any:
  """How a train state is laid out: `carry['rows']` is sharded like the batch, all else replicated.

  Args:
    state: a `TrainState`, or its shapes.

  Returns:
    The state's structure, with a PartitionSpec for each array.
  """

  def spec(path, _):
    names = [getattr(key, "name", getattr(key, "key", None)) for key in path[:2]]
    return PartitionSpec(AXIS) if names == ["carry", "rows"] else PartitionSpec()

  return jax.tree_util.tree_map_with_path(spec, state)


def abstract(tree: Any, mesh: Mesh, specs: Any) -> Any:
  """Shapes and dtypes of a tree, placed on a mesh: a step traced with these is not traced again.

  Args:
    tree: arrays, or their shapes and dtypes.
    mesh: the devices.
    specs: a PartitionSpec for the tree, or for each array or part of it.
  """

  def place(spec, part):
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), part
    )

  return jax.tree.map(place, specs, tree)


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Places a tree on every device of the mesh; every process must hold the same values."""
  return _place(tree, mesh, jax.tree.map(lambda leaf: PartitionSpec(), tree))


def place_state(state: Any, mesh: Mesh) -> Any:
  """Places a whole train state, the same on every process, as `state_specs` says."""
  return _place(state, mesh, state_specs(state))


def _place(tree: Any, mesh: Mesh, specs: Any) -> Any:
  """Puts whole arrays on the devices of a mesh."""
  shardings = jax.tree.map(functools.partial(NamedSharding, mesh), specs)
  if jax.process_count() == 1:
    return jax.device_put(tree, shardings)

  def put(leaf, sharding):
    if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
      return leaf
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

  return jax.tree.map(_with_keys(put), tree, shardings)


def shard_batch(batch: Any, mesh: Mesh) -> Any:
  """Makes a global batch, sharded by rows, of the rows that this process loaded."""
  sharding = NamedSharding(mesh, PartitionSpec(AXIS))
  if jax.process_count() == 1:
    return jax.device_put(batch, sharding)

  def share(rows):
    return jax.make_array_from_process_local_data(sharding, np.asarray(rows))

  return jax.tree.map(_with_keys(share), batch)


def _with_keys(place: Callable) -> Callable:
  """`place(array, …)`, which goes through NumPy, for typed keys too: NumPy does not know them."""

  def place_any(leaf, *args):
    if not jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key):
      return place(leaf, *args)
    placed = place(jax.random.key_data(leaf), *args)
    return jax.random.wrap_key_data(placed, impl=jax.random.key_impl(leaf))

  return place_any


def map_step(
  make_step: Callable[[str | None], Callable],
  mesh: Mesh,
  *,
  mode: str = "jit",
  per_row: bool = False,
  state_specs: Any = None,
  donate: bool = False,
) -> Callable:
  """Compiles `step(state, batch)` for the devices of a mesh.

  Guarantees:
    `modes_agree`: the three modes and an eager call give the same result to rounding, and the same
      random numbers.

  Args:
    make_step: `axis_name -> step`. The step gets all rows and None under `jit`, and a device's rows
      and `AXIS` under the other two, where it must average over `AXIS` what it returns.
    mesh: from `data_mesh`.
    mode: 'jit', 'pmap' or 'shard_map'.
    per_row: the step returns one array tree with a leading row axis, instead of replicated trees.
    state_specs: from `state_specs`, of a step that returns `(state, metrics)`; by default what the
      step takes first and what it returns is replicated.
    donate: whether the state's buffers are reused for the result.

  Returns:
    `step(state, batch)` over a state from `place_state` and a batch from `shard_batch`.

  Raises:
    ValueError: an unknown mode.
  """
  check_name("parallel", mode, MODES)
  donated = (0,) if donate else ()
  replicated, sharded = PartitionSpec(), PartitionSpec(AXIS)
  returned = sharded if per_row else replicated
  if state_specs is not None:
    returned = (state_specs, replicated)
  if mode == "jit":
    return jax.jit(
      make_step(None),
      out_shardings=jax.tree.map(functools.partial(NamedSharding, mesh), returned),
      donate_argnums=donated,
      compiler_options=compiler_options(),
    )
  if mode == "shard_map":
    # check_vma=False: with the check on, pmean of gradients would be the sum over devices.
    mapped = jax.shard_map(
      make_step(AXIS),
      mesh=mesh,
      in_specs=(replicated if state_specs is None else state_specs, sharded),
      out_specs=returned,
      check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=donated, compiler_options=compiler_options())
  return _pmap(make_step(AXIS), mesh, state_specs, returned, donated)


def _pmap(step, mesh: Mesh, state_specs: Any, returned: Any, donated) -> Callable:
  """`jax.pmap` behind the interface of the other two: whole state in, whole state out.

  What pmap shards needs an axis of devices in front, so sharded arrays travel apart from replicated
  ones: `split` puts that axis in front, `merge` takes it away again.
  """
  count = mesh.devices.size
  sharded = PartitionSpec(AXIS)
  taken = PartitionSpec() if state_specs is None else state_specs

  def run(marked, rows):
    state_rows, batch = rows
    return _separate(step(_combine(marked[0], state_rows), batch), returned)

  mapped = jax.pmap(
    run,
    axis_name=AXIS,
    in_axes=(None, 0),
    out_axes=(None, 0),
    devices=list(mesh.devices.flat),
    donate_argnums=donated,
  )

  @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, sharded))
  def split(rows):
    return jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), rows)

  @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, sharded))
  def merge(rows):
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows)

  # pmap's arrays are those of one process; the rows of other processes are not among them.
  @functools.wraps(step)
  def call(state, batch):
    shared, state_rows = _separate(state, taken)
    # A state without arrays must not stay empty: with it, pmap of jax 0.10 splits nothing.
    marked = shared, () if jax.tree.leaves(shared) else np.float32(0)
    rows = multihost_utils.global_array_to_host_local_array(
      split((state_rows, batch)), mesh, sharded
    )
    shared, rows = mapped(marked, rows)
    shared = multihost_utils.host_local_array_to_global_array(shared, mesh, PartitionSpec())
    rows = multihost_utils.host_local_array_to_global_array(rows, mesh, sharded)
    return _combine(shared, merge(rows))

  return call


def _separate(tree: Any, specs: Any) -> tuple[Any, Any]:
  """The replicated and the sharded arrays of a tree, each with None in place of the others."""

  def split(is_wanted):
    def keep(spec, part):
      wanted = (spec == PartitionSpec(AXIS)) == is_wanted
      return part if wanted else jax.tree.map(lambda leaf: None, part)

    return jax.tree.map(keep, specs, tree)

  return split(False), split(True)


def _combine(shared: Any, rows: Any) -> Any:
  """Undoes `_separate`."""
  return jax.tree.map(
    lambda one, other: one if other is None else other, shared, rows, is_leaf=lambda x: x is None
  )
