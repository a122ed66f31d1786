"""The order in which training reads samples from shards: some shards at a time, in turn."""

from collections.abc import Sequence

import numpy as np

from jax_robust.data.permutation import permute


class ShardOrder:
  """An endless order over the samples of shards, which can be entered at any position.

  A pass permutes the shards and cuts them into windows of `cycle_length`. The shards of a window
  are interleaved, one sample of each in turn, in a permuted order of their own. Windows are
  numbered on from pass to pass. Only the windows have to be walked to find a position, never the
  samples.

  Memory: 8 bytes for each sample of the shards of one window, whatever the size of the set.

  Guarantees:
    `once_per_pass`: the samples of a pass's windows are every (shard, offset) once.

  Args:
    counts: integers [shards], the samples of each shard.
    seed: integers that name the stream.
    cycle_length: shards that are read in turn.

  Raises:
    ValueError: there is no shard, or a shard is empty.

  >>> order = ShardOrder([2, 2, 2], seed=(0,), cycle_length=2)
  >>> order.locate(5)  # window 1 is the last shard; one round is left out
  (1, 1, 0)
  """

  def __init__(self, counts: Sequence[int], *, seed: Sequence[int], cycle_length: int):
    self.counts = np.asarray(counts, np.int64)
    if self.counts.size < 1 or self.counts.min() < 1:
      raise ValueError(f"counts={list(counts)}: expected shards with at least one sample each")
    self.seed = tuple(seed)
    self.cycle_length = min(cycle_length, self.counts.size)
    self.num_samples = int(self.counts.sum())

  def locate(self, position: int) -> tuple[int, int, int]:
    """Returns the window of a position, the rounds of it to leave out, the samples to skip.

    In a round each shard of the window shows one sample. Rounds are left out by starting every
    shard later, as long as all shards last; what is left to skip is less than a round if they are
    equally long.
    """
    epoch, place = divmod(position, self.num_samples)
    shards = self._shards(epoch)
    ends = np.cumsum([self.counts[members].sum() for members in shards])
    number = int(np.searchsorted(ends, place, side="right"))
    place -= int(ends[number - 1]) if number else 0
    counts = self.counts[shards[number]]
    rounds = min(place // counts.size, int(counts.min()))
    return epoch * len(shards) + number, rounds, place - rounds * counts.size

  def window(self, number: int, rounds: int = 0) -> np.ndarray:
    """Returns the shards of a window as rows of (shard, pass, rounds to leave out)."""
    num_windows = -(-self.counts.size // self.cycle_length)
    epoch, index = divmod(int(number), num_windows)
    shards = self._shards(epoch)[index]
    return np.stack([shards, np.full_like(shards, epoch), np.full_like(shards, rounds)], axis=1)

  def samples(self, row: np.ndarray) -> np.ndarray:
    """Returns the int32 (shard, offset) pairs of a row of `window`, as they are shown."""
    shard, epoch, rounds = (int(value) for value in row)
    count = int(self.counts[shard])
    offsets = permute(np.arange(rounds, count), count, seed=(*self.seed, 1, shard), epoch=epoch)
    return np.stack([np.full_like(offsets, shard), offsets], axis=1).astype(np.int32)

  def _shards(self, epoch: int) -> list[np.ndarray]:
    """Returns the shards of each window of a pass."""
    num = self.counts.size
    order = permute(np.arange(num), num, seed=(*self.seed, 0), epoch=epoch)
    return np.split(order, range(self.cycle_length, num, self.cycle_length))
