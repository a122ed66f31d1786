"""An append-only log of rows, one JSON object a line, that a kill at any byte leaves usable."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from jax_robust.errors import WorkdirError
from jax_robust.runs import workdir
from jax_robust.runs.chunks import differing

FORMAT = "jax_robust rows 1"


class RowLog:
  """The rows of a job, by `id`; the first line says what they are of.

  Guarantees:
    `a_torn_line_is_dropped`: what a kill left of a line is cut off, and its row is made again.
    `rows_of_another_job_are_refused`.
    `a_full_disk_loses_no_row`: a row that can't be written whole is taken back.

  Attributes:
    rows: by id, those that are there.
  """

  def __init__(self, path: pathlib.Path, identity: Mapping[str, Any]):
    """Opens a log, or makes it.

    Args:
      path: of the file.
      identity: what the rows depend on, as JSON can hold it.

    Raises:
      WorkdirError: it is the log of something else, or a line before the last is damaged.
    """
    self.path, self.rows = path, {}
    path.parent.mkdir(parents=True, exist_ok=True)
    self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
      content = path.read_bytes()
      self._end = content.rfind(b"\n") + 1
      os.ftruncate(self._file, self._end)
      os.lseek(self._file, self._end, os.SEEK_SET)
      if self._end:
        header, self.rows = parse(path, content[: self._end])
        _check_same(path, header["identity"], json.loads(json.dumps(identity)))
      else:
        self._write({"format": FORMAT, "identity": identity, "versions": workdir.versions()})
    except BaseException:
      os.close(self._file)
      raise

  def append(self, row: Mapping[str, Any]) -> None:
    """Adds a row; when this returns, a kill does not lose it.

    Raises:
      OSError: it could not be written; the log is as it was.
    """
    self._write(row)
    self.rows[row["id"]] = dict(row)

  def _write(self, line: Mapping[str, Any]) -> None:
    """Writes a line whole, or not at all."""
    data = (json.dumps(line) + "\n").encode()
    try:
      written = 0
      while written < len(data):
        written += os.write(self._file, data[written:])
    except OSError:
      os.ftruncate(self._file, self._end)
      os.lseek(self._file, self._end, os.SEEK_SET)
      raise
    self._end += len(data)

  def __enter__(self) -> "RowLog":
    return self

  def __exit__(self, *_: Any) -> None:
    try:
      os.fsync(self._file)
    finally:
      os.close(self._file)


def parse(path: pathlib.Path, content: bytes) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
  """The header and the rows of a log's whole lines.

  Raises:
    WorkdirError: a line is none of ours, or an id is there twice; with its number.
  """
  lines = content.split(b"\n")[:-1]
  header, rows = None, {}
  for number, line in enumerate(lines, start=1):
    try:
      found = json.loads(line)
      if number == 1:
        if found["format"] != FORMAT:
          raise ValueError(f"format {found['format']!r}")
        header = found
      elif found["id"] in rows:
        raise ValueError(f"id {found['id']} again")
      else:
        rows[found["id"]] = found
    except (ValueError, TypeError, KeyError) as error:
      raise WorkdirError(
        f"{path}, line {number}: expected a row of a {FORMAT!r} log, found {line[:60]!r} "
        f"({error}): repair or move that file away"
      ) from error
  if header is None:
    raise WorkdirError(f"{path} is empty: expected a {FORMAT!r} log")
  return header, rows


def has_header(path: pathlib.Path) -> bool:
  """Whether a log has its first line, which says what it is of."""
  with path.open("rb") as file:
    return file.readline().endswith(b"\n")


def read(path: pathlib.Path) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
  """The header and the rows of a log, which may grow meanwhile; a torn last line is left out.

  Raises:
    WorkdirError: it is no log of ours, or a line is damaged.
  """
  try:
    content = path.read_bytes()
  except OSError as error:
    raise WorkdirError(f"{path} can't be read ({error.strerror})") from error
  return parse(path, content[: content.rfind(b"\n") + 1])


def _check_same(path, stored, wanted) -> None:
  """Raises WorkdirError where two identities differ."""
  lines = differing(stored, wanted)
  if lines:
    raise WorkdirError(
      f"{path} holds rows of another job:\n  "
      + "\n  ".join(lines)
      + "\nchoose another --workdir, or move that file away"
    )
