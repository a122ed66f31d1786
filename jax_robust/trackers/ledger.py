"""`trackers.json`: what each tracker calls the run, and how far it has been sent."""

import json
import pathlib
import threading
from collections.abc import Mapping
from typing import Any

from jax_robust.atomic import FolderGoneError, read_bytes, write_atomically
from jax_robust.errors import WorkdirError

FILE = "trackers.json"


class Ledger:
  """The file in a workdir; threads may write to it at once.

  Args:
    folder: the workdir.

  Raises:
    WorkdirError: the file is damaged.
  """

  def __init__(self, folder: pathlib.Path):
    self._path, self._lock = folder / FILE, threading.Lock()
    self._entries: dict[str, dict[str, Any]] = {}
    if self._path.exists():
      try:
        self._entries = {
          name: _checked(each) for name, each in json.loads(read_bytes(self._path)).items()
        }
      except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WorkdirError(
          f"{self._path} is damaged ({error!r}): restore it, or delete it, and each tracker begins "
          "a new run"
        ) from error

  def read(self, name: str) -> dict[str, Any]:
    """What is noted of a tracker: `identity`, `step` and `kinds` of the last rows; or {}."""
    return dict(self._entries.get(name, {}))

  def write(self, name: str, entry: Mapping[str, Any]) -> None:
    """Notes it.

    Raises:
      FolderGoneError: the workdir was deleted meanwhile.
      OSError: it can't be written.
    """
    with self._lock:
      self._entries[name] = dict(entry)
      if not self._path.parent.is_dir():  # what is gone stays gone
        raise FolderGoneError(self._path.parent)
      write_atomically(self._path, json.dumps(self._entries, indent=2) + "\n")


def _checked(entry: Mapping[str, Any]) -> dict[str, Any]:
  """An entry of the file; raises where it is none."""
  step, kinds, identity = entry["step"], entry["kinds"], entry["identity"]
  if not (isinstance(step, int) and isinstance(kinds, list) and isinstance(identity, dict)):
    raise TypeError("an entry has no step, kinds and identity")
  return {"identity": identity, "step": step, "kinds": kinds}
