"""Whether checkpoints are of the run in whose workdir they lie.

Every checkpoint carries the config of its run, and digests of what `data.json` says. A folder of
checkpoints that was copied from another run, an edited `config.json`, or a `data.json` that is gone
would otherwise give the numbers of one net under the name of another.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from jax_robust.errors import WorkdirError
from jax_robust.runs import workdir
from jax_robust.train import checkpoint, metrics


def describe(config: Mapping[str, Any], note: Mapping[str, Any]) -> dict[str, Any]:
  """What identifies a run, for its checkpoints.

  Args:
    config: of the run, as plain data.
    note: what its `data.json` says, see `workdir.describe_data`.
  """
  return {"config": dict(config), "data": {key: _digest(value) for key, value in note.items()}}


def read_data(path: pathlib.Path) -> dict[str, Any]:
  """What a `data.json`, or an export's manifest, says of a run's images.

  Raises:
    WorkdirError: it is damaged, or says of them what can't be.
  """
  note = workdir.read_note(path)
  data = note if path.name == workdir.DATA else note.get("data", {})
  try:
    names = data.get("class_names", [])
    num = data.get("num_classes", len(names) or 1)
    shape = data.get("image_shape", [1])
    sizes = (num, *shape, len(names) or num)
    is_right = all(type(size) is int and size > 0 for size in sizes) and sizes[-1] == num
    is_right &= all(isinstance(name, str) for name in names)
  except (AttributeError, TypeError):
    is_right = False
  if not is_right:
    raise WorkdirError(
      f"{path} is damaged (its num_classes, class_names or image_shape): restore it, or delete it"
    )
  return data


def check(
  reader: checkpoint.Checkpointer, folder: pathlib.Path, *, step: int | None = None
) -> None:
  """Raises unless a checkpoint is of the run of a workdir.

  One of an earlier version does not say of which run it is. That there is no `data.json` beside it
  is reported.

  Args:
    reader: of the checkpoints.
    folder: the workdir, with `config.json` and `data.json`.
    step: of the checkpoint; the newest by default.

  Raises:
    WorkdirError: it is of a run of another config or other data; `data.json` is gone.
  """
  theirs, path = reader.run_of(step), folder / workdir.DATA
  if not path.is_file():
    if theirs.get("data"):
      raise WorkdirError(
        f"{folder} has no {workdir.DATA}, which says what the classes of its run are: restore the "
        "file, or start the training again, which writes it anew"
      )
    metrics.report(
      f"{folder} has no {workdir.DATA}, as runs of earlier versions: its classes are taken to be "
      "those of the images, in their order"
    )
  note = workdir.read_note(path) if path.is_file() else {}
  check_run(theirs, workdir.read_config(folder), note, folder)


def check_run(
  theirs: Mapping[str, Any],
  config: Mapping[str, Any],
  note: Mapping[str, Any],
  folder: pathlib.Path,
) -> None:
  """Raises unless what a checkpoint says of its run is so.

  Args:
    theirs: what `describe` returned, or {} of a checkpoint that does not say.
    config, note: those of the run, as `describe` takes them.
    folder: the workdir, for messages.

  Raises:
    WorkdirError: the checkpoint is of a run of another config or other data; the message lists how
      they differ.
  """
  if not theirs:
    return
  lines = workdir.differences(workdir.up_to_date(theirs["config"]), config, moved=True)
  ours = describe({}, note)["data"]
  lines += [
    f"{workdir.DATA}: {key} is another there"
    for key, digest in sorted(theirs["data"].items())
    if ours.get(key) != digest
  ]
  if lines:
    raise WorkdirError(
      f"the checkpoints in {folder / 'checkpoints'} are those of another run than this one:\n  "
      + "\n  ".join(lines)
      + "\nput the run's own checkpoints back, or its own config.json and data.json"
    )


def _digest(value: Any) -> str:
  """The sha256 of a value of a JSON file."""
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
