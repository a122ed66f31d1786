"""Pieces on disk: strays, foreign ids, links, folders that go away, and whatever damage does."""

import json
import os
import random
import shutil
import time

import numpy as np
import pytest
from damage import WAYS, damaged

from jax_robust import atomic
from jax_robust.errors import WorkdirError
from jax_robust.runs import array_file, pieces
from jax_robust.runs import identity as identity_lib

IDENTITY = {"sigma": 0.5, "weights_sha256": "abc"}
IDS = range(0, 12, 2)
KINDS = {"rows": pieces.Rows, "arrays": pieces.Arrays}


@pytest.fixture(params=KINDS)
def kind(request):
  """Rows or arrays."""
  return request.param


def fill(kind, folder, stop=None):
  """Does the work, or so many pieces of it."""
  store = KINDS[kind](folder, IDENTITY, IDS, size=1 if kind == "rows" else 2)
  for number, ids in enumerate(store.missing()):
    if number == stop:
      break
    if kind == "rows":
      store.write({"id": int(ids[0]), "value": ids[0] ** 2 / 7})
    else:
      store.write({"id": ids, "value": ids**2 / 7, "label": ids.astype(np.int32)})
  return store


def content_of(folder):
  """All that is there, by id and name."""
  found = {}
  for content in pieces.find([folder]).contents():
    ids = np.ravel(content["id"]).tolist()
    columns = {name: np.ravel(values).tolist() for name, values in content.items()}
    for i, key in enumerate(ids):
      found[key] = {name: column[i] for name, column in columns.items()}
  return found


def rows_of(*contents):
  return "".join(json.dumps(content) + "\n" for content in contents)


STRAYS = {
  "rows": ("piece (1).jsonl", "piece-0-of-1 (1).jsonl", "piece-0-of-1.copy.jsonl", "notes.jsonl"),
  "arrays": ("piece (1).npz", "chunk_0000004 (1).npz", "chunk_4.npz", "x.npz", "piece-0.jsonl"),
}


@pytest.mark.parametrize(("kind", "name"), [(k, name) for k in KINDS for name in STRAYS[k]])
def test_a_stray_is_refused_and_named(kind, tmp_path, name):
  fill(kind, tmp_path, stop=2)
  before = content_of(tmp_path)
  original = next(tmp_path.glob("piece-*" if kind == "rows" else "chunk_*"))
  shutil.copyfile(original, tmp_path / name)
  for look in (lambda: fill(kind, tmp_path), lambda: pieces.find([tmp_path])):
    with pytest.raises(WorkdirError, match="copy.* delete it") as caught:
      look()
    assert str(tmp_path / name) in str(caught.value)
  (tmp_path / name).unlink()
  (tmp_path / ".DS_Store").touch()  # and what nobody takes for a piece may lie there
  fill(kind, tmp_path)
  assert len(content_of(tmp_path)) == len(IDS) and before.items() <= content_of(tmp_path).items()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_piece_that_is_no_file_is_refused(kind, tmp_path, make):
  fill(kind, tmp_path)
  piece = next(tmp_path.glob("piece-*" if kind == "rows" else "chunk_*"))
  piece.unlink()
  make(piece)
  with pytest.raises(WorkdirError, match="is no file") as caught:
    pieces.find([tmp_path])
  assert str(piece) in str(caught.value)


def test_a_row_of_a_foreign_id_does_not_block_the_job(tmp_path):
  store = pieces.Rows(tmp_path, IDENTITY, range(99))
  for key in (2, 5, 4):
    store.write({"id": key, "value": 0.0})
  path = tmp_path / "piece-0-of-1.jsonl"
  with pytest.raises(WorkdirError, match=rf"{path}, line 3, holds id 5, .*: delete that line, and"):
    fill("rows", tmp_path)
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(lines[:2] + lines[3:]))
  fill("rows", tmp_path)
  assert sorted(content_of(tmp_path)) == list(IDS)


def test_an_array_file_of_a_foreign_id_does_not_block_the_job(tmp_path):
  fill("arrays", tmp_path, stop=1)
  KINDS["arrays"](tmp_path, IDENTITY, range(99)).write({"id": np.array([77])})
  path = tmp_path / "chunk_0000077.npz"
  with pytest.raises(WorkdirError, match=rf"{path} holds id 77, .*: delete that file, and the job"):
    fill("arrays", tmp_path)
  path.unlink()
  fill("arrays", tmp_path)
  assert sorted(content_of(tmp_path)) == list(IDS)


@pytest.mark.parametrize("key", ['"5"', "5.0", "true", "[5]", "null", '{"a": 1}', "1" * 5000])
def test_an_id_that_is_none_is_refused(tmp_path, key):
  fill("rows", tmp_path, stop=0)
  path = tmp_path / "piece-0-of-1.jsonl"
  path.write_text(path.read_text() + f'{{"id": {key}, "value": 1}}\n')
  with pytest.raises(WorkdirError, match="line 2: expected a row") as caught:
    fill("rows", tmp_path)
  assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
  "line", ["[" * 10**5, "[]", "7", '{"identity": []}', '{"format": "jax_robust rows 1"}', "{}"]
)
def test_a_first_line_that_is_none_is_refused(tmp_path, line):
  (tmp_path / "piece-0-of-1.jsonl").write_text(line + "\n")
  with pytest.raises(WorkdirError, match="line 1: expected a row") as caught:
    pieces.find([tmp_path])
  assert len(str(caught.value)) < 1000


def test_a_row_that_lost_its_digest_is_refused(tmp_path):
  fill("rows", tmp_path)
  path = tmp_path / "piece-0-of-1.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  for number in (1, 3):
    for line in (lines[number].replace("sha256", "sha257"), rows_of({"id": 2 * number - 2})):
      if number == 1 and "sha257" not in line:
        continue  # as a log that an earlier version began
      path.write_text("".join([*lines[:number], line, *lines[number + 1 :]]))
      with pytest.raises(WorkdirError, match=f"line {number + 1}: .*sha256"):
        pieces.find([tmp_path])


@pytest.mark.parametrize("ids", [[], [0, 0], [2, 0], [[0, 2]], [0.0, 2.0], 0])
def test_ids_of_an_array_file_that_are_none_are_refused(tmp_path, ids):
  fill("arrays", tmp_path, stop=0)
  arrays = {"id": np.asarray(ids), "value": np.zeros(2)}
  work = identity_lib.digest(IDENTITY)
  array_file.write(tmp_path / "chunk_0000000.npz", arrays, work=work)
  with pytest.raises(WorkdirError, match="chunk_0000000.npz is damaged .its ids "):
    fill("arrays", tmp_path)


def test_an_identity_that_was_changed_is_refused(tmp_path):
  fill("arrays", tmp_path)
  path = tmp_path / pieces.IDENTITY
  path.write_text(path.read_text().replace("0.5", "0.6", 1))
  with pytest.raises(WorkdirError, match="identity.json is damaged .it is not what its sha"):
    pieces.find([tmp_path])


def test_a_link_is_never_written_through(kind, tmp_path):
  folder, target = tmp_path / "work", tmp_path / "target"
  fill(kind, folder, stop=1)
  name = "piece-0-of-1.jsonl" if kind == "rows" else "chunk_0000004.npz"
  if kind == "rows":
    (folder / name).rename(target)
    content = target.read_bytes()
    (folder / name).symlink_to(target)
    with pytest.raises(OSError, match="is a symbolic link, which is never written through: delete"):
      fill(kind, folder)
    assert target.read_bytes() == content
    return
  target.write_bytes(b"mine")
  (folder / name).symlink_to(target)
  with pytest.raises(WorkdirError, match=f"{name} is damaged"):
    fill(kind, folder)
  assert target.read_bytes() == b"mine"


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_folder_that_goes_away_is_noticed(kind, tmp_path, how):
  folder = tmp_path / "work"
  store = fill(kind, folder, stop=1)
  if how == "deleted":
    shutil.rmtree(folder)
  else:
    folder.rename(tmp_path / "moved")
  if how == "replaced":
    shutil.copytree(tmp_path / "moved", folder)
  before = sorted(folder.iterdir()) if folder.exists() else None
  with pytest.raises(atomic.FolderGoneError, match="work was deleted, moved or replaced while the"):
    store.write({"id": 4 if kind == "rows" else np.array([4, 6]), "value": 1.0})
  assert (sorted(folder.iterdir()) if folder.exists() else None) == before


@pytest.mark.parametrize("count", [80, pytest.param(500, marks=pytest.mark.slow)])
def test_damage_is_refused_or_changes_nothing(kind, tmp_path, count):
  """Whatever happens to a file: the rest of the rows are as they were, or the file is named."""
  fill(kind, tmp_path)
  whole, draw, num_refused = content_of(tmp_path), random.Random(count), 0
  files = sorted(path for path in tmp_path.iterdir() if path.is_file())
  for _ in range(count):
    path = draw.choice(files)
    content = path.read_bytes()
    path.write_bytes(damaged(draw, content, ways=("flip", *WAYS)))
    began = time.monotonic()
    try:
      found = content_of(tmp_path)
    except WorkdirError as error:
      num_refused += 1
      assert str(tmp_path) in str(error) and len(str(error)) < 3000
    else:
      assert found.items() <= whole.items()
    assert time.monotonic() - began < 10
    path.write_bytes(content)
  assert num_refused > count / 3
  assert content_of(tmp_path) == whole and os.listdir(tmp_path)
