"""A file of rows, one JSON object a line, that only grows: a kill at any byte leaves it usable."""

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jax_robust.atomic import open_no_link, read_bytes, write_atomically
from jax_robust.errors import WorkdirError
from jax_robust.runs import identity as identity_lib
from jax_robust.runs import workdir

FORMAT = "jax_robust rows 1"

_DIGEST = b', "sha256": "'  # the last field of a row, added to the line and taken off it again

_DIGESTED = re.compile(rb'"[0-9a-f]{32}"\}\Z')  # how a row that has one ends, whatever its name is


class Contents(NamedTuple):
  """What a log holds.

  Attributes:
    header: its first line: the `identity` of the work, its ids as `noted_ids`, and `versions`.
    rows: by id.
    num_undigested: rows of an earlier version, which have no digest.
  """

  header: dict[str, Any]
  rows: dict[int, dict[str, Any]]
  num_undigested: int


def start(path: pathlib.Path, identity: Mapping[str, Any], ids: Sequence[int]) -> str:
  """Makes a log, or cuts off what a kill left of the last line of one that is there.

  Args:
    path: of the file.
    identity: what the rows belong to, as JSON has it; that of a log that is there stays.
    ids: those of the whole work.

  Returns:
    The digest of the log's identity, which `append` wants.

  Raises:
    OSError: it is a symbolic link, or can't be written.
  """
  content = read_bytes(path) if path.exists() else b""
  end = content.rfind(b"\n") + 1
  if end < len(content):
    with os.fdopen(open_no_link(path, os.O_WRONLY), "wb", buffering=0) as file:
      file.truncate(end)
  if end:
    return identity_lib.digest(json.loads(content[: content.index(b"\n")])["identity"])
  header: dict[str, Any] = {"format": FORMAT, "identity": identity, "versions": workdir.versions()}
  header |= identity_lib.noted_ids(ids)
  write_atomically(path, json.dumps(header) + "\n")
  return identity_lib.digest(identity)


def append(path: pathlib.Path, row: Mapping[str, Any], *, work: str) -> None:
  """Adds a row to a log that was started; when this returns, a kill does not lose it.

  Guarantees:
    `a_torn_line_is_dropped`: what a kill left of a line is cut off, and its row is computed again.
    `a_full_disk_loses_no_row`: a row that can't be written whole is taken back.
    `a_changed_row_is_found`: every row carries a digest of itself and of the identity.

  Raises:
    OSError: it could not be written; the log is as it was. It is gone, or a symbolic link.
  """
  body = json.dumps(row)[:-1].encode()
  line = body + _DIGEST + _digest(work, body) + b'"}\n'
  with os.fdopen(open_no_link(path, os.O_WRONLY | os.O_APPEND), "ab", buffering=0) as file:
    end = file.seek(0, os.SEEK_END)
    try:
      while line:
        line = line[file.write(line) :]
    except OSError:
      file.truncate(end)
      raise


def read(path: pathlib.Path) -> Contents | None:
  """What a log holds, which may grow meanwhile; None where it has no whole line yet.

  Raises:
    WorkdirError: it is no log of ours, or a line is damaged.
  """
  try:
    content = read_bytes(path)
  except OSError as error:
    raise WorkdirError(f"{path}: {error.strerror}: move it away, or restore it") from error
  end = content.rfind(b"\n") + 1
  return _parse(path, content[:end]) if end else None


def _parse(path: pathlib.Path, content: bytes) -> Contents:
  """Reads whole lines; raises WorkdirError, with the number, for one that no log of ours has."""
  header, work, num_undigested = {}, "", 0
  rows: dict[int, dict[str, Any]] = {}
  for number, line in enumerate(content.split(b"\n")[:-1], start=1):
    try:
      found = json.loads(line)
      if number == 1:
        if found["format"] != FORMAT:
          raise ValueError(f"format {found['format']!r}")
        if not isinstance(found["identity"], dict):
          raise TypeError("its identity is no object")
        header, work = found, identity_lib.digest(found["identity"])
        continue
      is_digested = "sha256" in found or bool(_DIGESTED.search(line))
      if is_digested:
        body, _, tail = line.rpartition(_DIGEST)
        if tail != _digest(work, body) + b'"}':
          raise ValueError("the row is not what its sha256 says")
        del found["sha256"]
      else:
        num_undigested += 1
      key = found["id"]
      if type(key) is not int:
        raise TypeError(f"id {key!r} is no integer")
      if key in rows:
        raise ValueError(f"id {key} again")
      if not is_digested and len(rows) >= num_undigested:  # those of an earlier version come first
        raise ValueError("the row has no sha256, and one before it has")
      rows[key] = found
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
      raise WorkdirError(
        f"{path}, line {number}: expected a row of a {FORMAT!r} log, found {line[:60]!r} "
        f"({str(error)[:200]}): delete that line, whose row is then computed again, or move the "
        "file away"
      ) from error
  return Contents(header, rows, num_undigested)


def line_of(path: pathlib.Path, key: int) -> int:
  """The number of the line that holds an id."""
  lines = read_bytes(path).split(b"\n")
  return next(n for n, line in enumerate(lines[1:], start=2) if json.loads(line)["id"] == key)


def _digest(work: str, body: bytes) -> bytes:
  """The first half of the sha256 of a row and of what it belongs to."""
  return hashlib.sha256(work.encode() + body).hexdigest()[:32].encode()
