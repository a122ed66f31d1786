"""An npz file of arrays that is written whole, with a digest of each and of what it belongs to."""

import hashlib
import json
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from jax_robust.atomic import NO_FILE, write_atomically
from jax_robust.errors import WorkdirError

_DIGESTS = "digests"
"""A member that says, as JSON, the sha256 of every other member together with the work's."""


_DAMAGE = (
  OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError,
  SyntaxError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
"""What NumPy and zipfile raise of a file that is none of ours (RuntimeError: an unknown method of
compression, or encryption)."""


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray], *, work: str) -> None:
  """Writes arrays; a kill leaves the whole file or none.

  Args:
    path: of the file.
    arrays: by name.
    work: digest of the identity of what they belong to.
  """
  members: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
  digests = {name: _digest(array, work) for name, array in members.items()}
  members[_DIGESTS] = np.asarray(json.dumps(digests))
  write_atomically(path, lambda stream: np.savez(stream, **members))


def read(
  path: pathlib.Path,
  *,
  work: str,
  names: Collection[str] | None = None,
  without: Collection[str] = (),
  digested: bool = False,
) -> tuple[dict[str, np.ndarray], bool]:
  """Reads arrays, and holds them to their digests.

  Args:
    path: of the file.
    work: digest of the identity of what they should belong to.
    names: which; None reads all but `without`.
    without: names of arrays that are not read.
    digested: whether it is known that there are digests, so that a file without is damaged.

  Returns:
    The arrays by name, and whether there were digests: a file of an earlier version has none.

  Raises:
    WorkdirError: it is damaged, or belongs to something else.
  """
  if not path.is_file():  # a pipe would never end
    raise WorkdirError(f"{path} {NO_FILE}: delete it")
  try:
    with np.load(path, allow_pickle=False) as file:
      digests = json.loads(str(file[_DIGESTS])) if _DIGESTS in file.files else {}
      if digested and not digests:
        raise ValueError("it has lost its digests")
      if digests and digests.keys() != set(file.files) - {_DIGESTS}:
        raise ValueError(f"it holds {sorted(file.files)}, its digests are of {sorted(digests)}")
      wanted = [name for name in names or file.files if name not in without and name != _DIGESTS]
      arrays = {name: file[name] for name in wanted}
      for name, array in arrays.items():
        if digests and digests[name] != _digest(array, work):
          raise ValueError(f"{name} is not what its sha256 says, or belongs to another job")
  except MemoryError as error:  # a damaged head asks for anything, but so does a large piece
    raise WorkdirError(
      f"{path} can't be read ({str(error)[:200]}): free memory; if it is damaged, delete it and "
      "run the job again"
    ) from error
  except _DAMAGE as error:
    raise WorkdirError(
      f"{path} is damaged ({str(error)[:300]}): delete it and run the job again"
    ) from error
  return arrays, bool(digests)


def _digest(array: np.ndarray, work: str) -> str:
  """The sha256 of an array, its shape, its dtype, and what it belongs to."""
  head = f"{work} {array.dtype.str} {array.shape} "
  return hashlib.sha256(head.encode() + np.ascontiguousarray(array).tobytes()).hexdigest()
