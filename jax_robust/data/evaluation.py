"""Evaluation batches: every example once, in order; images as a net takes them. With NumPy."""

from collections.abc import Iterator
from typing import Any

import numpy as np


def as_floats(images: Any) -> Any:
  """Images of 0 to 255 as float32 in [0, 1], the division in float32; of NumPy, or traced by JAX.

  >>> as_floats(np.array([0, 255], np.uint8)).tolist()
  [0.0, 1.0]
  """
  return images.astype(np.float32) / np.float32(255)


def eval_batches(
  source, *, batch_size: int, process: tuple[int, int] | None = None
) -> Iterator[dict[str, np.ndarray]]:
  """Yields every example once, in order, the last batch padded with rows whose mask is False.

  Guarantees:
    `every_example_once`: the ids of the unmasked rows, over all batches and all processes, are each
      index once.
    `equal_lengths`: every process sees the same number of batches, all of one shape.

  Args:
    source: a Source.
    batch_size: rows of the global batch.
    process: (index, count): of `count` equal runs of rows of every batch, the one of this process;
      None for all rows.

  Returns:
    An iterator of {"image": uint8 [b, h, w, c], "label": int32 [b], "mask": bool [b], "id": int32
    [b]}. A padded row is black and has label 0 and id -1.

  Raises:
    ValueError: the index is out of range, or the processes do not divide the batch.
  """
  index, count = process or (0, 1)
  if not 0 <= index < count:
    raise ValueError(f"process={process}: expected (index, count) with 0 <= index < count")
  if batch_size < 1 or batch_size % count:
    raise ValueError(
      f"batch_size={batch_size}: expected a positive multiple of the {count} processes"
    )

  def batches():
    for start in range(0, source.num_examples, batch_size):
      ids = start + np.arange(batch_size)[index * batch_size // count :][: batch_size // count]
      mask = ids < source.num_examples
      image = np.zeros((ids.size, *source.image_shape), np.uint8)
      label = np.zeros(ids.size, np.int32)
      if mask.any():
        image[mask], label[mask] = source.read(ids[mask])
      ids = np.where(mask, ids, -1).astype(np.int32)
      yield {"image": image, "label": label, "mask": mask, "id": ids}

  return batches()
