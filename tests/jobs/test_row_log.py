"""A log that grows by rows: whole after a kill at any byte, a full disk, another job's mistake."""

import errno
import os

import pytest

from jax_robust.errors import WorkdirError
from jax_robust.runs import row_log
from jax_robust.runs.row_log import RowLog

IDENTITY = {"sigma": 0.5, "radii": (0.25, 0.5)}
ROWS = [{"id": i, "label": i % 3, "radius": 0.1 * i} for i in (7, 3, 5)]


def fill(path, rows=ROWS, identity=IDENTITY):
  with RowLog(path, identity) as log:
    for row in rows:
      if row["id"] not in log.rows:
        log.append(row)
  return path.read_bytes()


def test_rows_come_back(tmp_path):
  fill(tmp_path / "log")
  header, rows = row_log.read(tmp_path / "log")
  assert header["identity"] == {"sigma": 0.5, "radii": [0.25, 0.5]}
  assert header["versions"]["packages"]["jax"]
  assert rows == {row["id"]: row for row in ROWS}


def test_a_torn_line_is_dropped(tmp_path):
  """A kill at any byte: what is whole stays, the rest is made again, nothing is there twice."""
  path = tmp_path / "log"
  content = fill(path)
  body = content.index(b"\n") + 1
  for end in [0, 1, body - 1, *range(body, len(content) + 1)]:
    path.write_bytes(content[:end])
    if end >= body:
      assert len(row_log.read(path)[1]) == content[body:end].count(b"\n")
    again = fill(path)
    assert again[again.index(b"\n") + 1 :] == content[body:], end


def test_a_full_disk_loses_no_row(tmp_path, monkeypatch):
  path = tmp_path / "log"
  with RowLog(path, IDENTITY) as log:
    log.append(ROWS[0])
    before = path.read_bytes()
    write = os.write

    def full(file, data):
      write(file, data[:5])
      raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
      patch.setattr(os, "write", full)
      with pytest.raises(OSError, match="No space left"):
        log.append(ROWS[1])
    assert path.read_bytes() == before and list(log.rows) == [7]
    log.append(ROWS[1])
  assert list(row_log.read(path)[1]) == [7, 3]


def test_rows_of_another_job_are_refused(tmp_path):
  before = fill(tmp_path / "log")
  with pytest.raises(WorkdirError, match=r"another job:\n  sigma: 0.5 there, 1.0 here\n"):
    RowLog(tmp_path / "log", {**IDENTITY, "sigma": 1.0})
  assert (tmp_path / "log").read_bytes() == before


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    (b'{"id": 3', b'{"id": 7', "line 3: expected a row .*id 7 again"),
    (b'{"id": 3', b'{"id", 3', "line 3: expected a row"),
    (b'{"id": 3', b'{"ie": 3', "line 3: expected a row"),
    (b"rows 1", b"rows 2", "line 1: expected a row .*format 'jax_robust rows 2'"),
  ],
)
def test_a_damaged_line_is_named(tmp_path, old, new, message):
  path = tmp_path / "log"
  path.write_bytes(fill(path).replace(old, new))
  with pytest.raises(WorkdirError, match=message):
    row_log.read(path)
  with pytest.raises(WorkdirError, match=message):
    RowLog(path, IDENTITY)


def test_what_is_no_log(tmp_path):
  with pytest.raises(WorkdirError, match="can't be read"):
    row_log.read(tmp_path / "none")
  (tmp_path / "empty").write_bytes(b"")
  with pytest.raises(WorkdirError, match="is empty"):
    row_log.read(tmp_path / "empty")
