"""The folder of a run: its lock, its config, the versions it ran with, its results."""

import contextlib
import datetime
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

import jax
import numpy as np

from jax_robust import config as config_lib
from jax_robust import job_table, paths, plugins, presets
from jax_robust.atomic import (
  Anchor,
  FolderGoneError,
  open_no_link,
  read_bytes,
  sweep,
  write_atomically,
)
from jax_robust.data import draws
from jax_robust.data.sources import Source
from jax_robust.errors import WorkdirError, near_path
from jax_robust.runs import command, devices, result_check, starts

MAY_CHANGE = (
  "imports", "data_dir", "parallel", "distributed", "trackers", "tracking.", "log_", "save_",
  "evaluation.", "evals.", "job", "generated.path", "generated.verify",
)  # fmt: skip
"""Keys, by their beginning, that may differ between starts of any job; others stand in its row.

`batch.backend` is none of them: the backends share the law of a batch, not the order of the shards.
"""

_SECONDS_OF_A_START = 600.0
"""No process of a job starts so much later than the first."""

DATA = "data.json"
"""What a run's images are: their classes and what these are called, their shape, and which of them
are held out."""

_NUMBERS = re.compile(r"\[\n[-+.\w\s,]*\]")  # a list without text or lists, over several lines

PACKAGES = (
  "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "tensorflow-cpu",
  "tensorflow", "tensorflow-datasets", "ml-collections", "chex",
)  # fmt: skip


@contextlib.contextmanager
def claimed(workdir: str, *, create: bool = True, shared: bool = False) -> Iterator[pathlib.Path]:
  """Locks a workdir for this job; the lock goes with the process, however it ends.

  What an earlier job that was killed has left half-written is removed.

  Args:
    workdir: the folder.
    create: whether to make it; otherwise it must be the workdir of a run.
    shared: whether others that share it too may work there at once.

  Raises:
    WorkdirError: another job holds it, or it can't be a workdir.
    FolderGoneError: at the end, where it was deleted or replaced meanwhile.
  """
  folder = pathlib.Path(paths.workdir(workdir)).absolute()
  if not create:
    check_is_run(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
      raise
    raise WorkdirError(
      f"workdir {str(workdir)[:200]} can't be made ({error.strerror}): choose another"
    ) from error
  if jax.process_index() != 0:
    # It tells the others that this process is alive: see `is_alive`.
    with _open_lock(folder, jax.process_index()) as lock:
      _lock_soon(lock)
      yield folder
    return
  with _open_lock(folder) as lock:
    try:
      fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as error:
      lock.seek(0)
      raise WorkdirError(
        f"workdir {workdir} is in use by another job ({lock.read().strip() or 'unknown process'}): "
        "wait for it, or choose another --workdir"
      ) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {platform.node()}")
    lock.flush()
    _sweep(folder, by_others=shared)
    anchor = Anchor(folder)
    yield folder
    anchor.check()


def _lock_path(folder: pathlib.Path, index: int) -> pathlib.Path:
  """The lock file of a process: the first's is that of the job."""
  return folder / (f"lock-{index}" if index else "lock")


def _lock_soon(lock: TextIO) -> None:
  """Locks the file of a process; another may be looking at the lock for a moment.

  Raises:
    WorkdirError: it stays locked, so that a process of an earlier start must still be running.
  """
  for _ in range(50):
    with contextlib.suppress(BlockingIOError):
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      return
    time.sleep(0.1)
  raise WorkdirError(
    "a process of an earlier start still holds its lock in the workdir: wait for it, or end it"
  )


def is_alive(folder: pathlib.Path, index: int) -> bool:
  """Whether the process of this index has claimed the workdir, and not ended since."""
  try:
    with os.fdopen(open_no_link(_lock_path(folder, index), os.O_RDONLY)) as lock:
      fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except BlockingIOError:
    return True
  except FileNotFoundError:
    return False
  return False


def _open_lock(folder: pathlib.Path, index: int = 0) -> TextIO:
  """The lock file of a process in a workdir.

  Raises:
    WorkdirError: it is a symbolic link, or the workdir can't be written.
  """
  try:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    path = _lock_path(folder, index)
    return os.fdopen(open_no_link(path, flags), "a+")
  except OSError as error:
    if error.errno == errno.ELOOP:
      raise WorkdirError(f"{error.filename} {error.strerror}") from error
    if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
      raise
    raise WorkdirError(
      f"workdir {folder} can't be written ({error.strerror}): choose another --workdir. A run that "
      f"is kept read-only is evaluated by --workdir=ANOTHER --config={folder / 'config.json'} "
      f"--config.init_from={folder}"
    ) from error


def _sweep(folder: pathlib.Path, *, by_others: bool) -> None:
  """Removes temporary files from where jobs write: a workdir, its results, its export."""
  # Other processes of this job may be writing already, those of another can't unless they share.
  age = _SECONDS_OF_A_START if by_others or jax.process_count() > 1 else 0.0
  for place in (folder, folder / "export", folder / "results", *folder.glob("results/*/")):
    sweep(place, older_than=age)


def check_is_run(folder: pathlib.Path) -> None:
  """Raises WorkdirError, with the near miss, unless a job has run in this folder."""
  if (folder / "config.json").is_file():
    return
  if folder.is_dir():
    raise WorkdirError(f"{folder} is no workdir of a run: it has no config.json")
  raise WorkdirError(f"there is no workdir {folder}{near_path(folder)}")


def write_identity(folder: pathlib.Path, config: Any) -> None:
  """Writes `config.json` and `versions.json`, or checks that the run there is of the same config.

  Raises:
    WorkdirError: it is not; the message lists the keys.
  """
  if jax.process_index() != 0:
    return
  data = config_lib.to_data(config)
  path = folder / "config.json"
  if not path.exists() and (left := _what_is_left(folder)):
    raise WorkdirError(
      f"{folder} has no config.json, but {left}: of which run that is can't be known. Restore the "
      "file, or choose another --workdir"
    )
  if path.exists():
    stored = read_config(folder)
    lines = differences(stored, data)
    if lines and not _is_unused(folder):
      raise WorkdirError(
        f"workdir {folder} holds a run of another config:\n  "
        + "\n  ".join(lines)
        + "\nchoose another --workdir, or the config of that run"
      )
    trainings = {name for name, job in job_table.JOBS.items() if job.trains}
    if stored["job"] in trainings and data["job"] not in trainings:
      return
  write_json(path, data)
  write_json(folder / "versions.json", versions())


def differences(
  stored: Mapping[str, Any], wanted: Mapping[str, Any], *, moved: bool = False
) -> list[str]:
  """One line for every key in which two configs are not those of one run.

  Args:
    stored: the config that is there, up to date.
    wanted: the one that is wanted; without `data.draw` it means that of the other.
    moved: whether data may lie elsewhere: what is a path in both is then not compared.
  """
  jobs = job_table.JOBS.values()
  may_change = (*MAY_CHANGE, *(key for job in jobs for key in job.may_change))
  there = config_lib.flatten(stored)
  here = {"data.draw": there["data.draw"], **config_lib.flatten(wanted)}
  return [
    f"{key}: {there.get(key, 'absent')!r} there, {here.get(key, 'absent')!r} here"
    for key in sorted(there.keys() | here.keys())
    if there.get(key) != here.get(key)
    and not key.startswith(may_change)
    and not (
      moved and key in paths.KEYS and all("/" in each.get(key, "") for each in (there, here))
    )
  ]


def _what_is_left(folder: pathlib.Path) -> str:
  """What a run has left in a workdir, its config aside: the first that there is, or nothing."""
  for name in ("checkpoints", "results", "metrics.jsonl"):
    path = folder / name
    if path.is_file() or any(map(pathlib.Path.is_file, path.rglob("*"))):
      return str(path)
  return ""


def _is_unused(folder: pathlib.Path) -> bool:
  """Whether no job has come further here than its config: nothing can be lost or mixed up."""
  return all(
    path.name in ("lock", "config.json", "versions.json", starts.FILE, DATA)
    or path.name.startswith("lock-")
    or (path.is_dir() and not any(map(pathlib.Path.is_file, path.rglob("*"))))
    for path in folder.iterdir()
  )


def read_config(folder: pathlib.Path) -> dict[str, Any]:
  """The config that a workdir was made with, as plain data and brought up to date.

  Raises:
    WorkdirError: the folder is no workdir, or its config is damaged.
  """
  check_is_run(folder)
  path = folder / "config.json"
  try:
    data = config_lib.to_data(config_lib.read_json(path))
  except (OSError, ValueError) as error:
    raise _no_config(path, error) from error
  plugins.load(data)  # the config is of their making, too
  try:
    return up_to_date(data)
  except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
    raise _no_config(path, error) from error


def _no_config(path: pathlib.Path, error: Exception) -> WorkdirError:
  """What to say of a damaged `config.json`."""
  return WorkdirError(
    f"{path} is no config of ours ({error!r}): move the folder away, or restore that file"
  )


def up_to_date(data: Mapping[str, Any]) -> dict[str, Any]:
  """The config of a run of any version, as plain data, with what earlier versions did not say."""
  config = config_lib.from_data(data)
  with config.unlocked():
    if "draw" not in (config.get("data") or ()):
      config.data = {**(config.get("data") or {}), "draw": draws.FIRST}  # as earlier versions did
  return {"job": config.job, **config_lib.to_data(presets.complete(config))}


def describe_data(
  source: Source, heldout: Source | None = None, *, labels: np.ndarray | None = None
) -> dict[str, Any]:
  """What a run's images are, for `data.json`.

  Args:
    source: the images that are trained on.
    heldout: those that were held out.
    labels: what is trained on, where it is not the data set's own: labels `[n]` or probabilities
      `[n, k]`, whose digest is noted.
  """
  data: dict[str, Any] = {
    "num_classes": source.num_classes,
    "image_shape": list(source.image_shape),
  }
  if source.class_names:
    data["class_names"] = list(source.class_names)
  if heldout is not None and heldout.rows is not None:
    data["heldout"] = drawn(heldout)
  if labels is not None:
    kind = "<f4" if labels.ndim > 1 else "<i4"
    data["labels_sha256"] = hashlib.sha256(labels.astype(kind).tobytes()).hexdigest()
  return data


def note_data(folder: pathlib.Path, source: Source, data: Mapping[str, Any]) -> None:
  """Writes `data.json`, what a run's images are, or checks that they still are.

  What a run of an earlier version did not note is added.

  Args:
    folder: the workdir.
    source: the images that are trained on.
    data: what there is to note of them: see `describe_data`.

  Raises:
    WorkdirError: the run was started on images of another shape, of other classes, with other
      labels, or with others held out.
  """
  if jax.process_index() != 0:
    return
  path, told = folder / DATA, {"num_train": source.num_examples}  # for axes: not compared
  if path.exists():
    stored = read_note(path)
    different = [key for key in stored if key in data and stored[key] != data[key]]
    if different:
      there, here = ({key: each[key] for key in different} for each in (stored, data))
      raise WorkdirError(
        f"{path} says {_short(there)}, but {source.name} has {_short(here)}: use the data set of "
        "the run"
      )
    data = {**stored, **data}
  write_json(path, {**data, **told})


def read_note(path: pathlib.Path) -> dict[str, Any]:
  """A JSON file of ours.

  Raises:
    WorkdirError: it is damaged.
  """
  try:
    note = json.loads(read_bytes(path))
    if not isinstance(note, dict):
      raise TypeError("it holds no object")
  except (OSError, ValueError, TypeError, RecursionError) as error:
    raise WorkdirError(f"{path} is damaged ({error}): restore it, or delete it") from error
  return note


def drawn(source: Source) -> dict[str, Any]:
  """Which samples of the whole set a source shows, drawn by class."""
  rows = [] if source.rows is None else source.rows.tolist()
  return {"draw": draws.BY_CLASS, "seed": draws.SEED, "ids": rows}


def _short(data: Mapping[str, Any]) -> str:
  """Data as text, cut where it is long."""
  text = str(data)
  return text if len(text) <= 500 else f"{text[:500]}…"


def keep_draw(folder: pathlib.Path, config: Any) -> Any:
  """The config with `data.draw` said: how held-out and evaluated images are drawn from the set.

  A run keeps the rule that it was started with. One of an earlier version took the first ones; that
  is what its `config.json`, which does not know the key, says.

  Args:
    folder: the workdir.
    config: the wanted one; only `data.draw='auto'`, the default, is replaced.
  """
  rule = config.data.get("draw", draws.AUTO)
  path = folder / "config.json"
  if rule == draws.AUTO and path.is_file():
    stored = read_config(folder)["data"]
    if stored.get("name") == config.data.name:
      rule = stored["draw"]
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.data.draw = draws.rule_of(rule, config.data.name)
  return config


def versions() -> dict[str, Any]:
  """What a result depends on besides the config: packages, Python, devices, hardware, date."""
  found = {}
  for name in ("jax_robust", *PACKAGES):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return {
    "packages": found,
    "python": sys.version.split()[0],
    "platform": platform.platform(),
    "backend": jax.default_backend(),
    "devices": [device.device_kind for device in jax.devices()],
    "hardware": devices.describe(),
    "processes": jax.process_count(),
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
  }


def write_json(path: pathlib.Path, data: Mapping[str, Any]) -> None:
  """Writes a JSON file, lists of numbers on a line each; a kill leaves the old one or the new."""
  text = _NUMBERS.sub(lambda match: "".join(match[0].split()), json.dumps(data, indent=2))
  write_atomically(path, text + "\n")


def write_result(
  folder: pathlib.Path, name: str, result: Mapping[str, Any], *, kind: str = ""
) -> None:
  """Writes `results/NAME.json`, from the first process.

  Its kind and version, the command that was typed, and what it ran with are added. A result that
  is not as the table `result_kinds.KINDS` says is written all the same, and warned of.

  Args:
    folder: the workdir.
    name: of the file.
    result: what was found.
    kind: of the result; the name by default. One that is not in the table, such as a plug-in's, may
      hold anything.

  Raises:
    FolderGoneError: the workdir was deleted meanwhile.
    OSError: it can't be written.
  """
  if jax.process_index() == 0:
    try:
      (folder / "results").mkdir(exist_ok=True)  # not its parents: what is gone stays gone
    except FileNotFoundError as error:
      raise FolderGoneError(folder) from error
    common = {"command": command.typed(), "versions": versions()}
    whole = result_check.stamped(kind or name, {**result, **common})
    write_json(folder / "results" / f"{name}.json", whole)
    for problem in result_check.problems(whole):
      warnings.warn(f"results/{name}.json: {problem}", stacklevel=1)


def add_warnings(folder: pathlib.Path, name: str, lines: Sequence[str]) -> None:
  """Adds warnings to `results/NAME.json`, where there is such a result."""
  path = folder / "results" / f"{name}.json"
  if lines and jax.process_index() == 0 and path.exists():
    result = read_note(path)
    write_json(path, {**result, "warnings": [*result.get("warnings", ()), *lines]})


def pictures(folder: pathlib.Path) -> set[tuple[pathlib.Path, int]]:
  """The pictures of a workdir's results, each with the time of its making."""
  files = (folder / "results").glob("*.png")
  return {(file, file.stat().st_mtime_ns) for file in files}
