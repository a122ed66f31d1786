"""The composition of a batch: which rows show original images, which generated, which repeat."""

from typing import NamedTuple

import numpy as np

from jax_robust.data import columns
from jax_robust.errors import check_count


class Composition(NamedTuple):
  """How a batch is made up: `num_distinct` original images fill `num_original` rows."""

  num_original: int
  num_generated: int
  num_distinct: int

  @property
  def batch_size(self) -> int:
    """Rows of the global batch."""
    return self.num_original + self.num_generated


def composition(
  batch_size: int, *, original_share: float, emulated_workers: int = 4, num_slices: int = 1
) -> Composition:
  """Returns how many rows of a batch are original, generated, and distinct originals.

  The published runs had `w` workers that drew the same original images and different generated
  ones; one machine imitates them by showing each original image `w` times, each with an
  augmentation of its own. They also rounded the share on every device. Hence, for each of
  `num_slices` slices of `b` rows,

      distinct = round(original_share * b / w)
      original = w * distinct
      generated = b - original

  with `distinct` raised or lowered until both kinds have at least one row when the share lies
  strictly between 0 and 1. `round` takes halves to the even neighbour, as NumPy does. The batch
  need not be divisible by the number of workers: only the share of a worker's part is rounded. A
  share of 1 fills the batch with originals; the last repeats are left out where `w` does not divide
  `b`.

  Guarantees:
    `adds_up`: the rows add up to `batch_size`.
    `never_empty`: with a share strictly between 0 and 1 both kinds have at least one row a slice.
    `repeats_exact`: each distinct image fills exactly `w` rows (at most `w` for a share of 1).

  Args:
    batch_size: rows of the global batch.
    original_share: share of rows that show original images, in [0, 1].
    emulated_workers: times each original image is shown in a batch; 0 or 1 for no repeats.
    num_slices: parts of the batch that are rounded alone. A key of the recipe: it does not follow
      the number of devices at hand.

  Returns:
    The composition of the global batch.

  Raises:
    ValueError: an argument is out of range, the slices do not divide the batch, or a slice is too
      small to hold one image of either kind.

  >>> composition(1024, original_share=0.3)
  Composition(num_original=308, num_generated=716, num_distinct=77)
  >>> composition(1024, original_share=0.3, num_slices=8)
  Composition(num_original=320, num_generated=704, num_distinct=80)

  Reference: Gowal et al., "Improving Robustness using Generated Data", NeurIPS 2021 (released
  code).
  """
  _check(batch_size, original_share, emulated_workers, num_slices)
  workers = max(1, emulated_workers)
  rows = batch_size // num_slices
  if original_share == 0:
    original = distinct = 0
  elif original_share == 1:
    original, distinct = rows, -(-rows // workers)
  else:
    most = (rows - 1) // workers
    if most < 1:
      raise ValueError(
        f"batch_size={batch_size} in num_slices={num_slices} slices of {rows} rows: expected at "
        f"least {workers + 1} rows a slice, one original shown emulated_workers={workers} times "
        "and one generated image; emulated_workers=0 switches the repeats off"
      )
    distinct = min(max(round(original_share * rows / workers), 1), most)
    original = distinct * workers
  return Composition(original * num_slices, (rows - original) * num_slices, distinct * num_slices)


def original_rows(mix: Composition) -> np.ndarray:
  """Which rows of the batch show original images, bool [batch_size].

  Row `r` of `B` is original iff `floor((r + 1) n / B) > floor(r n / B)`, `n` being the number of
  original rows.

  Guarantees:
    `even_share`: every run of rows, wherever it starts and however long it is, holds its share of
      original rows to within one. BatchNorm groups, micro-batches and devices' rows are such runs.

  >>> original_rows(Composition(num_original=2, num_generated=3, num_distinct=2)).tolist()
  [False, False, True, False, True]
  """
  edges = np.arange(mix.batch_size + 1, dtype=np.int64) * mix.num_original // max(1, mix.batch_size)
  return np.diff(edges) > 0


def row_slots(mix: Composition) -> np.ndarray:
  """Which of the batch's images each row shows, int64 [batch_size].

  The j-th original row shows distinct original image `j % num_distinct`, so that the repeats of an
  image lie as far apart as they can; the k-th generated row shows generated image `k`.

  >>> row_slots(Composition(num_original=2, num_generated=3, num_distinct=1)).tolist()
  [0, 1, 0, 2, 0]
  """
  original = original_rows(mix)
  slots = np.where(original, np.cumsum(original), np.cumsum(~original)) - 1
  return np.where(original, slots % max(1, mix.num_distinct), slots)


def check_sources(mix: Composition, original, generated) -> None:
  """Raises ValueError unless the sources that are drawn from are there and fit together."""
  for name, source, num_rows, wanted in (
    ("original", original, mix.num_original, "original_share=0.0 for generated images only"),
    ("generated", generated, mix.num_generated, "original_share=1.0 for original images only"),
  ):
    if num_rows and source is None:
      raise ValueError(f"{name}=None: expected a source for {num_rows} rows a batch, or {wanted}")
    if num_rows and source.num_examples < 1:
      raise ValueError(
        f"{name} has num_examples={source.num_examples}: expected at least one example"
      )
  if mix.num_original and mix.num_generated:
    for field in ("image_shape", "num_classes"):
      ours, theirs = getattr(original, field), getattr(generated, field)
      if ours != theirs:
        raise ValueError(f"generated has {field}={theirs}: expected {ours}, as original has")


def has_probabilities(original, generated, *, original_share: float) -> bool:
  """Whether a source that batches are drawn from has probabilities in place of labels."""
  drawn = [original] * (original_share > 0) + [generated] * (original_share < 1)
  return any(columns.probabilities_reader(source) is not None for source in drawn)


def _check(batch_size, original_share, emulated_workers, num_slices):
  """Raises ValueError for an argument out of range."""
  if not 0 <= original_share <= 1:
    raise ValueError(f"original_share={original_share}: expected a share in [0, 1]")
  check_count(batch_size=batch_size)
  if emulated_workers < 0:
    raise ValueError(
      f"emulated_workers={emulated_workers}: expected the times each original image is shown, "
      "0 or 1 for no repeats"
    )
  if num_slices < 1 or batch_size % num_slices:
    raise ValueError(f"num_slices={num_slices}: expected a divisor of batch_size={batch_size}")
