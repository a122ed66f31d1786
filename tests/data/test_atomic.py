"""A file that is written in one piece: the old content or the new one, and no temporary left."""

import os
import threading

import pytest

from jax_robust.atomic import open_no_link, read_bytes, write_atomically

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("content", [b"abc", "abc", lambda stream: stream.write(b"abc")])
def test_writes_bytes_text_or_what_a_function_writes(tmp_path, content):
  path = tmp_path / "new" / "folder" / "file"
  for _ in range(2):
    write_atomically(path, content)
    assert path.read_bytes() == b"abc"
  assert list(path.parent.iterdir()) == [path]


def fail(*args):
  raise OSError("no more")


@pytest.mark.parametrize("failing", ["content", "fsync", "replace"])
def test_old_or_new_and_cleans_up(tmp_path, monkeypatch, failing):
  path = tmp_path / "file"
  write_atomically(path, b"old")
  if failing == "fsync":
    monkeypatch.setattr(os, "fsync", fail)
  if failing == "replace":
    monkeypatch.setattr(type(path), "replace", fail)
  with pytest.raises(OSError, match="no more"):
    write_atomically(path, fail if failing == "content" else b"new")
  assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
  path, events, sync = tmp_path / "file", [], os.fsync
  monkeypatch.setattr(os, "fsync", lambda fd: (events.append(path.exists()), sync(fd)))
  write_atomically(path, b"new")
  assert events == [False, True]  # the file's, then its folder's


def test_only_files_are_read(tmp_path):
  """A pipe that nobody writes to would be waited for."""
  (tmp_path / "file").write_bytes(b"content")
  assert read_bytes(tmp_path / "file") == b"content"
  os.mkfifo(tmp_path / "pipe")
  for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
    with pytest.raises(OSError, match="is no file"):
      read_bytes(path)


@pytest.mark.parametrize("flags", [os.O_WRONLY | os.O_APPEND | os.O_CREAT, os.O_RDWR, os.O_RDONLY])
def test_only_files_are_opened_for_writing(tmp_path, flags):
  """A pipe that nobody reads would be waited for, a device takes whatever it is given."""
  os.mkfifo(tmp_path / "pipe")
  for path in (tmp_path / "pipe", tmp_path, "/dev/null"):
    with pytest.raises(OSError, match="is no file"):
      open_no_link(path, flags)
  (tmp_path / "file").touch()
  os.close(open_no_link(tmp_path / "file", flags))


def test_writers_at_once_leave_the_content_of_one_of_them(tmp_path):
  contents = [bytes([i]) * 100_000 for i in range(8)]
  threads = [
    threading.Thread(target=write_atomically, args=(tmp_path / "file", content))
    for content in contents
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert (tmp_path / "file").read_bytes() in contents and len(list(tmp_path.iterdir())) == 1
