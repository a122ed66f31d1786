"""The resident backend: the law of the tf.data pipeline, on the device."""

import itertools

import jax
import numpy as np
import pytest

from jax_robust.data import mixture, pipeline, resident
from jax_robust.data.sources import array_source

LAW = {"batch_size": 16, "original_share": 0.3, "emulated_workers": 2, "seed": 7}  # 4 + 12 rows
FIRST_GENERATED = 1000


def numbered(num_examples, first=0):
  """A source whose image i spells first + i in its four bytes."""
  ids = first + np.arange(num_examples)
  images = ids.astype("<u4").view(np.uint8).reshape(-1, 2, 2, 1)
  return array_source(images, ids % 7, num_classes=7)


def numbers(batch):
  ids = np.asarray(batch["image"]).reshape(-1, 4).view("<u4").ravel().astype(np.int64)
  np.testing.assert_array_equal(batch["label"], ids % 7)
  return ids


def take(iterator, count):
  return list(itertools.islice(iterator, count))


def assert_equal(batch, expected):
  assert batch.keys() == expected.keys()
  for name, array in expected.items():
    assert batch[name].dtype == array.dtype
    np.testing.assert_array_equal(batch[name], array, err_msg=name)


def resident_batches(original, generated, *, start_step=0, **law):
  return resident.make_resident(original, generated, **law)(start_step)


ORIGINAL, GENERATED = numbered(9), numbered(31, FIRST_GENERATED)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_same_originals(share):
  law = {**LAW, "original_share": share}
  host = pipeline.train_batches(ORIGINAL, GENERATED, **law, start_step=3)
  device = resident_batches(ORIGINAL, GENERATED, **law, start_step=3)
  # The generated images come from a plain source: they are the same too.
  for expected, batch in zip(take(host, 6), take(device, 6), strict=True):
    assert all(isinstance(array, jax.Array) for array in batch.values())
    assert_equal(batch, expected)
  host.close()


def test_shards_in_their_own_order(tmp_path):
  from jax_robust.data.shard_writer import write_shards

  about = {"generator": "count", "licence": "CC0", "seed": 0}
  shards = write_shards(tmp_path / "shards", GENERATED, num_shards=4, **about)
  host = pipeline.train_batches(ORIGINAL, shards, **LAW)
  device = resident_batches(ORIGINAL, shards, **LAW)
  different = False
  for expected, batch in zip(take(host, 3), take(device, 3), strict=True):
    original = ~np.asarray(batch["generated"])
    np.testing.assert_array_equal(batch["generated"], expected["generated"])
    ids, others = numbers(batch), numbers(expected)
    np.testing.assert_array_equal(ids[original], others[original])
    assert set(ids[~original]) <= set(range(FIRST_GENERATED, FIRST_GENERATED + 31))
    different |= (ids != others).any()
  assert different
  host.close()


def test_once_per_pass():
  batches = take(resident_batches(ORIGINAL, GENERATED, **LAW), 31)
  generated = ~mixture.original_rows(mixture.Composition(4, 12, 2))
  drawn = np.concatenate([numbers(batch)[generated] for batch in batches]).reshape(12, 31)
  np.testing.assert_array_equal(np.sort(drawn) - FIRST_GENERATED, [np.arange(31)] * 12)
  assert len({tuple(ids) for ids in drawn.tolist()}) == 12
  shown = np.concatenate([numbers(batch)[~generated][:2] for batch in batches])[:54].reshape(6, 9)
  np.testing.assert_array_equal(np.sort(shown), [np.arange(9)] * 6)


def test_resume():
  batches = resident.make_resident(ORIGINAL, GENERATED, **LAW)
  whole = take(batches(), 9)
  for start in range(9):
    assert_equal(next(batches(start)), whole[start])
  assert len(list(batches(2, num_steps=3))) == 3


def test_compiles_once():
  batches = resident.make_resident(ORIGINAL, GENERATED, **LAW)
  take(batches(0), 3)
  take(batches(2**40), 2)
  assert batches.pick._cache_size() == 1


def test_devices_agree():
  mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  one = resident_batches(ORIGINAL, GENERATED, **LAW)
  many = resident_batches(ORIGINAL, GENERATED, **LAW, sharding=sharding)
  for batch, expected in zip(take(many, 3), take(one, 3), strict=True):
    assert_equal(batch, expected)
    for array in batch.values():
      assert array.sharding.is_equivalent_to(sharding, array.ndim)


def test_refuses():
  with pytest.raises(ValueError, match="generated=None"):
    resident.make_resident(ORIGINAL, None, **LAW)
  with pytest.raises(ValueError, match="start_step=-1"):
    resident_batches(ORIGINAL, GENERATED, **LAW, start_step=-1)
