"""Checkpoints: the only place that knows Orbax.

A state is stored flat, one array per name such as `params/init_conv/kernel`, so that what does not
fit a model can be named, and reading needs no class of ours. With it are stored the sha256 of every
array and of the info: files that changed since are noticed when they are read, whatever changed.
And it says of which run it is, since a folder is easily copied into another workdir.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jax_robust.atomic import Anchor
from jax_robust.errors import UserError, brought_by
from jax_robust.train import metrics

with brought_by("train"):
  import orbax.checkpoint as ocp

LATEST, BEST = KINDS = ("latest", "best")

ACCEPTED = "accepted"
"""The state of the last evaluation before a run was stopped as overfitted (`train.overfitting`)."""

READ = (*KINDS, ACCEPTED)
"""What weights may be read from."""

_DIGESTS = "digests"
"""The item of a checkpoint that holds the sha256 of the others' content."""

_RUN = "run"
"""The item that says which run a checkpoint is of."""


class CheckpointMismatchError(UserError):
  """A checkpoint does not hold the arrays that the model needs."""


class CheckpointDamagedError(UserError):
  """A checkpoint was committed, and changed since."""


class CheckpointWriteError(OSError):
  """A checkpoint could not be written; the ones before it are untouched."""


def flatten(tree: Any) -> dict[str, Any]:
  """Names every array of a tree by its path, joined by slashes.

  >>> flatten({"params": {"kernel": 1}, "opt": (2, 3)})
  {'opt/0': 2, 'opt/1': 3, 'params/kernel': 1}
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def unflatten(flat: dict[str, Any], like: Any) -> Any:
  """Puts named arrays back into the structure of `like`."""
  paths, structure = jax.tree_util.tree_flatten_with_path(like)
  names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
  return jax.tree_util.tree_unflatten(structure, [flat[name] for name in names])


class Checkpointer:
  """Saves and restores train states in one folder, asynchronously, committed atomically.

  A kill at any moment leaves the last committed checkpoint whole: Orbax writes to a temporary
  folder and renames it.

  Guarantees:
    `damage_is_found`: an array or info that is not bit for bit what was saved is refused when it is
      read. Checkpoints of earlier versions have no digests, which is said once.

  Digests are of whole arrays, so that they hold on any number of devices and processes. They cost a
  pass of sha256 over the state at every save and restore: .7 s for 438 MB on two cores of a Xeon,
  where writing them takes 4 s more and reading them 4 s.

  Args:
    folder: of this run alone.
    max_to_keep: how many checkpoints stay; None keeps all.
    run: what identifies the run, as JSON: every checkpoint that is saved carries it (`run_of`).
    read_only: never write or delete anything: the folder may be that of a job that is running.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    *,
    max_to_keep: int | None = None,
    run: Mapping[str, Any] | None = None,
    read_only: bool = False,
  ):
    self._folder, self._run = str(folder), dict(run or {})
    if "://" not in self._folder:
      self._folder = str(pathlib.Path(folder).absolute())
    options = ocp.CheckpointManagerOptions(
      max_to_keep=max_to_keep,
      read_only=read_only,
      create=not read_only,
      cleanup_tmp_directories=not read_only,
    )
    handlers = {
      "state": ocp.StandardCheckpointHandler(),
      "info": ocp.JsonCheckpointHandler(),
      _RUN: ocp.JsonCheckpointHandler(),
      _DIGESTS: ocp.JsonCheckpointHandler(),
    }
    self._manager = ocp.CheckpointManager(self._folder, options=options, item_handlers=handlers)
    is_local = "://" not in self._folder
    self._anchor = Anchor(self._folder) if is_local and not read_only else None
    self._undigested: set[int] = set()

  def latest_step(self) -> int | None:
    """The newest step, or None; committed unless it is still being saved (see `wait`)."""
    return self._manager.latest_step()

  def save(self, step: int, state: Any, info: dict | None = None) -> None:
    """Starts saving; returns once the arrays are copied. A step that is there already is kept.

    Raises:
      CheckpointWriteError: this save, or the one before it, failed (a full disk, say).
      FolderGoneError: the folder was deleted or replaced since it was opened.
    """
    if self._anchor:
      self._anchor.check()
    if step in self._manager.all_steps():
      return
    arrays, info = flatten(state), info or {}
    try:
      digests = {"arrays": _digests(arrays), "info": _digest_of(info), _RUN: _digest_of(self._run)}
      items = {
        "state": ocp.args.StandardSave(arrays),
        "info": ocp.args.JsonSave(info),
        _RUN: ocp.args.JsonSave(self._run),
        _DIGESTS: ocp.args.JsonSave(digests),
      }
      self._manager.save(step, args=ocp.args.Composite(**items), force=True)
    except Exception as error:
      raise self._write_error(error) from error

  def wait(self) -> None:
    """Blocks until what was saved is committed.

    Raises:
      CheckpointWriteError: it could not be.
      FolderGoneError: the folder was deleted or replaced since it was opened.
    """
    if self._anchor:
      self._anchor.check()
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      raise self._write_error(error) from error

  def restore(self, like: Any, *, step: int | None = None) -> tuple[Any, dict]:
    """Reads a checkpoint into the structure, shapes, types and placement of `like`.

    Args:
      like: a state, or its abstract twin.
      step: which; the newest by default.

    Returns:
      The state and the info it was saved with.

    Raises:
      FileNotFoundError: there is no checkpoint.
      CheckpointMismatchError: names or shapes differ; the message lists them.
      CheckpointDamagedError: its files are not as they were written.
    """
    step = self._existing(step)
    stored, wanted = self._metadata(step), flatten(like)
    problems = differences(
      {name: tuple(leaf.shape) for name, leaf in stored.items()},
      {name: tuple(a.shape) for name, a in wanted.items()},
    )
    if problems:
      raise CheckpointMismatchError(
        f"the checkpoint of step {step} in {self._folder} does not fit this model:\n  "
        + "\n  ".join(problems)
      )
    abstract = jax.tree.map(_abstract, wanted)
    arrays = self._load(
      step,
      # As it was stored, and only then as it is wanted: the digest knows the type.
      {name: _retyped(leaf, stored[name].dtype) for name, leaf in abstract.items()},
    )
    self._verify(step, arrays)
    arrays = {
      name: leaf if leaf.dtype == abstract[name].dtype else leaf.astype(abstract[name].dtype)
      for name, leaf in arrays.items()
    }
    return unflatten(arrays, like), self.info(step)

  def read(self, prefixes: tuple[str, ...], *, step: int | None = None) -> tuple[dict, dict]:
    """Reads arrays by name, without a model: those whose first path element is in `prefixes`.

    Args:
      prefixes: such as `("ema", "model_state")`.
      step: which; the newest by default.

    Returns:
      NumPy arrays by name, and the info.

    Raises:
      FileNotFoundError: there is no checkpoint.
      CheckpointDamagedError: its files are not as they were written.
    """
    step = self._existing(step)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = {
      name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
      for name, leaf in self._metadata(step).items()
    }
    arrays = self._load(step, abstract)
    self._verify(step, arrays)
    chosen = {
      name: np.asarray(leaf) for name, leaf in arrays.items() if name.split("/")[0] in prefixes
    }
    return chosen, self.info(step)

  def info(self, step: int | None = None) -> dict:
    """The info of a checkpoint, without its arrays.

    Raises:
      FileNotFoundError: there is no checkpoint.
      CheckpointDamagedError: its files are not as they were written.
    """
    return self._verified(self._existing(step), "info")

  def run_of(self, step: int | None = None) -> dict[str, Any]:
    """What identifies the run that saved a checkpoint; {} of one that does not say.

    Raises:
      FileNotFoundError: there is no checkpoint.
      CheckpointDamagedError: its files are not as they were written.
    """
    step = self._existing(step)
    if _RUN not in self._digests_of(step):  # of an earlier version
      return {}
    return self._verified(step, _RUN)

  def close(self) -> None:
    """Waits for pending saves and lets the folder go.

    Raises:
      CheckpointWriteError: a pending save failed.
    """
    try:
      self.wait()
    finally:
      # What failed once is raised once more here, and would hide the first, readable error.
      with contextlib.suppress(Exception):
        self._manager.close()

  def reached_preemption(self, step: int) -> bool:
    """Whether the scheduler has announced the end; agreed upon by all processes."""
    return self._manager.reached_preemption(step)

  def _existing(self, step: int | None) -> int:
    """The step asked for, or the newest; an error that says what there is."""
    steps = sorted(self._manager.all_steps())
    if step is None and steps:
      return steps[-1]
    if step not in steps:
      wanted = "" if step is None else f" of step {step}"
      raise FileNotFoundError(f"no checkpoint{wanted} in {self._folder}: its steps are {steps}")
    return step

  def _load(self, step: int, abstract: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """The arrays of a checkpoint, as `abstract` describes them."""
    with self._reading(step):
      args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
      return self._manager.restore(step, args=args)["state"]

  def _read_json(self, step: int, item: str) -> dict[str, Any]:
    """A part of a checkpoint that is JSON."""
    with self._reading(step):
      args = ocp.args.Composite(**{item: ocp.args.JsonRestore()})
      return self._manager.restore(step, args=args)[item]

  def _verified(self, step: int, item: str) -> dict[str, Any]:
    """A part that is JSON, held to its digest, if it has one."""
    found, digests = self._read_json(step, item), self._digests_of(step)
    with self._reading(step):
      if digests and digests[item] != _digest_of(found):
        raise ValueError(f"its {item} is not what its sha256 says")
    return found

  def _digests_of(self, step: int) -> dict[str, Any]:
    """What was written of a checkpoint's content; nothing of one of an earlier version."""
    if not (self._manager.directory / str(step) / _DIGESTS).exists():
      if step not in self._undigested:
        self._undigested.add(step)
        metrics.report(
          f"{self._folder}/{step}: a checkpoint of an earlier version, which has no digests: it is "
          "read unverified"
        )
      return {}
    return self._read_json(step, _DIGESTS)

  def _verify(self, step: int, arrays: Mapping[str, Any]) -> None:
    """Raises CheckpointDamagedError unless arrays are what their digests say."""
    digests = self._digests_of(step)
    if not digests:
      return
    found = _digests(arrays)
    with self._reading(step):
      changed = [name for name in found if found[name] != digests["arrays"][name]]
      if changed:
        count = f"{len(changed)} of {len(found)} arrays are not"
        raise ValueError(f"{changed[0]} is not what its sha256 says ({count})")

  @contextlib.contextmanager
  def _reading(self, step: int) -> Iterator[None]:
    """Makes whatever Orbax says of a damaged checkpoint an error that says what to do."""
    try:
      yield
    except Exception as error:
      others = sorted(set(self._manager.all_steps()) - {step})
      way_out = f"go on from step {others[-1]}" if others else "start anew"
      raise CheckpointDamagedError(
        f"the checkpoint {self._folder}/{step} can't be read: {str(error).splitlines()[0][:200]}. "
        f"If its files are damaged, delete that folder to {way_out}"
      ) from error

  def _metadata(self, step: int) -> dict[str, Any]:
    """Shape and type of a checkpoint's arrays, by name."""
    with self._reading(step):
      metadata = self._manager.item_metadata(step)["state"]
      return dict(getattr(metadata, "tree", metadata))

  def _write_error(self, error: Exception) -> Exception:
    """The error with the folder and what to do about it; where another process failed, itself."""
    if isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1:
      return error
    step = self.latest_step()
    before = "there was none before" if step is None else f"the one of step {step} is untouched"
    return CheckpointWriteError(
      f"could not write a checkpoint to {self._folder}: {error}. Of that folder {before}: free "
      "space and start the same command again to resume"
    )


def _abstract(leaf) -> jax.ShapeDtypeStruct:
  """Shape, type and placement of an array."""
  if isinstance(leaf, jax.ShapeDtypeStruct):
    return leaf
  sharding = leaf.sharding if isinstance(leaf, jax.Array) else None
  return jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=sharding)


def _retyped(leaf: jax.ShapeDtypeStruct, dtype: Any) -> jax.ShapeDtypeStruct:
  """An abstract array as one of another type."""
  return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)


def _digests(arrays: Mapping[str, Any]) -> dict[str, str]:
  """The sha256 of every array, its type and shape, by name; several at a time."""
  whole = {name: _on_host(array) for name, array in arrays.items()}
  with concurrent.futures.ThreadPoolExecutor() as pool:
    return dict(zip(whole, pool.map(_digest, whole.values()), strict=True))


def _on_host(array: Any) -> np.ndarray:
  """All of an array; what processes share out among them is put together."""
  if isinstance(array, jax.Array) and not array.is_fully_addressable:
    if not array.is_fully_replicated:
      return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array.addressable_data(0))
  return np.asarray(array)


def _digest(array: np.ndarray) -> str:
  """The sha256 of an array, its type and its shape."""
  sha256 = hashlib.sha256(f"{array.dtype.name} {array.shape} ".encode())
  sha256.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
  return sha256.hexdigest()


def _digest_of(data: Mapping[str, Any]) -> str:
  """The sha256 of what comes back so from a JSON file."""
  return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def differences(stored: dict, wanted: dict) -> list[str]:
  """One line for every array that is missing, left over or of another shape, of shapes by name."""
  lines = []
  for name in sorted(stored.keys() | wanted.keys()):
    if name not in stored:
      lines.append(f"{name}: missing from the checkpoint, the model has {wanted[name]}")
    elif name not in wanted:
      lines.append(f"{name}: {stored[name]} in the checkpoint, unknown to the model")
    elif stored[name] != wanted[name]:
      lines.append(f"{name}: {stored[name]} in the checkpoint, {wanted[name]} in the model")
  return lines[:20] + ([f"and {len(lines) - 20} more"] if len(lines) > 20 else [])
