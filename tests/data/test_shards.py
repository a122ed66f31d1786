"""Our shards: written shuffled and whole, read back in constant memory, refused if damaged."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from jax_robust.data import convert, manifest, shards, sources
from jax_robust.data.shard_writer import shard_counts, write_shards
from jax_robust.data.shards import open_shards
from jax_robust.data.sources import DataFileError, array_source

NUM = 500
IMAGES = np.random.default_rng(0).integers(0, 256, (NUM, 4, 3, 3)).astype(np.uint8)
IMAGES[:, 0, 0, 0], IMAGES[:, 0, 0, 1] = (
  np.arange(NUM) % 256,
  np.arange(NUM) // 256,
)  # the sample's number
LABELS = np.sort(np.random.default_rng(1).integers(0, 5, NUM))
SOURCE = array_source(IMAGES, LABELS, num_classes=5, name="made")
META = {"generator": "noise", "licence": "CC0", "seed": 7}


def numbers(images):
  """The number that each image bears."""
  return images[:, 0, 0, 0].astype(int) + 256 * images[:, 0, 0, 1].astype(int)


@pytest.fixture
def folder(tmp_path):
  write_shards(tmp_path / "set", SOURCE, num_shards=4, **META)
  return tmp_path / "set"


def test_shards_hold_every_sample_once_with_its_label(folder):
  opened = open_shards(folder, verify="sha256")
  assert (opened.num_examples, opened.image_shape, opened.num_classes) == (NUM, (4, 3, 3), 5)
  assert opened.counts == (125,) * 4 and opened.manifest.label_histogram == tuple(
    np.bincount(LABELS)
  )
  images, labels = opened.read(np.arange(NUM))
  order = numbers(images)
  assert sorted(order) == list(range(NUM))
  np.testing.assert_array_equal(images, IMAGES[order])
  np.testing.assert_array_equal(labels, LABELS[order])


def test_read_is_random_access(folder):
  opened = open_shards(folder)
  everything = opened.read(np.arange(NUM))
  indices = np.random.default_rng(3).integers(0, NUM, 200)
  for got, expected in zip(opened.read(indices), everything, strict=True):
    np.testing.assert_array_equal(got, expected[indices])
  start = sum(opened.counts[:2])
  for got, expected in zip(opened.read_shard(2, np.array([9, 0, 9])), everything, strict=True):
    np.testing.assert_array_equal(got, expected[[start + 9, start, start + 9]])
  assert opened.read(np.array([], np.int64))[0].shape == (0, 4, 3, 3)
  for bad in ([NUM], [-1]):
    with pytest.raises(IndexError):
      opened.read(np.array(bad))
  with pytest.raises(IndexError, match=r"\[0, 125\)"):
    opened.read_shard(0, np.array([125]))


def test_files_are_plain_npy(folder):
  loaded = np.load(folder / "shard-00001-of-00004.images.npy", mmap_mode="r", allow_pickle=False)
  assert loaded.shape == (125, 4, 3, 3) and loaded.dtype == np.uint8
  assert np.load(folder / "shard-00001-of-00004.labels.npy", allow_pickle=False).dtype == np.int32
  written = json.loads((folder / "manifest.json").read_text())
  assert written["generator"] == "noise" and written["licence"] == "CC0" and written["seed"] == 7
  assert len(list(folder.iterdir())) == 9


def test_shuffled(folder):
  images, labels = open_shards(folder).read(np.arange(NUM))
  # The input is sorted by class; a shard holds a fifth of each, and neighbours are unrelated.
  for shard_labels in labels.reshape(4, 125):
    assert np.bincount(shard_labels, minlength=5).min() > 10
  assert abs(np.corrcoef(numbers(images), np.arange(NUM))[0, 1]) < 0.15


def test_shuffle_is_uniform(tmp_path):
  """Over many seeds, each of 3 samples comes to each of 3 places as often as to the others."""
  source, hits = array_source(IMAGES[:3], LABELS[:3], num_classes=5), np.zeros((3, 3))
  for seed in range(90):
    opened = write_shards(tmp_path / str(seed), source, generator="", licence="", seed=seed)
    hits[np.arange(3), numbers(opened.read(np.arange(3))[0])] += 1
  chi_squared = ((hits - 30) ** 2 / 30).sum()
  assert chi_squared < 23.5  # 4 degrees of freedom, p = 1e-4


def test_deterministic(folder, tmp_path):
  write_shards(
    tmp_path / "again", SOURCE.chunks(33), num_examples=NUM, num_classes=5, num_shards=4, **META
  )
  for file in folder.iterdir():
    assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
  write_shards(tmp_path / "other", SOURCE, num_shards=4, **META | {"seed": 8})
  images = open_shards(tmp_path / "other").read(np.arange(NUM))[0]
  assert (numbers(images) != numbers(open_shards(folder).read(np.arange(NUM))[0])).mean() > 0.9


def test_shard_counts():
  assert shard_counts(500) == (500,) and shard_counts(100_000) == (50_000, 50_000)
  assert shard_counts(11, num_shards=3) == (3, 4, 4) and shard_counts(11, shard_size=4) == (3, 4, 4)
  for kwargs in ({"num_shards": 12}, {"num_shards": 0}, {"shard_size": 0}):
    with pytest.raises(ValueError, match="expected"):
      shard_counts(11, **kwargs)
  with pytest.raises(ValueError, match="one of the two"):
    shard_counts(11, num_shards=2, shard_size=4)


@pytest.mark.parametrize(
  ("chunks", "message"),
  [
    ([(IMAGES, LABELS)], "more than num_examples=499"),
    ([(IMAGES[:9], LABELS[:9])], "there are 9 samples, num_examples=499"),
    ([], "there are 0 samples"),
    ([(IMAGES[:9].astype(np.int32), LABELS[:9])], "dtype is int32"),
    ([(IMAGES[:9], LABELS[:9]), (IMAGES[:9, :2], LABELS[:9])], r"\[2, 3, 3\] follow images of \[4"),
    ([(IMAGES[:9], LABELS[:9]), (IMAGES[:9], np.full(9, 5))], "label of sample 9 is 5"),
    ([(IMAGES[:9], LABELS[:8])], "9 images but 8 labels"),
  ],
)
def test_bad_samples_leave_nothing_behind(tmp_path, chunks, message):
  with pytest.raises(ValueError, match=message):
    write_shards(tmp_path / "set", chunks, num_examples=499, num_classes=5, **META)
  assert not list(tmp_path.iterdir())


def test_arguments_that_samples_do_not_tell(tmp_path):
  with pytest.raises(ValueError, match="num_examples=None"):
    write_shards(tmp_path / "set", SOURCE.chunks(), num_classes=5, **META)
  with pytest.raises(ValueError, match="num_classes=None"):
    write_shards(tmp_path / "set", SOURCE.chunks(), num_examples=NUM, **META)
  with pytest.raises(ValueError, match="seed=-1"):
    write_shards(tmp_path / "set", SOURCE, **META | {"seed": -1})


# What is there is kept.


def test_keeps_other_content(folder, tmp_path):
  before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
  write_shards(folder, SOURCE, num_shards=4, **META)  # the same shards: left as they are
  for changes in ({"seed": 8}, {"generator": "ddpm"}, {"num_shards": 3}):
    with pytest.raises(
      DataFileError, match=rf"already and holds shards.*{'|'.join(changes)}|counts"
    ):
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
  open_shards(tmp_path / "set", verify="sha256")


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


# What is damaged is refused.


def _images(folder):
  return folder / "shard-00002-of-00004.images.npy"


def _labels(folder):
  return folder / "shard-00002-of-00004.labels.npy"


def _edit_manifest(folder, change_fn):
  data = json.loads((folder / "manifest.json").read_text())
  change_fn(data)
  (folder / "manifest.json").write_text(json.dumps(data))


def _flip(path, place):
  content = bytearray(path.read_bytes())
  content[place] ^= 1
  path.write_bytes(content)


def _truncate(path):
  with open(path, "r+b") as stream:
    stream.truncate(path.stat().st_size - 1)


def _save(path, change_fn):
  np.save(path, change_fn(np.load(path)), allow_pickle=True)


def _objects(array):
  return array.astype(object)


DAMAGE = {
  "missing": (lambda f: _images(f).unlink(), "cannot be opened"),
  "empty": (lambda f: _images(f).write_bytes(b""), "not a .npy array"),
  "truncated": (lambda f: _truncate(_images(f)), "is truncated"),
  "truncated labels": (lambda f: _truncate(_labels(f)), "is truncated"),
  "too long": (lambda f: _images(f).open("ab").write(b"x"), "is too long"),
  "text": (lambda f: _images(f).write_text("<html>"), "not a .npy array"),
  "dtype": (lambda f: _save(_images(f), np.float32), "holds float32"),
  "label dtype": (lambda f: _save(_labels(f), np.int64), r"holds int64 \[125\].*int32 \[125\]"),
  "shape": (lambda f: _save(_images(f), lambda x: x[:, :2]), r"\[125, 2, 3, 3\]"),
  "fewer": (lambda f: _save(_images(f), lambda x: x[1:]), r"\[124, 4, 3, 3\]"),
  "fortran": (lambda f: _save(_images(f), np.asfortranarray), "Fortran"),
  "pickled": (lambda f: _save(_images(f), _objects), "pickled Python objects.*ever unpickled"),
  "label range": (
    lambda f: _save(_labels(f), lambda x: np.full_like(x, 5)),
    "label of sample 0 is 5",
  ),
  "histogram": (lambda f: _save(_labels(f), np.zeros_like), "its label_histogram is"),
  "no manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json: is missing"),
  "no json": (lambda f: (f / "manifest.json").write_text("{"), "cannot be read as JSON"),
  "list": (lambda f: (f / "manifest.json").write_text("[]"), "does not say 'format'"),
  "foreign": (lambda f: _edit_manifest(f, lambda d: d.update(format="x")), "does not say 'format'"),
  "newer": (lambda f: _edit_manifest(f, lambda d: d.update(version=2)), "of version 2.*Update"),
  "no key": (lambda f: _edit_manifest(f, lambda d: d.pop("seed")), r"contradicts .*\('seed'\)"),
  "sum": (lambda f: _edit_manifest(f, lambda d: d.update(num_examples=9)), "hold 500.*is 9"),
  "type": (lambda f: _edit_manifest(f, lambda d: d.update(num_classes="5")), "contradicts"),
  "none": (lambda f: _edit_manifest(f, lambda d: d.update(shards=[])), "is empty"),
  "path": (
    lambda f: _edit_manifest(f, lambda d: d["shards"][0].update(images="../../passwd")),
    "shard 0 is called",
  ),
  "extra": (lambda f: _edit_manifest(f, lambda d: d["shards"][0].update(code="x")), "contradicts"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_shards_are_refused_with_file_reason_remedy(folder, damage):
  damage_fn, message = DAMAGE[damage]
  damage_fn(folder)
  with pytest.raises(DataFileError, match=message) as caught:
    open_shards(folder)
  assert caught.value.path.startswith(str(folder)) and caught.value.remedy
  if (
    "manifest" not in damage
  ):  # a folder that lost its manifest is not taken for a folder of classes
    with pytest.raises(DataFileError, match=message):
      convert.open_source(folder)


def test_wrong_hash(folder):
  _flip(_images(folder), 200)
  open_shards(folder)
  with pytest.raises(DataFileError, match=r"shard-00002-of-00004.images.npy: its sha256 is"):
    open_shards(folder, verify="sha256")
  with pytest.raises(ValueError, match="verify='md5'"):
    open_shards(folder, verify="md5")


def test_labels_in_range(folder):
  """Even where nothing was verified, and when a file changes after it was opened."""
  opened = open_shards(folder, verify="none")
  _save(_labels(folder), lambda labels: np.full_like(labels, -1))
  opened.read(np.arange(250))
  for source in (opened, open_shards(folder, verify="none")):
    with pytest.raises(DataFileError, match=r"00002-of-00004.labels.npy: the label .* is -1"):
      source.read(np.arange(250, 260))


def test_file_that_shrinks_after_opening_is_an_error(folder):
  opened = open_shards(folder)
  with open(_images(folder), "r+b") as stream:
    stream.truncate(300)
  with pytest.raises(DataFileError, match="ends in the middle"):
    opened.read(np.arange(NUM))


# Conversion.


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_make_shards_of_npz(tmp_path, save):
  save(tmp_path / "edm.npz", image=IMAGES, label=LABELS)
  calls = []
  opened = convert.make_shards(
    tmp_path / "edm.npz",
    tmp_path / "a" / "set",
    shard_size=200,
    progress_fn=lambda *n: calls.append(n),
  )
  images, labels = opened.read(np.arange(NUM))
  np.testing.assert_array_equal(images, IMAGES[numbers(images)])
  np.testing.assert_array_equal(labels, LABELS[numbers(images)])
  assert opened.counts == (166, 167, 167) and calls[-1] == (NUM, NUM)
  assert opened.manifest.generator == "edm.npz" and opened.manifest.licence == "not stated"
  reopened = convert.open_source(tmp_path / "a" / "set", num_classes=5)
  assert isinstance(reopened, shards.ShardSet)
  with pytest.raises(DataFileError, match="is of 5 classes, expected num_classes=10"):
    convert.open_source(tmp_path / "a" / "set", num_classes=10)


def test_make_shards_of_a_source_and_of_shards(folder, tmp_path):
  first = convert.make_shards(SOURCE, tmp_path / "one", num_classes=6)
  second = convert.make_shards(folder, tmp_path / "two", num_shards=7)
  assert first.num_classes == 6 and first.manifest.label_histogram[5] == 0
  for opened in (first, second):
    assert sorted(numbers(opened.read(np.arange(NUM))[0])) == list(range(NUM))


def test_make_shards_of_a_corrupt_npz_leaves_nothing(tmp_path):
  path = tmp_path / "edm.npz"
  np.savez(path, image=IMAGES, label=LABELS)
  _flip(path, 9000)
  with pytest.raises(DataFileError, match="damaged"):
    convert.make_shards(path, tmp_path / "set")
  assert [p.name for p in tmp_path.iterdir()] == ["edm.npz"]


def test_make_shards_of_real_generated_images(shared, tmp_path):
  pack = sources.subset(convert.open_source(shared / "data" / "cifake_fake_test.npz"), 0, 1500)
  opened = convert.make_shards(pack, tmp_path / "set", num_shards=8, licence="see its README")
  assert opened.num_classes == 10 and min(opened.manifest.label_histogram) > 100
  images, labels = opened.read(np.arange(1500))
  originals = {image.tobytes(): i for i, image in enumerate(pack.read(np.arange(1500))[0])}
  order = [originals[image.tobytes()] for image in images]
  np.testing.assert_array_equal(labels, pack.read(np.array(order))[1])


# Memory.

MEASURE = """
import sys, numpy as np
from jax_robust.data import shard_writer, shards
num, folder = int(sys.argv[1]), sys.argv[2]

def anonymous():
  with open("/proc/self/smaps_rollup") as stream:
    return next(int(line.split()[1]) for line in stream if line.startswith("Anonymous:"))

def chunks():
  rng = np.random.default_rng(0)
  for start in range(0, num, 1000):
    yield rng.integers(0, 256, (1000, 32, 32, 3), np.uint8), np.arange(1000) % 10

written, read = [], []
shard_writer.write_shards(folder, chunks(), num_examples=num, num_classes=10, num_shards=4,
  generator="", licence="", seed=0, progress_fn=lambda *_: written.append(anonymous()))
opened, rng = shards.open_shards(folder, verify="sha256"), np.random.default_rng(1)
for _ in range(num // 500):
  opened.read(rng.integers(0, num, 500))
  read.append(anonymous())
print(max(written), max(read))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux's smaps")
def test_constant_memory(tmp_path):
  """Anonymous memory for 20 times as many samples (61 MB of images) stays the same."""
  peaks = []
  for num in (1_000, 20_000):
    command = [sys.executable, "-c", MEASURE, str(num), str(tmp_path / str(num))]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    peaks.append([int(number) * 1024 for number in run.stdout.split()])
  for task, small, large in zip(("write", "read"), *peaks, strict=True):
    assert large - small < 6e6, f"{task}: anonymous memory grew by {(large - small) / 1e6:.1f} MB"


def test_manifest_round_trip(folder):
  loaded = manifest.load(folder)
  assert manifest.dump(loaded) == (folder / "manifest.json").read_text()
  assert loaded.created_by.startswith("jax_robust")
