"""The files of pieces: what they belong to, which ids they hold, and whether they fit together."""

import functools
import json
import pathlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_robust.atomic import read_bytes, write_atomically
from jax_robust.errors import WorkdirError
from jax_robust.runs import array_file, row_log
from jax_robust.runs import identity as identity_lib
from jax_robust.train import metrics

IDENTITY = "identity.json"
"""The file of a folder of arrays that says what they belong to."""

_SHA256 = "sha256"
"""What that file calls the digest of the rest of it; those of earlier versions have none."""

_NO_IDENTITY = ("ids", "listed_ids", "versions")

_NAMES = re.compile(r"piece-(0|[1-9][0-9]*)-of-[1-9][0-9]*\.jsonl|chunk_[0-9]{7,}\.npz")
"""What pieces are called; nothing else that could be taken for one may lie in their folder."""


class Piece(NamedTuple):
  """A file: what it belongs to, the ids of the whole work, and the ids that it holds itself."""

  path: pathlib.Path
  identity: dict[str, Any]
  ids: Sequence[int]
  held: Sequence[int]
  read: Callable[..., Sequence[dict[str, Any]]]
  num_undigested: int = 0


class Work(NamedTuple):
  """What some folders hold of one work.

  Attributes:
    identity: what the pieces belong to.
    ids: those of the whole work.
    pieces: the files.
    owners: by id, the file that holds it.
  """

  identity: dict[str, Any]
  ids: Sequence[int]
  pieces: list[Piece]
  owners: dict[int, pathlib.Path]

  @property
  def num_missing(self) -> int:
    """How many ids no file holds."""
    return len(self.ids) - len(self.owners)

  def where(self, key: int) -> str:
    """The file that holds an id, with the line if it is one of lines."""
    return _where(self.owners[key], key)

  def is_complete(self, name: str) -> bool:
    """Whether every id is there; says how many are if not."""
    if self.num_missing:
      here = f"{len(self.owners)} of {len(self.ids)} are here"
      metrics.report(f"{name}: {here}; job=merge puts pieces together")
    return not self.num_missing

  def contents(self, *, without: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """All rows, or the arrays of each file but those named, in the order of their ids."""
    pieces = sorted((piece for piece in self.pieces if piece.held), key=lambda each: each.held[0])
    found = (content for piece in pieces for content in piece.read(without=without))
    if any(piece.path.suffix == ".jsonl" for piece in pieces):
      return iter(sorted(found, key=lambda row: row["id"]))
    return found  # one file in memory at a time


def find(
  folders: Sequence[pathlib.Path], *, wanted: tuple[dict[str, Any], Sequence[int]] | None = None
) -> Work:
  """Finds the pieces in folders, which other processes may add to meanwhile.

  Args:
    folders: where to look.
    wanted: the identity and the ids of the work; None takes what the first file says.

  Raises:
    WorkdirError: there is none; one is damaged, or a file that is none; two belong to different
      works; an id is none of the work's, or is held twice. The message names the files, and what to
      do.
  """
  for folder in folders:
    _refuse_strays(folder)
  found: list[Piece] = []
  owners: dict[int, pathlib.Path] = {}
  for piece in (each for folder in folders for read in _KINDS for each in read(folder, wanted)):
    found.append(piece)
    identity, ids = wanted or (found[0].identity, found[0].ids)
    lines = identity_lib.differing(piece.identity, identity)
    if lines:
      other = "this one" if wanted else f"{found[0].path} does"
      raise WorkdirError(
        f"{piece.path} belongs to another job than {other}:\n  "
        + "\n  ".join(lines)
        + "\nchoose another --workdir, or move that folder away"
      )
    inside = ids if isinstance(ids, range) else frozenset(ids)
    for key in piece.held:
      if key not in inside:
        what = "line" if piece.path.suffix == ".jsonl" else "file"
        raise WorkdirError(
          f"{_where(piece.path, key)} holds id {key}, which is none of {_shown(ids)}: delete that "
          f"{what}, and the job goes on"
        )
      if key in owners:
        raise WorkdirError(_overlap(key, owners[key], piece.path))
      owners[key] = piece.path
  if wanted is None and not found:
    raise WorkdirError(f"{', '.join(map(str, folders))}: there is no piece of any job")
  return Work(*(wanted or (found[0].identity, found[0].ids)), found, owners)


def noted_identity(folder: pathlib.Path) -> dict[str, Any] | None:
  """What the first log of rows in a folder belongs to; None where nothing was begun."""
  return next((piece.identity for piece in _rows_in(folder, None)), None)


def _shown(ids: Sequence[int]) -> str:
  """Ids in a message."""
  return repr(ids) if isinstance(ids, range) else f"the {len(ids)} that were drawn"


def _where(path: pathlib.Path, key: int) -> str:
  """A file that holds an id, with the line if it is one of lines."""
  return f"{path}, line {row_log.line_of(path, key)}," if path.suffix == ".jsonl" else str(path)


def _refuse_strays(folder: pathlib.Path) -> None:
  """Raises WorkdirError for a file that looks like a piece and is not called like one."""
  for path in sorted(folder.glob("*")):
    if path.suffix in (".jsonl", ".npz") and not _NAMES.fullmatch(path.name):
      raise WorkdirError(
        f"{path} is no piece of this folder, whose files are called piece-I-of-N.jsonl or "
        "chunk_NNNNNNN.npz: it is a copy or a stray; delete it, or move it away"
      )


def _overlap(key: int, one: pathlib.Path, other: pathlib.Path) -> str:
  """Says which of two files that hold one id to delete."""
  if one.read_bytes() == other.read_bytes():
    return f"overlap: {other} is a copy of {one}: delete it"
  return f"overlap: id {key} is in {one} and in {other}: delete one of them"


def _rows_in(folder: pathlib.Path, wanted) -> Iterator[Piece]:
  """The logs of a folder that have their first line."""
  for path in sorted(folder.glob("piece-*.jsonl")):
    log = row_log.read(path)
    if log is None:
      continue
    identity = log.header["identity"]
    ids = wanted[1] if wanted else identity_lib.ids_of(log.header, identity, path)
    rows = list(log.rows.values())
    read = functools.partial(lambda rows, without: rows, rows)
    yield Piece(path, identity, ids, list(log.rows), read, log.num_undigested)


def _arrays_in(folder: pathlib.Path, wanted) -> Iterator[Piece]:
  """The npz files of a folder; the file of the identity counts as one that holds no id."""
  path = folder / IDENTITY
  if not path.exists():
    return
  try:
    header = json.loads(read_bytes(path))
    sha256 = header.pop(_SHA256, None)
    identity = {key: value for key, value in header.items() if key not in _NO_IDENTITY}
  except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
    raise WorkdirError(f"{path} is damaged ({error}): restore it, or move {folder} away") from error
  ids = wanted[1] if wanted else identity_lib.ids_of(header, identity, path)
  yield Piece(path, identity, ids, (), lambda without: ())
  # Only now: of two works the difference says more.
  if sha256 not in (None, identity_lib.digest(header)):
    raise WorkdirError(
      f"{path} is damaged (it is not what its sha256 says): restore it, or move {folder} away"
    )
  # What an earlier version began may lack digests; what ours did has them everywhere.
  work, digested = identity_lib.digest(identity), sha256 is not None
  for path in sorted(folder.glob("chunk_*.npz")):
    arrays, has_digest = array_file.read(path, work=work, names=("id",), digested=digested)
    held = _ids_in(path, arrays["id"])
    if path != array_path(folder, held[0]):
      raise WorkdirError(
        f"{path} holds ids {held[0]} to {held[-1]}, which belong into "
        f"{array_path(folder, held[0]).name}: it is a copy, or was renamed; delete it"
      )
    read = functools.partial(_read_arrays, path, work, digested)
    yield Piece(path, identity, ids, held, read, int(not has_digest))


def _ids_in(path: pathlib.Path, held: np.ndarray) -> list[int]:
  """The ids of a file: whole numbers that increase, one at least."""
  if held.ndim != 1 or not held.size or not np.issubdtype(held.dtype, np.integer):
    fault = f"are {held.dtype} {list(held.shape)}"
  elif np.any(np.diff(held) <= 0):
    fault = "do not increase"
  else:
    return held.tolist()
  raise WorkdirError(f"{path} is damaged (its ids {fault}): delete it and run the job again")


def _read_arrays(path, work, digested, without):
  """The arrays of a file, as the one content of its piece."""
  return [array_file.read(path, work=work, without=without, digested=digested)[0]]


_KINDS = (_rows_in, _arrays_in)


def write_identity(
  folder: pathlib.Path, identity: Mapping[str, Any], ids: Sequence[int], versions: Mapping[str, Any]
) -> None:
  """Says in a folder of arrays what they belong to."""
  header = {**identity, **identity_lib.noted_ids(ids), "versions": versions}
  header = identity_lib.plain(header)
  content = {**header, _SHA256: identity_lib.digest(header)}
  write_atomically(folder / IDENTITY, json.dumps(content, indent=2) + "\n")


def array_path(folder: pathlib.Path, first: int) -> pathlib.Path:
  """The npz file of the ids from `first` on."""
  return folder / f"chunk_{first:07d}.npz"
