"""Our shards: written shuffled, read back by random access in constant memory."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from shard_samples import IMAGES, LABELS, META, NUM, SOURCE, numbers

from jax_robust.data import manifest
from jax_robust.data.shard_writer import shard_counts, write_shards
from jax_robust.data.shards import open_shards
from jax_robust.data.sources import array_source


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
    tmp_path / "again", SOURCE.batches(33), num_examples=NUM, num_classes=5, num_shards=4, **META
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
  ("batches", "message"),
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
def test_bad_samples_leave_nothing_behind(tmp_path, batches, message):
  with pytest.raises(ValueError, match=message):
    write_shards(tmp_path / "set", batches, num_examples=499, num_classes=5, **META)
  assert not list(tmp_path.iterdir())


def test_arguments_that_samples_do_not_tell(tmp_path):
  with pytest.raises(ValueError, match="num_examples=None"):
    write_shards(tmp_path / "set", SOURCE.batches(), num_classes=5, **META)
  with pytest.raises(ValueError, match="num_classes=None"):
    write_shards(tmp_path / "set", SOURCE.batches(), num_examples=NUM, **META)
  with pytest.raises(ValueError, match="seed=-1"):
    write_shards(tmp_path / "set", SOURCE, **META | {"seed": -1})


# Memory.

MEASURE = """
import sys, numpy as np
from jax_robust.data import shard_writer, shards
def anonymous():
  with open("/proc/self/smaps_rollup") as stream:
    return next(int(line.split()[1]) for line in stream if line.startswith("Anonymous:"))

def batches(num):
  rng = np.random.default_rng(0)
  for start in range(0, num, 250):
    yield rng.integers(0, 256, (250, 64, 64, 3), np.uint8), np.arange(250) % 10

for run, num in enumerate((250, 250, 5_000)):  # the first run also pays for the imports
  written, read = [], []
  folder = f"{sys.argv[1]}/{run}"
  shard_writer.write_shards(folder, batches(num), num_examples=num, num_classes=10, num_shards=4,
    generator="", licence="", seed=0, progress_fn=lambda *_: written.append(anonymous()))
  opened, rng = shards.open_shards(folder, verify="sha256"), np.random.default_rng(1)
  for _ in range(num // 125):
    opened.read(rng.integers(0, num, 125))
    read.append(anonymous())
  print(max(written), max(read))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux's smaps")
def test_constant_memory(tmp_path):
  """Anonymous memory for 20 times as many samples (61 MB of images) stays the same."""
  command = [sys.executable, "-c", MEASURE, str(tmp_path)]
  # What is freed goes back to the system at once: the allocator's own caches, some 10 MB of them
  # however large the set is, come and go.
  own = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
  env = {**os.environ, **own}
  run = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
  peaks = [[int(number) * 1024 for number in line.split()] for line in run.stdout.splitlines()]
  for task, small, large in zip(("write", "read"), *peaks[1:], strict=True):
    assert large - small < 2e6, f"{task}: anonymous memory grew by {(large - small) / 1e6:.1f} MB"


def test_manifest_round_trip(folder):
  loaded = manifest.load(folder)
  assert manifest.dump(loaded) == (folder / "manifest.json").read_text()
  assert loaded.created_by.startswith("jax_robust")
