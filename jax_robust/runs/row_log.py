"""A file of rows, one JSON object a line, that only grows: a kill at any byte leaves it usable."""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from jax_robust.errors import WorkdirError
from jax_robust.runs import identity as identity_lib
from jax_robust.runs import workdir

FORMAT = "jax_robust rows 1"

_DIGEST = b', "sha256": "'  # the last field of a row, added to the line and taken off it again


class Contents(NamedTuple):
  """What a log holds.

  Attributes:
    header: its first line: the `identity` of the work, the `ids` of the whole work, and `versions`.
    rows: by id.
    num_undigested: rows of an earlier version, which have no digest.
  """

  header: dict[str, Any]
  rows: dict[int, dict[str, Any]]
  num_undigested: int


class RowLog:
  """Opens a log for appending, or makes it.

  Guarantees:
    `a_torn_line_is_dropped`: what a kill left of a line is cut off, and its row is computed again.
    `a_full_disk_loses_no_row`: a row that can't be written whole is taken back.
    `a_changed_row_is_found`: every row carries a digest of itself and of the identity.

  Args:
    path: of the file.
    identity: what the rows belong to, as JSON can hold it; that of a log that is there stays.
    ids: those of the whole work.

  Raises:
    WorkdirError: a line before the last is damaged.
  """

  def __init__(self, path: pathlib.Path, identity: Mapping[str, Any], ids: range):
    path.parent.mkdir(parents=True, exist_ok=True)
    self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
      content = path.read_bytes()
      self._end = content.rfind(b"\n") + 1
      os.ftruncate(self._file, self._end)
      os.lseek(self._file, self._end, os.SEEK_SET)
      if self._end:
        identity = _parse(path, content[: self._end]).header["identity"]
      self._work = identity_lib.digest(identity_lib.plain(identity))
      if not self._end:
        header = {"format": FORMAT, "identity": identity, "versions": workdir.versions()}
        self._write(json.dumps({**header, "ids": [ids.start, ids.stop, ids.step]}).encode())
    except BaseException:
      os.close(self._file)
      raise

  def append(self, row: Mapping[str, Any]) -> None:
    """Adds a row; when this returns, a kill does not lose it.

    Raises:
      OSError: it could not be written; the log is as it was.
    """
    body = json.dumps(row)[:-1].encode()
    self._write(body + _DIGEST + _digest(self._work, body) + b'"}')

  def _write(self, line: bytes) -> None:
    """Writes a line whole, or not at all."""
    data = line + b"\n"
    try:
      written = 0
      while written < len(data):
        written += os.write(self._file, data[written:])
    except OSError:
      os.ftruncate(self._file, self._end)
      os.lseek(self._file, self._end, os.SEEK_SET)
      raise
    self._end += len(data)

  def close(self) -> None:
    """Brings the rows to the disk."""
    try:
      os.fsync(self._file)
    finally:
      os.close(self._file)


def read(path: pathlib.Path) -> Contents | None:
  """What a log holds, which may grow meanwhile; None where it has no whole line yet.

  Raises:
    WorkdirError: it is no log of ours, or a line is damaged.
  """
  content = path.read_bytes()
  end = content.rfind(b"\n") + 1
  return _parse(path, content[:end]) if end else None


def _parse(path: pathlib.Path, content: bytes) -> Contents:
  """Reads whole lines; raises WorkdirError, with the number, for one that no log of ours has."""
  header, work, rows, num_undigested = {}, "", {}, 0
  for number, line in enumerate(content.split(b"\n")[:-1], start=1):
    try:
      found = json.loads(line)
      if number == 1:
        if found["format"] != FORMAT:
          raise ValueError(f"format {found['format']!r}")
        header, work = found, identity_lib.digest(found["identity"])
        continue
      if "sha256" in found:
        body, _, tail = line.rpartition(_DIGEST)
        if tail != _digest(work, body) + b'"}':
          raise ValueError("the row is not what its sha256 says")
        del found["sha256"]
      else:
        num_undigested += 1
      if found["id"] in rows:
        raise ValueError(f"id {found['id']} again")
      rows[found["id"]] = found
    except (ValueError, TypeError, KeyError) as error:
      raise WorkdirError(
        f"{path}, line {number}: expected a row of a {FORMAT!r} log, found {line[:60]!r} "
        f"({error}): delete that line, whose row is then computed again, or move the file away"
      ) from error
  return Contents(header, rows, num_undigested)


def _digest(work: str, body: bytes) -> bytes:
  """The first half of the sha256 of a row and of what it belongs to."""
  return hashlib.sha256(work.encode() + body).hexdigest()[:32].encode()
