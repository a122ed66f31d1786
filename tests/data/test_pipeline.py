"""Training batches by tf.data, from sources whose images spell out their own number."""

import itertools
import os
import pathlib
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from coded_source import Coded, assert_equal, coded, decode, encode
from hypothesis import given
from hypothesis import strategies as st
from rows import mostly_slow, mostly_thorough

from jax_robust import data
from jax_robust.data import mixture, pipeline
from jax_robust.data.shard_order import ShardOrder

LAW = {"batch_size": 16, "original_share": 0.3, "emulated_workers": 2, "seed": 7}  # 4 + 12 rows
FIRST_GENERATED = 100_000


class CodedShards(NamedTuple):
  """Such a source in shards."""

  num_examples: int
  counts: tuple
  read: object
  read_shard: object
  image_shape: tuple = (2, 2, 1)
  num_classes: int = 7


def coded_shards(counts, first=FIRST_GENERATED, seen=None):
  starts = np.cumsum([0, *counts])

  def read_shard(shard, offsets):
    assert offsets.min() >= 0 and offsets.max() < counts[shard]
    ids = starts[shard] + offsets
    if seen is not None:
      seen.update(ids.tolist())
    return encode(ids + first)

  whole = coded(int(starts[-1]), first)
  return CodedShards(whole.num_examples, tuple(counts), whole.read, read_shard)


UNEVEN = (5, 9, 1, 7, 12, 2, 8, 3)  # 47 samples: passes end inside batches, after 3.9 steps
GENERATED = {
  "uneven": coded_shards(UNEVEN),
  "even": coded_shards((6,) * 6),
  "one_shard": coded_shards((29,)),
  "source": coded(31, FIRST_GENERATED),
}


def take(iterator, count):
  batches = list(itertools.islice(iterator, count))
  iterator.close()
  return batches


def test_layout():
  (batch,) = take(pipeline.train_batches(coded(50), GENERATED["even"], **LAW), 1)
  mix = mixture.composition(16, original_share=0.3, emulated_workers=2)
  assert mix == (4, 12, 2)
  ids = decode(batch)
  np.testing.assert_array_equal(batch["generated"], ~mixture.original_rows(mix))
  np.testing.assert_array_equal(batch["generated"], ids >= FIRST_GENERATED)
  np.testing.assert_array_equal(batch["row"], np.arange(16, dtype=np.int32))
  assert {name: (array.dtype.name, array.shape) for name, array in batch.items()} == {
    "image": ("uint8", (16, 2, 2, 1)),
    "label": ("int32", (16,)),
    "generated": ("bool", (16,)),
    "row": ("int32", (16,)),
  }
  originals = ids[~batch["generated"]]
  np.testing.assert_array_equal(originals[:2], originals[2:])
  assert len(set(originals)) == 2 and len(set(ids[batch["generated"]])) == 12


@pytest.mark.parametrize("kind", mostly_thorough(GENERATED, "uneven", "source"))
def test_stateless(kind):
  keywords = {**LAW, "cycle_length": 3}
  whole = take(
    pipeline.train_batches(coded(9), GENERATED[kind], **keywords, num_threads=1, num_steps=12), 12
  )
  assert len(whole) == 12
  for start in (1, 3, 4, 8):  # before, inside and after the ends of passes
    part = take(
      pipeline.train_batches(
        coded(9), GENERATED[kind], **keywords, num_threads=3, start_step=start, prefetch=start % 3
      ),
      12 - start,
    )
    for batch, expected in zip(part, whole[start:], strict=True):
      assert_equal(batch, expected)


def test_seed_changes_both_streams():
  first, second = (
    take(pipeline.train_batches(coded(50), GENERATED["even"], **{**LAW, "seed": seed}), 1)[0]
    for seed in (0, 1)
  )
  for generated in (False, True):
    a, b = (decode(batch)[batch["generated"] == generated] for batch in (first, second))
    assert (a != b).any()


@pytest.mark.parametrize("kind", GENERATED)
def test_once_per_pass(kind):
  generated, original = GENERATED[kind], coded(9)
  batches = take(pipeline.train_batches(original, generated, **LAW, cycle_length=3), 18)
  drawn = np.concatenate([decode(batch)[batch["generated"]] for batch in batches])
  passes = [
    drawn[start : start + generated.num_examples]
    for start in range(0, len(drawn) - generated.num_examples + 1, generated.num_examples)
  ]
  assert len(passes) >= 4
  for ids in passes:
    np.testing.assert_array_equal(np.sort(ids), FIRST_GENERATED + np.arange(len(ids)))
  for a, b in itertools.combinations(passes, 2):
    assert (a != b).any()
  shown = np.concatenate([decode(batch)[~batch["generated"]][:2] for batch in batches])
  np.testing.assert_array_equal(np.sort(shown.reshape(4, 9)), [np.arange(9)] * 4)


@pytest.mark.parametrize("rows", [slice(0, 4), slice(4, 16), slice(15, 16), slice(1, 16, 5)])
def test_rows_agree(rows):
  seen = {"original": set(), "generated": set()}
  original = coded(50, seen=seen["original"])
  generated = coded_shards((60,) * 5, seen=seen["generated"])
  (whole,) = take(pipeline.train_batches(original, generated, **LAW, num_steps=1), 2)
  seen["original"].clear()
  seen["generated"].clear()
  (part,) = take(pipeline.train_batches(original, generated, **LAW, num_steps=1, rows=rows), 2)
  assert_equal(part, {name: array[rows] for name, array in whole.items()})
  ids = decode(part)
  assert seen["original"] == set(ids[~part["generated"]].tolist())
  assert seen["generated"] == set((ids[part["generated"]] - FIRST_GENERATED).tolist())


def test_shards_are_interleaved():
  order = ShardOrder((8,) * 10, seed=(3,), cycle_length=5)
  samples = interleaved(order, 0, 80)
  for window in (samples[:40], samples[40:]):
    shards = window[:, 0].reshape(8, 5)
    assert len(set(shards[0])) == 5
    np.testing.assert_array_equal(shards, np.broadcast_to(shards[0], (8, 5)))
  assert set(samples[:40, 0]).isdisjoint(samples[40:, 0])
  orders = [samples[samples[:, 0] == shard, 1] for shard in range(10)]
  for a, b in itertools.combinations(orders, 2):
    assert (a != b).any()


def interleaved(order, start, count):
  import tensorflow as tf

  dataset = pipeline._interleaved(tf, order, start).take(count)
  return np.array(list(dataset.as_numpy_iterator()))


@pytest.mark.parametrize("cycle_length", mostly_slow([1, 3, 16], 3))
def test_interleaving_can_be_entered_anywhere(cycle_length):
  order = ShardOrder(UNEVEN, seed=(3,), cycle_length=cycle_length)
  total = sum(UNEVEN)
  whole = interleaved(order, 0, 3 * total)
  for start in [*range(0, total, 5), total - 1, total, total + 1, 2 * total + 7]:
    np.testing.assert_array_equal(interleaved(order, start, 30), whole[start : start + 30])


@given(st.lists(st.integers(1, 30), min_size=1, max_size=30), st.integers(1, 20), st.data())
def test_locate(counts, cycle_length, data):
  order = ShardOrder(counts, seed=(3,), cycle_length=cycle_length)
  position = data.draw(st.integers(0, 3 * sum(counts)))
  number, rounds, skip = order.locate(position)
  before = sum(order.counts[order.window(n)[:, 0]].sum() for n in range(number))
  window = order.window(number, rounds)
  assert position == before + rounds * len(window) + skip
  assert rounds <= order.counts[window[:, 0]].min()
  assert skip < sum(len(order.samples(row)) for row in window)
  if len(set(counts)) == 1:
    assert skip < len(window)


def test_a_million_samples_are_not_walked_through():
  order = ShardOrder((62_500,) * 16, seed=(3,), cycle_length=16)
  assert order.locate(10**6 * 7 + 999_999) == (7, 62_499, 15)
  # 100 million, in shards that are not quite equal: what is walked is the difference.
  counts = [62_500] * 1599 + [62_400]
  for position in (10**8 - 101, 5 * 10**8 + 12_345_678):
    assert ShardOrder(counts, seed=(3,), cycle_length=16).locate(position)[2] < 1600


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_one_source_alone(share):
  sources = (coded(9), None) if share else (None, GENERATED["uneven"])
  law = {**LAW, "original_share": share}
  whole = take(pipeline.train_batches(*sources, **law), 4)
  for batch in whole:
    assert (batch["generated"] == (share == 0)).all()
  assert len(set(decode(whole[0]))) == (16 if share == 0 else 8)
  (resumed,) = take(pipeline.train_batches(*sources, **law, start_step=3), 1)
  assert_equal(resumed, whole[3])


def test_num_steps():
  assert len(list(pipeline.train_batches(coded(9), GENERATED["even"], **LAW, num_steps=3))) == 3
  assert not list(pipeline.train_batches(coded(9), GENERATED["even"], **LAW, num_steps=0))


def test_threads_end():
  process = psutil.Process()

  def open_and_close(leave):
    batches = pipeline.train_batches(coded(9), GENERATED["uneven"], **LAW, num_threads=3)
    next(batches)
    running = process.num_threads()
    if leave == "close":
      batches.close()
    del batches
    return running

  open_and_close("close")  # TensorFlow's own pools, which stay, start here
  before = process.num_threads()
  running = [open_and_close(leave) for leave in ("close", "lose") * 4]
  deadline = time.monotonic() + 10
  while process.num_threads() > before and time.monotonic() < deadline:
    time.sleep(0.05)
  assert process.num_threads() <= before
  assert max(running) > before


def test_errors_of_a_source_arrive_as_they_are():
  class Damaged(Exception):
    pass

  def read(indices):
    raise Damaged("shard 3: truncated")

  batches = pipeline.train_batches(Coded(9, read), GENERATED["even"], **LAW)
  with pytest.raises(Damaged, match="shard 3: truncated"):
    next(batches)


@pytest.mark.parametrize(
  ("keywords", "words"),
  [
    ({"start_step": -1}, "start_step=-1"),
    ({"cycle_length": 0}, "cycle_length=0"),
    ({"num_threads": 0}, "num_threads=0"),
    ({"prefetch": -1}, "prefetch=-1"),
    ({"num_steps": -1}, "num_steps=-1"),
    ({"rows": slice(16, 20)}, r"slice\(16, 20, None\).*batch_size=16"),
    ({"original_share": 2}, "original_share=2"),
  ],
)
def test_train_batches_refuses(keywords, words):
  with pytest.raises(ValueError, match=words):
    pipeline.train_batches(coded(9), GENERATED["even"], **{**LAW, **keywords})


def test_missing_and_empty_sources_are_refused():
  with pytest.raises(ValueError, match="generated=None"):
    pipeline.train_batches(coded(9), None, **LAW)
  with pytest.raises(ValueError, match="original has num_examples=0"):
    pipeline.train_batches(coded(0), GENERATED["even"], **LAW)
  with pytest.raises(ValueError, match="counts"):
    ShardOrder((3, 0), seed=(0,), cycle_length=2)


def test_without_tensorflow(monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  with pytest.raises(ImportError, match="backend='resident'"):
    pipeline.train_batches(coded(9), GENERATED["even"], **LAW)


def test_make_train_batches():
  make = data.make_train_batches(coded(9), GENERATED["even"], backend="tfdata", **LAW)
  (first, second), (again,) = take(make(0, num_steps=2), 3), take(make(1), 1)
  assert_equal(again, second)
  assert (decode(first) != decode(second)).any()
  with pytest.raises(ValueError, match="did you mean 'resident'"):
    data.make_train_batches(coded(9), None, backend="residnet", **LAW)
  for backend in ("tfdata", "resident"):
    with pytest.raises(TypeError, match="batchsize"):
      data.make_train_batches(coded(9), None, backend=backend, **LAW, batchsize=3)


CONSTANT_MEMORY = """
import re, sys
import numpy as np
from jax_robust.data import pipeline
from jax_robust.data.shard_writer import write_shards
from jax_robust.data.sources import array_source

def anonymous():
  with open("/proc/self/smaps_rollup") as lines:
    return int(re.search(r"^Anonymous: +(\\d+) kB", lines.read(), re.M)[1]) / 1024

images = np.random.default_rng(0).integers(0, 256, (125, 64, 64, 3), dtype=np.uint8)
labels = np.arange(125) % 10
original = array_source(images, labels, num_classes=10)
peaks = []
for times, steps in ((1, 3), (1, 60), (20, 60)):  # the first run starts TensorFlow
  num = 125 * times
  shards = write_shards(
    f"{sys.argv[1]}/{num}-{len(peaks)}", ((images, labels) for _ in range(times)),
    generator="noise", licence="CC0", seed=0, num_classes=10, num_examples=num, shard_size=125,
  )
  batches = pipeline.train_batches(
    original, shards, batch_size=64, original_share=0.3, num_threads=2, num_steps=steps
  )
  # 60 steps: more than a pass over 20 times the images. To look takes longer than a step.
  peaks.append(max(anonymous() for step, batch in enumerate(batches) if step % 4 == 0))
print(*peaks[1:])
left_open = pipeline.train_batches(original, shards, batch_size=64, original_share=0.3, prefetch=8)
next(left_open)
raise SystemExit(3)
"""


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_constant_memory(tmp_path, capsys):
  command = [sys.executable, "-c", CONSTANT_MEMORY, str(tmp_path)]
  # Freed arrays go back to the system at once, so that only what is kept is counted.
  environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
  result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
  # The program ends, quietly, although its last pipeline is left open and reading.
  assert result.returncode == 3, result.stderr
  assert "Exception ignored" not in result.stderr
  once, twenty = map(float, result.stdout.split())
  with capsys.disabled():
    print(f"\nanonymous memory: 1.5 MB of images {once:.1f} MiB, 31 MB of images {twenty:.1f} MiB")
  # 28 MiB more data; a pipeline that kept a third of it would fail.
  assert twenty < once + 9
