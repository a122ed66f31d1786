"""Shards appear complete or not at all, and other content is kept."""

import errno
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from shard_samples import IMAGES, LABELS, META, NUM, SOURCE

from jax_robust.data.shard_writer import write_shards
from jax_robust.data.shards import open_shards
from jax_robust.data.sources import array_source
from jax_robust.errors import DataFileError


@pytest.fixture
def folder(tmp_path):
  write_shards(tmp_path / "set", SOURCE, num_shards=4, **META)
  return tmp_path / "set"


def test_keeps_other_content(folder, tmp_path):
  before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
  write_shards(folder, SOURCE, num_shards=4, **META)  # the same shards: left as they are
  for key, changes in (
    ("seed", {"seed": 8}),
    ("generator", {"generator": "ddpm"}),
    ("counts", {"num_shards": 3}),
  ):
    with pytest.raises(DataFileError, match=f"already and holds shards of {key}="):
      write_shards(folder, SOURCE, **{"num_shards": 4, **META, **changes})
  other = array_source(255 - IMAGES, LABELS, num_classes=5)
  with pytest.raises(DataFileError, match=r"holds other samples.*left as it is"):
    write_shards(folder, other, num_shards=4, **META)
  assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
  assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_does_not_touch_other_peoples_folders(tmp_path):
  (tmp_path / "home").mkdir()
  (tmp_path / "home" / "thesis.tex").write_text("…")
  (tmp_path / "file").write_text("…")
  for name in ("home", "file"):
    with pytest.raises(DataFileError, match="already and holds other content"):
      write_shards(tmp_path / name, SOURCE, **META)
  (tmp_path / "empty").mkdir()
  assert write_shards(tmp_path / "empty", SOURCE, **META).num_examples == NUM


@pytest.mark.parametrize("operation", ["pwrite", "posix_fallocate", "fsync"])
def test_full_disk_is_named_and_the_partial_folder_removed(tmp_path, monkeypatch, operation):
  def full(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, operation, full)
  with pytest.raises(OSError, match=r"disk full while writing shards.*Free space.*set"):
    write_shards(tmp_path / "set", SOURCE, **META)
  assert not list(tmp_path.iterdir())


def test_more_than_the_disk_can_hold_is_refused_at_once(tmp_path):
  sizes = dict(num_examples=10**9, num_classes=5, num_shards=4)
  huge = ((np.zeros((1, 4096, 4096, 3), np.uint8), [0]) for _ in range(1))
  before = time.monotonic()
  with pytest.raises(OSError, match=r"disk full.*take 50,\d{3},\d{3},\d{3},\d{3},\d{3} bytes"):
    write_shards(tmp_path / "set", huge, **sizes, **META)
  assert time.monotonic() - before < 20 and not list(tmp_path.iterdir())


def test_unsupported_fallocate_is_passed_over(tmp_path, monkeypatch):
  def unsupported(*args):
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

  monkeypatch.setattr(os, "posix_fallocate", unsupported)
  write_shards(tmp_path / "set", SOURCE, **META)
  assert open_shards(tmp_path / "set", verify="sha256").num_examples == SOURCE.num_examples


def test_interrupted_writing_leaves_nothing(tmp_path):
  def stop(done, total):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    write_shards(tmp_path / "set", SOURCE, progress_fn=stop, **META)
  assert not list(tmp_path.iterdir())


def test_atomic_under_kill(tmp_path):
  """A process killed at a random moment of writing leaves no folder, or a complete one."""
  code = textwrap.dedent("""
    import itertools, sys
    import numpy as np
    from jax_robust.data import shard_writer, sources
    images = np.zeros((3000, 8, 8, 3), np.uint8)
    source = sources.array_source(images, np.arange(3000) % 10, num_classes=10)
    for i in itertools.count():
      print(i, flush=True)
      shard_writer.write_shards(
        f"{sys.argv[1]}/{i}", source, num_shards=8, generator="", licence="", seed=i)
  """)
  process = subprocess.Popen(
    [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
  )
  for _ in range(3):
    process.stdout.readline()
  time.sleep(random.random() / 5)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  written = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
  assert written
  for path in written:
    assert open_shards(path, verify="sha256").num_examples == 3000


def test_permissions_follow_the_umask(folder):
  umask = os.umask(0)
  os.umask(umask)
  assert folder.stat().st_mode & 0o777 == 0o777 & ~umask
