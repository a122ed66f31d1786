"""A source whose images spell out their own number, and batches of it."""

from typing import NamedTuple

import numpy as np


class Coded(NamedTuple):
  """A source whose image i spells first + i in its four bytes."""

  num_examples: int
  read: object
  image_shape: tuple = (2, 2, 1)
  num_classes: int = 7


def encode(ids):
  return ids.astype("<u4").view(np.uint8).reshape(-1, 2, 2, 1), (ids % 7).astype(np.int32)


def decode(batch):
  ids = np.ascontiguousarray(batch["image"]).reshape(-1, 4).view("<u4").ravel().astype(np.int64)
  np.testing.assert_array_equal(batch["label"], ids % 7)
  return ids


def coded(num_examples, first=0, seen=None):
  def read(indices):
    assert indices.dtype == np.int64
    if seen is not None:
      seen.update(indices.tolist())
    return encode(indices + first)

  return Coded(num_examples, read)


def assert_equal(batch, expected):
  assert batch.keys() == expected.keys()
  for name, array in expected.items():
    assert batch[name].dtype == array.dtype
    np.testing.assert_array_equal(batch[name], array, err_msg=name)
