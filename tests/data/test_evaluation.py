"""Evaluation batches: every example once, in batches of one shape."""

import collections
import itertools

import numpy as np
import pytest
from coded_source import assert_equal, coded, decode
from hypothesis import given
from hypothesis import strategies as st

from jax_robust import data


@given(
  num_examples=st.integers(1, 60), per_process=st.integers(1, 12), num_processes=st.integers(1, 4)
)
def test_every_example_once(num_examples, per_process, num_processes):
  source, batch_size = coded(num_examples), per_process * num_processes
  processes = [
    list(data.eval_batches(source, batch_size=batch_size, process=(i, num_processes)))
    for i in range(num_processes)
  ]
  seen = collections.Counter()
  for batch in itertools.chain(*processes):
    shown = {name: array[batch["mask"]] for name, array in batch.items()}
    np.testing.assert_array_equal(decode(shown), shown["id"])
    seen.update(shown["id"].tolist())
    assert (batch["id"][~batch["mask"]] == -1).all()
  assert seen == collections.Counter(range(num_examples))
  # Side by side, the processes' rows are the global batch.
  whole = list(data.eval_batches(source, batch_size=batch_size))
  for batch, *parts in zip(whole, *processes, strict=True):
    side_by_side = {name: np.concatenate([part[name] for part in parts]) for name in batch}
    assert_equal(side_by_side, batch)


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 4))
def test_equal_lengths(num_examples, per_process, num_processes):
  batch_size = per_process * num_processes
  for i in range(num_processes):
    batches = list(
      data.eval_batches(coded(num_examples), batch_size=batch_size, process=(i, num_processes))
    )
    assert len(batches) == -(-num_examples // batch_size)
    for batch in batches:
      assert {name: (array.dtype.name, array.shape) for name, array in batch.items()} == {
        "image": ("uint8", (per_process, 2, 2, 1)),
        "label": ("int32", (per_process,)),
        "mask": ("bool", (per_process,)),
        "id": ("int32", (per_process,)),
      }


@pytest.mark.parametrize(
  ("batch_size", "process", "words"),
  [(0, None, "batch_size=0"), (10, (0, 3), "batch_size=10"), (9, (3, 3), r"process=\(3, 3\)")],
)
def test_eval_batches_refuses(batch_size, process, words):
  with pytest.raises(ValueError, match=words):
    data.eval_batches(coded(5), batch_size=batch_size, process=process)
