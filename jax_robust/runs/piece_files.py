"""The files of pieces: what they belong to, which ids they hold, and whether they fit together."""

import functools
import json
import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from jax_robust.errors import WorkdirError
from jax_robust.runs import array_file, row_log
from jax_robust.runs import identity as identity_lib
from jax_robust.train import metrics

IDENTITY = "identity.json"
"""The file of a folder of arrays that says what they belong to."""


class Piece(NamedTuple):
  """A file: what it belongs to, the ids of the whole work, and the ids that it holds itself."""

  path: pathlib.Path
  identity: dict[str, Any]
  ids: range
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
  ids: range
  pieces: list[Piece]
  owners: dict[int, pathlib.Path]

  @property
  def num_missing(self) -> int:
    """How many ids no file holds."""
    return len(self.ids) - len(self.owners)

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
  folders: Sequence[pathlib.Path], *, wanted: tuple[dict[str, Any], range] | None = None
) -> Work:
  """Finds the pieces in folders, which other processes may add to meanwhile.

  Args:
    folders: where to look.
    wanted: the identity and the ids of the work; None takes what the first file says.

  Raises:
    WorkdirError: there is none; one is damaged; two belong to different works; an id is none of the
      work's, or is held twice. The message names the files, and what to do.
  """
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
    for key in piece.held:
      if key not in ids:
        raise WorkdirError(
          f"{piece.path} holds id {key}, which is none of {ids}: delete or correct that file"
        )
      if key in owners:
        raise WorkdirError(_overlap(key, owners[key], piece.path))
      owners[key] = piece.path
  if wanted is None and not found:
    raise WorkdirError(f"{', '.join(map(str, folders))}: there is no piece of any job")
  return Work(*(wanted or (found[0].identity, found[0].ids)), found, owners)


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
    header = json.loads(path.read_text())
    identity = {key: value for key, value in header.items() if key not in ("ids", "versions")}
  except (OSError, ValueError, AttributeError) as error:
    raise WorkdirError(f"{path} is damaged ({error}): restore it, or move {folder} away") from error
  ids = wanted[1] if wanted else identity_lib.ids_of(header, identity, path)
  yield Piece(path, identity, ids, (), lambda without: ())
  work = identity_lib.digest(identity)
  for path in sorted(folder.glob("chunk_*.npz")):
    arrays, has_digest = array_file.read(path, work=work, names=("id",))
    held = arrays["id"].tolist()
    if path != array_path(folder, held[0]):
      raise WorkdirError(
        f"{path} holds ids {held[0]} to {held[-1]}, which belong into "
        f"{array_path(folder, held[0]).name}: it is a copy, or was renamed; delete it"
      )
    read = functools.partial(_read_arrays, path, work)
    yield Piece(path, identity, ids, held, read, int(not has_digest))


def _read_arrays(path, work, without):
  """The arrays of a file, as the one content of its piece."""
  return [array_file.read(path, work=work, without=without)[0]]


_KINDS = (_rows_in, _arrays_in)


def array_path(folder: pathlib.Path, first: int) -> pathlib.Path:
  """The npz file of the ids from `first` on."""
  return folder / f"chunk_{first:07d}.npz"
