"""The store of resumable work: every id once, whatever was killed, copied, damaged or mixed up."""

import json
import re
import resource
import shutil
import signal

import numpy as np
import pytest

from jax_robust.errors import ConfigError, WorkdirError
from jax_robust.runs import array_file, pieces, progress
from jax_robust.runs import identity as identity_lib

pytestmark = pytest.mark.fast

IDENTITY = {"sigma": 0.5, "radii": (0.25, 0.5), "weights_sha256": "abc"}
IDS = range(4, 24, 2)
KINDS = {"rows": pieces.Rows, "arrays": pieces.Arrays}
SIZE = {"rows": 1, "arrays": 3}


@pytest.fixture(params=KINDS)
def kind(request):
  """Rows or arrays."""
  return request.param


def value_of(key):
  """What is to be found for an id."""
  return key**2 / 7


def fill(kind, folder, share=(0, 1), stop=None, identity=IDENTITY, at_once=1):
  """Does a share of the work, or only so many pieces of it."""
  size = SIZE[kind]
  store = KINDS[kind](folder, identity, IDS, share=share, size=size)
  for number, ids in enumerate(store.missing(at_once)):
    if number == stop:
      break
    if kind == "rows":
      for key in ids.tolist():
        store.write({"id": key, "value": value_of(key), "name": "ä"})
    else:
      store.write({"id": ids, "value": value_of(ids), "x_adv": np.ones((len(ids), 2))})


def found_in(*folders):
  """Ids and values, in order."""
  contents = list(pieces.find(folders).contents())
  ids = np.concatenate([np.ravel(each["id"]) for each in contents]).tolist()
  values = np.concatenate([np.ravel(each["value"]) for each in contents]).tolist()
  return list(zip(ids, values, strict=True))


WHOLE = [(key, value_of(key)) for key in IDS]


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_stopped_job_goes_on_with_what_is_missing(kind, tmp_path, capsys, at_once):
  fill(kind, tmp_path, stop=2)
  before = {path: path.read_bytes() for path in tmp_path.iterdir()}
  done = len(found_in(tmp_path))
  assert 0 < done < len(IDS)
  fill(kind, tmp_path, at_once=at_once)
  assert f"{done} of 10 images are there already" in capsys.readouterr().err
  assert found_in(tmp_path) == WHOLE
  assert all(path.read_bytes().startswith(content) for path, content in before.items())
  before = {path: path.read_bytes() for path in tmp_path.iterdir()}
  fill(kind, tmp_path)
  assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("num_shares", [2, 3, 7, 20])
def test_shares_make_the_whole(kind, tmp_path, num_shares):
  places = [tmp_path / str(i) for i in range(num_shares)]
  for i, place in enumerate(places):
    fill(kind, place, (i, num_shares))
    assert not pieces.find([place]).is_complete("it")
  pieces.merge(places, tmp_path / "merged")
  assert found_in(tmp_path / "merged") == WHOLE
  pieces.merge(places, tmp_path / "merged")
  assert found_in(tmp_path / "merged") == WHOLE
  # One folder for all shares does as well, and whatever is there counts for every share.
  for i in (1, 0):
    fill(kind, tmp_path / "one", (i, 2), stop=1)
  fill(kind, tmp_path / "one", (0, 1))
  assert found_in(tmp_path / "one") == WHOLE


def test_a_share_without_a_piece_is_no_mistake(kind, tmp_path, capsys):
  store = KINDS[kind](tmp_path / "results" / "it", IDENTITY, IDS, share=(19, 20), size=SIZE[kind])
  assert not list(store.missing()) and not pieces.wait([store])
  assert "this share has no piece" in capsys.readouterr().err
  fill(kind, store.folder, stop=2)  # of another share: its results are written
  assert pieces.wait([store])


def test_gaps_and_overlaps_are_refused(kind, tmp_path):
  places = [tmp_path / str(i) for i in range(3)]
  for i, place in enumerate(places):
    fill(kind, place, (i, 3))
  missing = len(IDS) - len(found_in(*places[:2]))
  with pytest.raises(WorkdirError, match=f"gap: {missing} of the 10 ids of merged .* first "):
    pieces.merge(places[:2], tmp_path / "merged")
  shutil.copytree(places[0], tmp_path / "twin")
  with pytest.raises(WorkdirError, match=r"overlap: .*/twin/.* is a copy of .*/0/.*: delete it"):
    pieces.merge([*places, tmp_path / "twin"], tmp_path / "merged")
  fill(kind, tmp_path / "again")
  with pytest.raises(WorkdirError, match=r"overlap: id 4 is in .*: delete one of them|a copy of"):
    pieces.merge([*places, tmp_path / "again"], tmp_path / "merged")
  assert not (tmp_path / "merged").exists()


def test_a_copy_in_the_folder_is_named(kind, tmp_path):
  fill(kind, tmp_path)
  original = min(path for path in tmp_path.iterdir() if path.name != pieces.IDENTITY)
  copy = original.with_name(original.stem + " (1)" + original.suffix)
  shutil.copyfile(original, copy)
  with pytest.raises(WorkdirError, match="copy.*delete it") as caught:
    fill(kind, tmp_path)
  assert str(copy) in str(caught.value)
  copy.unlink()
  fill(kind, tmp_path)


def test_an_id_of_no_work_is_named(kind, tmp_path):
  store = KINDS[kind](tmp_path, IDENTITY, range(99))
  store.write({"id": 5 if kind == "rows" else np.array([5]), "value": 0.0})
  with pytest.raises(WorkdirError, match=r"holds id 5, which is none of range\(4, 24, 2\)"):
    fill(kind, tmp_path)


@pytest.mark.parametrize("share", [(0, 1), (0, 2)])
def test_pieces_of_another_job_are_refused(kind, tmp_path, share):
  fill(kind, tmp_path, stop=1)
  before = {path: path.read_bytes() for path in tmp_path.iterdir()}
  with pytest.raises(WorkdirError, match=r"another job than this one:\n  sigma: 0.5 there, 1.0 h"):
    fill(kind, tmp_path, share, identity={**IDENTITY, "sigma": 1.0})
  assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
  fill(kind, tmp_path / "other", identity={**IDENTITY, "sigma": 1.0})
  with pytest.raises(WorkdirError, match=r"belongs to another job than .* does:\n  sigma: "):
    pieces.merge([tmp_path, tmp_path / "other"], tmp_path / "merged")


def test_the_same_number_written_otherwise_is_the_same_identity(kind, tmp_path):
  fill(kind, tmp_path, stop=1, identity={"radius": 1})
  fill(kind, tmp_path, identity={"radius": 1.0})
  assert found_in(tmp_path) == WHOLE


def test_an_array_file_of_another_folder_is_refused(tmp_path):
  fill("arrays", tmp_path / "a", stop=1)
  fill("arrays", tmp_path / "b", identity={"sigma": 1.0})
  shutil.copyfile(tmp_path / "b" / "chunk_0000010.npz", tmp_path / "a" / "chunk_0000010.npz")
  with pytest.raises(WorkdirError, match=r"a/chunk_0000010.npz is .*to another job.*: delete it"):
    fill("arrays", tmp_path / "a")


def test_a_renamed_array_file_overwrites_nothing(tmp_path):
  fill("arrays", tmp_path)
  (tmp_path / "chunk_0000004.npz").unlink()
  (tmp_path / "chunk_0000010.npz").rename(tmp_path / "chunk_0000004.npz")
  with pytest.raises(WorkdirError, match="holds ids 10 to 14, which belong into chunk_0000010.npz"):
    fill("arrays", tmp_path)


@pytest.mark.parametrize("end", [0, 10, 300, -1])
def test_a_cut_array_file_is_named(tmp_path, end):
  fill("arrays", tmp_path)
  path = tmp_path / "chunk_0000010.npz"
  path.write_bytes(path.read_bytes()[:end])
  with pytest.raises(WorkdirError, match=r"chunk_0000010.npz is damaged \(.*delete it and run"):
    fill("arrays", tmp_path)
  path.unlink()
  fill("arrays", tmp_path)
  assert found_in(tmp_path) == WHOLE


def test_a_changed_array_is_found_where_it_is_read(tmp_path):
  fill("arrays", tmp_path)
  path = tmp_path / "chunk_0000010.npz"
  with np.load(path) as file:
    arrays = {name: file[name] for name in file.files}
  arrays["x_adv"][0, 0] = 2.0
  np.savez(path, **arrays)
  work = pieces.find([tmp_path])
  assert len(list(work.contents(without=["x_adv"]))) == 4
  with pytest.raises(WorkdirError, match="damaged .x_adv is not what its sha256 says"):
    list(work.contents())
  with pytest.raises(WorkdirError, match="x_adv is not what its sha256 says"):
    pieces.merge([tmp_path], tmp_path / "merged")


def test_a_changed_row_is_found(tmp_path):
  fill("rows", tmp_path)
  path = tmp_path / "piece-0-of-1.jsonl"
  content = path.read_text()
  for old, new in (('"id": 10, "value": 14.2', '"id": 10, "value": 15.2'), ("0.5", "0.4")):
    path.write_text(content.replace(old, new, 1))
    with pytest.raises(WorkdirError, match=r"line \d: .*the row is not what its sha256 says"):
      pieces.find([tmp_path])


def as_written_before(kind, folder, header):
  """Makes a folder what an earlier version left: no digests, no ids, another identity."""
  if kind == "rows":
    path = folder / "piece-0-of-1.jsonl"
    first, *rows = map(json.loads, path.read_text().splitlines())
    del first["ids"]
    rows = [{key: value for key, value in row.items() if key != "sha256"} for row in rows]
    path.write_text(
      "".join(json.dumps(row) + "\n" for row in [{**first, "identity": header}, *rows])
    )
    return
  (folder / "identity.json").write_text(json.dumps(header))
  for path in folder.glob("*.npz"):
    with np.load(path) as file:
      arrays = {name: file[name] for name in file.files if name != "digests"}
    np.savez_compressed(path, **arrays)


def test_what_earlier_versions_wrote_is_read_and_said(kind, tmp_path, capsys):
  header = {"start": 3, "skip": 2, "num_images": 10}
  if kind == "arrays":
    header = {"chunk_size": 3, "num_examples": 99}  # all images of a split
  fill(kind, tmp_path, stop=2, identity=header)
  as_written_before(kind, tmp_path, header)
  before = found_in(tmp_path)
  assert pieces.find([tmp_path]).ids == (IDS if kind == "rows" else range(99))
  fill(kind, tmp_path, identity=header)
  assert re.search(r"\d pieces of an earlier version have no digest", capsys.readouterr().err)
  assert found_in(tmp_path) == WHOLE and before == WHOLE[: len(before)]


def test_what_does_not_say_its_ids_is_refused(kind, tmp_path):
  fill(kind, tmp_path)
  as_written_before(kind, tmp_path, {"sigma": 0.5})
  with pytest.raises(WorkdirError, match="does not say what it belongs to .*: move it away"):
    pieces.find([tmp_path])


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null"])
def test_a_damaged_identity_is_named(tmp_path, content):
  fill("arrays", tmp_path)
  (tmp_path / "identity.json").write_text(content)
  with pytest.raises(WorkdirError, match="identity.json "):
    fill("arrays", tmp_path)


def test_a_full_disk_loses_nothing_that_was_written(kind, tmp_path):
  """A quota on files stands for the full disk: a write of five more bytes, and then none."""
  fill(kind, tmp_path, stop=2)
  before = {path: path.read_bytes() for path in tmp_path.iterdir()}
  room = next(tmp_path.glob("piece-*")).stat().st_size + 5 if kind == "rows" else 100
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    with pytest.raises(OSError, match="File too large"):
      fill(kind, tmp_path)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)
  assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
  fill(kind, tmp_path)
  assert found_in(tmp_path) == WHOLE


def test_no_piece_at_all_is_a_mistake(tmp_path):
  with pytest.raises(WorkdirError, match="there is no piece of any job"):
    pieces.find([tmp_path, tmp_path / "nowhere"])


@pytest.mark.parametrize("text", ["", "3", "1/1", "-1/2", "0/0", "a/b", "0/1/2"])
def test_a_share_that_is_none_is_a_mistake(text):
  with pytest.raises(ConfigError, match=re.escape(f"x.shard={text!r}: expected I/N")):
    pieces.share_of("x.shard", text)


def test_the_digest_of_an_array_tells_dtype_and_shape(tmp_path):
  work = identity_lib.digest(IDENTITY)
  array_file.write(tmp_path / "a.npz", {"x": np.zeros(4, np.float32)}, work=work)
  with np.load(tmp_path / "a.npz") as file:
    arrays = {name: file[name] for name in file.files}
  for other in (np.zeros(4, np.int32), np.zeros((2, 2), np.float32)):
    np.savez(tmp_path / "a.npz", **{**arrays, "x": other})
    with pytest.raises(WorkdirError, match="x is not what its sha256 says"):
      array_file.read(tmp_path / "a.npz", work=work)


def test_the_line_of_progress():
  lines, now = [], [0.0]
  line = progress.ProgressLine(
    "eps 0.03", 100, done=20, unit="chunks", report=lines.append, clock=lambda: now[0]
  )
  assert lines.pop() == "eps 0.03: 20 of 100 chunks are there already"
  for _ in range(8):
    now[0] += 3
    line.add(5, lambda: "robust 50%")
  assert lines == [
    "eps 0.03: 40/100  1.67 chunks/s  eta 0:00:36  robust 50%",
    "eps 0.03: 60/100  1.67 chunks/s  eta 0:00:24  robust 50%",
  ]
  line.add(40)
  assert lines[2] == "eps 0.03: 100/100  3.33 chunks/s  eta 0:00:00"
