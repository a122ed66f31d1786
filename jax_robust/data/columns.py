"""Named columns of a source: what is known of its samples besides image and label.

One column has a meaning for trainings: `probabilities`, which are then the targets in place of the
labels, such as those that a teacher gives. All others are only carried along.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jax_robust.data.sources import Columns, Source, as_indices, check_source
from jax_robust.errors import check_targets

PROBABILITIES = "probabilities"
"""The column that is trained on: float32 `[n, num_classes]`, rows adding up to 1."""


def with_columns(source: Source, columns: Mapping[str, Any]) -> Source:
  """A source with more columns, which are added to those it has, or replace them.

  Args:
    source: images and labels.
    columns: arrays `[num_examples, …]` by name, in the order of the samples.

  Raises:
    ValueError: another number of entries than of samples; probabilities that are none.

  >>> from jax_robust.data.sources import array_source, select
  >>> source = array_source(np.zeros((3, 2, 2, 1), np.uint8), [0, 1, 1])
  >>> known = with_columns(source, {"confidence": [0.9, 0.6, 0.7]})
  >>> select(known, np.array([2, 0]), "two").columns["confidence"](np.array([0, 1])).tolist()
  [0.7, 0.9]
  """
  check_source(source)
  readers = column_readers(columns, source.num_examples, source.num_classes)
  return dataclasses.replace(source, columns={**source.columns, **readers})


def column_readers(columns: Mapping[str, Any], num_examples: int, num_classes: int) -> Columns:
  """Functions that read entries of arrays `[num_examples, …]`, checked.

  Raises:
    ValueError: another number of entries than of samples; probabilities that are none.
  """
  readers = {}
  for name, values in columns.items():
    array = np.asarray(values)
    if array.ndim < 1 or len(array) != num_examples or array.dtype.kind not in "iufb":
      raise ValueError(
        f"column {name!r} is {array.dtype}{list(array.shape)}, expected numbers "
        f"[{num_examples}, …], an entry for each image"
      )
    if name == PROBABILITIES:
      array = array.astype(np.float32)
      check_targets(array, num_examples, num_classes, name=name)
    readers[name] = functools.partial(_entries, array, name)
  return readers


def _entries(array: np.ndarray, name: str, indices: np.ndarray) -> np.ndarray:
  """Entries of a column."""
  return array[as_indices(indices, len(array), name)]


def probabilities_reader(source: Any) -> Callable[[np.ndarray], np.ndarray] | None:
  """`read(indices) -> float32 [n, k]` of a source that has probabilities; None of one that has not.

  A source of one's own need not know of columns.
  """
  return getattr(source, "columns", {}).get(PROBABILITIES)


def probabilities_of(source: Source, indices: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Targets of the samples `indices`, float32 `[n, k]`: their probabilities, or one-hot labels."""
  read = probabilities_reader(source)
  return read(indices) if read else np.eye(source.num_classes, dtype=np.float32)[labels]


def map_probabilities(source: Source, table: np.ndarray, num_classes: int) -> Source:
  """A source whose class l is class `table[l]` of `num_classes`, as far as probabilities say so."""
  read = probabilities_reader(source)
  if read is None:
    return source

  def mapped(indices):
    found = read(indices)
    probs = np.zeros((len(found), num_classes), np.float32)
    probs[:, table] = found
    return probs

  return dataclasses.replace(source, columns={**source.columns, PROBABILITIES: mapped})
