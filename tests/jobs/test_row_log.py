"""A file that grows by rows: whole after a kill at any byte, damage named with its line."""

import pytest

from jax_robust.errors import WorkdirError
from jax_robust.runs import row_log

pytestmark = pytest.mark.fast

IDENTITY = {"sigma": 0.5, "radii": [0.25, 0.5]}
ROWS = [{"id": i, "label": i % 3, "radius": 0.1 * i} for i in (7, 3, 5)]


def fill(path):
  """Adds what is missing; the bytes of the file."""
  work = row_log.start(path, IDENTITY, range(9))
  there = row_log.read(path).rows
  for row in ROWS:
    if row["id"] not in there:
      row_log.append(path, row, work=work)
  return path.read_bytes()


def test_rows_come_back(tmp_path):
  fill(tmp_path / "log")
  header, rows, num_undigested = row_log.read(tmp_path / "log")
  assert header["identity"] == {"sigma": 0.5, "radii": [0.25, 0.5]} and header["ids"] == [0, 9, 1]
  assert header["versions"]["packages"]["jax"]
  assert rows == {row["id"]: row for row in ROWS} and num_undigested == 0


def test_a_torn_line_is_dropped(tmp_path, monkeypatch):
  """A kill at any byte: what is whole stays, the rest is made again, nothing is there twice."""
  monkeypatch.setattr(row_log.workdir, "versions", lambda: {"packages": {}})
  path = tmp_path / "log"
  content = fill(path)
  body = content.index(b"\n") + 1
  second = content.index(b"\n", body) + 1
  for end in [0, 1, body - 1, *range(body, second + 2), len(content) - 1, len(content)]:
    path.write_bytes(content[:end])
    if end >= body:
      assert len(row_log.read(path).rows) == content[body:end].count(b"\n")
    else:
      assert row_log.read(path) is None
    assert fill(path) == content, end


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    (b'{"id": 3', b'{"id": 7', "line 3: expected a row .*not what its sha256 says"),
    (b'{"id": 3', b'{"id", 3', "line 3: expected a row"),
    (b'{"id": 3', b'{"ie": 3', "line 3: expected a row"),
    (b"rows 1", b"rows 2", "line 1: expected a row .*format 'jax_robust rows 2'"),
    (b'\n{"id": 5', b'\n{"id": 7}\n{"id": 5', "line 4: expected a row .*id 7 again"),
    (b'\n{"id": 5', b'\n\n{"id": 5', "line 4: expected a row"),
  ],
)
def test_a_damaged_line_is_named(tmp_path, old, new, message):
  path = tmp_path / "log"
  path.write_bytes(fill(path).replace(old, new))
  with pytest.raises(WorkdirError, match=message):
    row_log.read(path)
