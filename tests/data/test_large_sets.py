"""A set of 50 million samples, whose files are holes on the disk, is opened at once."""

import time

import numpy as np
import pytest

from jax_robust.data import manifest as manifest_lib
from jax_robust.data import shards
from jax_robust.data.manifest import Manifest, Shard
from jax_robust.data.shard_writer import shard_counts
from jax_robust.data.sources import labels_of

NUM = 50_000_000


def hole(path, dtype, shape):
  """A .npy file of zeros that takes no room on the disk."""
  with path.open("wb") as stream:
    head = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, head)
    stream.truncate(stream.tell() + int(np.prod(shape)) * np.dtype(dtype).itemsize)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """763 shards of 65,536 images of 32 × 32, all of class 0: 154 GB of holes."""
  folder, sums, made = tmp_path_factory.mktemp("large"), {}, []
  counts = shard_counts(NUM)
  for number, count in enumerate(counts):
    images, labels = manifest_lib.file_names(number, len(counts))
    hole(folder / images, np.uint8, (count, 32, 32, 3))
    hole(folder / labels, np.int32, (count,))
    sums[count] = sums.get(count) or shards.sha256(folder / labels)
    made.append(Shard(count, images, "0" * 64, labels, sums[count]))
  histogram = (NUM, *[0] * 9)
  content = Manifest((32, 32, 3), 10, histogram, tuple(made), "holes", "CC0", 0, "a test")
  (folder / manifest_lib.NAME).write_text(manifest_lib.dump(content))
  return folder


def seconds_of(call):
  """Of the processor, which other processes that keep it busy do not change."""
  began = time.process_time()
  call()
  return time.process_time() - began


def test_a_manifest_of_50_million_samples_opens_in_under_a_second(folder):
  assert seconds_of(lambda: manifest_lib.load(folder)) < 1
  assert seconds_of(lambda: shards.open_shards(folder, verify="none")) < 1


def test_its_shards_are_read_anywhere(folder):
  opened = shards.open_shards(folder, verify="size")
  images, labels = opened.read(np.array([0, NUM // 2, NUM - 1]))
  assert opened.num_examples == NUM and images.shape == (3, 32, 32, 3) and not labels.any()
  with pytest.raises(IndexError, match=f"index {NUM} is outside"):
    opened.read(np.array([NUM]))


@pytest.mark.slow
def test_all_labels_are_compared(folder):
  """With the checksums of 200 MB of labels."""
  assert seconds_of(lambda: shards.open_shards(folder)) < 3
  assert len(labels_of(shards.open_shards(folder))) == NUM
