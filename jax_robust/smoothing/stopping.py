"""When a sequential test of one image has seen enough."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jax_robust.smoothing.noise import ESTIMATION, SELECTION
from jax_robust.smoothing.sampler import Request, whole_stage
from jax_robust.smoothing.sequences import log_evidence, lower_sequence, upper_sequence


class Levels(NamedTuple):
  """What a test may cost: draws, the probability of a wrong claim, that of giving up wrongly."""

  n: int
  alpha: float
  futility: float


class Progress:
  """Where one image stands."""

  def __init__(self, num_classes: int, n0: int, looks: Int[np.ndarray, " m"], rule: Any):
    self.rule = rule
    self._votes = np.zeros((2, num_classes), np.int64)
    self._looks, self._look, self._n0 = looks, 0, n0

  def first_requests(self, place: int) -> Iterator[Request]:
    """The selection, and the draws before the first look."""
    yield from whole_stage(place, SELECTION, self._n0)
    yield from whole_stage(place, ESTIMATION, int(self._looks[0]))

  def next_requests(self, place: int) -> Iterator[Request]:
    """The draws up to the next look."""
    self._look += 1
    first, total = self._looks[self._look - 1 : self._look + 1]
    return whole_stage(place, ESTIMATION, int(total), int(first))

  def is_complete(self, stage: int, counts: np.ndarray) -> bool:
    """Counts votes; whether they are all that was asked for."""
    self._votes[stage] += counts
    return list(self._votes.sum(axis=1)) == [self._n0, self._looks[self._look]]

  @property
  def label(self) -> int:
    """The class of most selection votes, the lowest of several."""
    return int(np.argmax(self._votes[SELECTION]))

  def decide(self) -> bool:
    """Whether the rule has seen enough."""
    total = int(self._looks[self._look])
    is_done = self.rule.update(int(self._votes[ESTIMATION, self.label]), total)
    return is_done or self._look == len(self._looks) - 1


class AtRadii:
  """Decides for each of some scores z = r / sigma whether the probability is at least Phi(z)."""

  def __init__(self, levels: Levels, scores: Float[np.ndarray, " m"]):
    self.certified = np.zeros(len(scores), bool)
    self.num_draws = np.zeros(len(scores), np.int64)
    self._levels, self._scores, self._open = levels, scores, np.ones(len(scores), bool)

  def update(self, count: int, total: int) -> bool:
    """Looks at the votes; whether all is decided."""
    (places,) = np.nonzero(self._open)
    z, last = self._scores[places], self._levels.n
    enough = -np.log(self._levels.alpha)
    yes = log_evidence(count, total, z) >= enough
    no = log_evidence(total - count, total, -z) >= -np.log(self._levels.futility)
    no |= log_evidence(count + last - total, last, z) < enough  # if all votes to come were for it
    self.certified[places] = yes
    self.num_draws[places] = total
    self._open[places] = ~(yes | no)
    return not self._open.any()


class Within:
  """Decides when a confidence sequence is narrow enough."""

  def __init__(self, levels: Levels, width: float):
    self.low, self.high, self.count, self.total = -np.inf, np.inf, 0, 0
    self._levels, self._width = levels, width

  def update(self, count: int, total: int) -> bool:
    """Looks at the votes; whether nothing of interest is left."""
    self.count, self.total = count, total
    n, alpha, futility = self._levels
    self.low = max(self.low, float(lower_sequence(count, total, alpha=alpha)))
    high = float(upper_sequence(count, total, alpha=futility))
    # It will not be above what it would be if all votes to come were for it.
    best = max(float(lower_sequence(count + n - total, n, alpha=alpha)), self.low)
    self.high = min(self.high, high, best)
    return max(self.high, 0.0) - max(self.low, 0.0) <= self._width
