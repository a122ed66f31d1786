"""A set of 10 GB: written as shards, streamed through in constant memory, and fast enough.

  pytest -m bench -n 0 -s tests/bench/test_bench_large_set.py

The images are made while they are written and deleted afterwards, in the folder for temporary
files. They are read from the disk: what the system holds of them is dropped first. The step is
TRADES with ten steps of attack on a PreActResNet-18 of a quarter of its width, a small net, which
eats many images. JAX_ROBUST_BENCH='gigabytes=1' makes a smaller set.
"""

import os
import shutil
import statistics
import sys
import time

import numpy as np
import pytest
from settings import sizes
from sides import PLATFORM, measure
from test_bench_fast_training import processor

from jax_robust import data
from jax_robust.data.shard_writer import write_shards
from jax_robust.data.shards import open_shards
from jax_robust.data.sources import Stream

pytestmark = pytest.mark.bench

BATCH, SHAPE = 1024, (32, 32, 3)
STEP = {"batch": 128, "width": 16, "num_steps": 10}
LEAST_RATIO, MOST_GROWTH = 1.5, 100 << 20


def noise(num_batches):
  """Images of which no two batches are alike, made as they are asked for."""
  block = np.random.default_rng(0).integers(0, 256, (BATCH, *SHAPE), np.uint8)
  labels = np.arange(BATCH) % 10

  def batches():
    for number in range(num_batches):
      yield block + np.uint8(number % 256), labels

  return Stream("noise", num_batches * BATCH, SHAPE, 10, batches)


def resident_bytes():
  """Memory of this process that is in RAM, mapped files included."""
  with open("/proc/self/statm") as stream:
    return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def forget(folder):
  """Makes the system drop what it holds of the files, so that the disk is read."""
  for path in folder.iterdir():
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def appetite():
  """Images that a training step uses up in a second."""
  flags = [f"--{name}={value}" for name, value in STEP.items()]
  command = {"jax": (sys.executable, "jax_trades.py", *flags)}
  _, steps = measure(command, rounds=5, cores=os.cpu_count())
  return STEP["batch"] / statistics.median(step["seconds"] for step in steps["jax"])


def written(folder, num_batches, show):
  """Writes the shards; says how fast, and by how much memory grew after the first batches."""
  seen, began = [], time.perf_counter()
  write_shards(
    folder, noise(num_batches), generator="noise", licence="CC0", seed=0,
    progress_fn=lambda done, total: seen.append(resident_bytes()),
  )  # fmt: skip
  seconds = time.perf_counter() - began
  show(f"written in {seconds:.0f} s, {num_batches * BATCH / seconds:,.0f} images/s")
  places = 8 * num_batches * BATCH  # each sample's place and label
  show(f"memory of the writer grew by {(max(seen) - seen[0]) / 2**20:.0f} MiB")
  assert max(seen) - seen[0] < places + MOST_GROWTH


def streamed(folder, num_batches, show):
  """Reads each image once, as a training without original images does; returns images a second."""
  forget(folder)
  began = time.perf_counter()
  shards = open_shards(folder)
  show(f"opened in {time.perf_counter() - began:.2f} s, its labels read and compared")
  batches = data.make_train_batches(None, shards, batch_size=BATCH, original_share=0.0)
  seen, total = [], 0
  began = time.perf_counter()
  for batch in batches(0, num_batches):
    total += len(batch["label"])
    seen.append(resident_bytes())
  seconds, warm = time.perf_counter() - began, len(seen) // 10
  assert total == num_batches * BATCH
  show(f"streamed in {seconds:.0f} s, {total / seconds:,.0f} images/s")
  show(
    f"memory {max(seen[:warm]) / 2**20:.0f} MiB in the first tenth, {max(seen) / 2**20:.0f} in all"
  )
  assert max(seen) - max(seen[:warm]) < MOST_GROWTH
  return total / seconds


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="needs Linux")
def test_a_set_of_ten_gigabytes(tmp_path, capsys):
  gigabytes = sizes(gigabytes=10)["gigabytes"]
  num_batches = -(-gigabytes * 10**9 // (BATCH * int(np.prod(SHAPE))))
  if shutil.disk_usage(tmp_path).free < 1.5e9 * gigabytes:
    pytest.skip(f"{tmp_path} has no room for {gigabytes} GB: set TMPDIR")

  def show(line):
    with capsys.disabled():
      print(f"\n{line}", end="", flush=True)

  show(f"{num_batches * BATCH:,} images, {PLATFORM}, {processor()}, load {os.getloadavg()}")
  eaten = appetite()
  show(f"the step eats {eaten:,.0f} images/s")
  try:
    written(tmp_path / "set", num_batches, show)
    rate = streamed(tmp_path / "set", num_batches, show)
  finally:
    shutil.rmtree(tmp_path / "set", ignore_errors=True)
  show(f"the stream is {rate / eaten:.1f} times as fast as the step\n")
  assert rate >= LEAST_RATIO * eaten
