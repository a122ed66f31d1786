"""Runs a sequential test for every image of many, in batches that are full all the same."""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy import special

from jax_robust.smoothing import bounds, checks
from jax_robust.smoothing.noise import CHUNK
from jax_robust.smoothing.sampler import BATCHES_AHEAD, Ids, Images, Sampler
from jax_robust.smoothing.sequences import log_evidence, look_totals
from jax_robust.smoothing.stopping import AtRadii, Levels, Progress, Within

Radii = Float[np.ndarray, " m"] | Sequence[float | int]


class RadiusDecisions(NamedTuple):
  """Whether the radius is at least r, for one image or an array of them, and each r of a grid.

  Attributes:
    label: class that was chosen, or -1 where no radius is certified.
    certified: that it is kept within each radius.
    num_draws: after which each decision fell; an image took as many as its last decision.
  """

  label: Int[np.ndarray, "*n"]
  certified: Bool[np.ndarray, "*n m"]
  num_draws: Int[np.ndarray, "*n m"]


class RadiusInterval(NamedTuple):
  """A radius from below and above, for one image or an array of them.

  Attributes:
    label, radius, lower_bound, count, total: as a `Certificate`'s; `total` differs between images.
    upper_radius: what n draws would hardly have exceeded; no claim about robustness.
  """

  label: Int[np.ndarray, "*n"]
  radius: Float[np.ndarray, "*n"]
  lower_bound: Float[np.ndarray, "*n"]
  count: Int[np.ndarray, "*n"]
  total: Int[np.ndarray, "*n"]
  upper_radius: Float[np.ndarray, "*n"]


@dataclasses.dataclass(frozen=True)
class AdaptiveCertifier:
  """Adaptive CERTIFY for one classifier; made by `make_adaptive_certifier`.

  Images are worked on side by side, so that batches are full, and come out as they are finished. A
  result depends on its image only: draws are those of `certify_images`, looked at at fixed numbers.

  Attributes:
    sampler: asks the classifier.
    sigma, n0, n, alpha, futility: as in `make_adaptive_certifier`.
  """

  sampler: Sampler
  sigma: float
  n0: int
  n: int
  alpha: float
  futility: float

  def __post_init__(self):
    checks.check_sigma(self.sigma)
    checks.check_budget(n0=self.n0, n=self.n, alpha=self.alpha)
    checks.check_alpha(self.futility, "futility")
    if self.alpha > 0.5 or self.futility > 0.5:
      raise ValueError(f"alpha={self.alpha}, futility={self.futility}: expected at most 1/2")
    if log_evidence(self.n, self.n, 0.0) < -np.log(self.alpha):
      raise ValueError(f"n={self.n}: too few draws to certify any image at alpha={self.alpha}")

  @property
  def levels(self) -> Levels:
    """What the tests may cost."""
    return Levels(self.n, self.alpha, self.futility)

  def each_at(
    self, x: Images, rng: Array, radii: Radii, *, ids: Ids = None
  ) -> Iterator[tuple[int, RadiusDecisions]]:
    """`(place, decisions)` of `at`, image by image, in the order in which they are finished."""
    radii = np.asarray(radii, np.float64)
    if radii.ndim != 1 or not radii.size or not np.all((radii >= 0) & (radii < np.inf)):
      raise ValueError(f"radii={radii}: expected a list of numbers, none negative")
    distance = self._total_variation(x)
    # The votes' probability must exceed Phi(r / sigma) by what the noise may be wrong.
    miss = np.maximum(special.ndtr(-radii / self.sigma) - distance, 0.0)
    scores = np.minimum(radii / self.sigma if not distance else -special.ndtri(miss), 37.0)

    def decisions(label, rule):
      label = label if rule.certified.any() else bounds.ABSTAIN
      return RadiusDecisions(np.asarray(label), rule.certified, rule.num_draws)

    return self._run(x, rng, ids, lambda: AtRadii(self.levels, scores), decisions)

  def each_within(
    self, x: Images, rng: Array, tolerance: float, *, ids: Ids = None
  ) -> Iterator[tuple[int, RadiusInterval]]:
    """`(place, interval)` of `within`, image by image, in the order in which they are finished."""
    if not tolerance > 0:
      raise ValueError(f"tolerance={tolerance}: expected a positive number, in units of the image")
    distance = self._total_variation(x)

    def interval(label, rule):
      p_low = max(special.ndtr(rule.low) - distance, 0.0)
      found = RadiusInterval(
        label if p_low >= 0.5 else bounds.ABSTAIN, bounds.radius(p_low, sigma=self.sigma), p_low,
        rule.count, rule.total, self.sigma * max(rule.high, 0.0),
      )  # fmt: skip
      return RadiusInterval(*map(np.asarray, found))

    width = tolerance / self.sigma
    return self._run(x, rng, ids, lambda: Within(self.levels, width), interval)

  def at(self, x: Images, rng: Array, radii: Radii, *, ids: Ids = None) -> RadiusDecisions:
    """Is the radius at least r, for each r of a list? Arguments are as those of `certify_at`."""
    return _in_order(self.each_at(x, rng, radii, ids=ids))

  def within(self, x: Images, rng: Array, tolerance: float, *, ids: Ids = None) -> RadiusInterval:
    """The radius to within a tolerance. Arguments are as those of `certify_within`."""
    return _in_order(self.each_within(x, rng, tolerance, ids=ids))

  def _total_variation(self, x) -> float:
    """The error of the noise of an image."""
    return self.sampler.noise.total_variation(self.sigma, int(np.prod(np.shape(x)[1:])))

  def _run(self, x, rng, ids, make_rule: Callable, finish: Callable) -> Iterator[tuple[int, Any]]:
    """`(place, finish(class, rule))` of every image, as its rule has decided."""
    return self._finished(*self.sampler.prepare(x, ids), rng, make_rule, finish)

  def _finished(self, x, ids, rng, make_rule, finish) -> Iterator[tuple[int, Any]]:
    """The same, for images that were looked at."""
    looks = look_totals(self.n)
    wanted, active = collections.deque(), {}
    # Enough images that none of the batches on their way is short of chunks.
    most = (BATCHES_AHEAD + 1) * self.sampler.batch_size // CHUNK

    def requests():
      waiting = iter(range(len(x)))
      while True:
        if not wanted and len(active) < most and (place := next(waiting, None)) is not None:
          active[place] = Progress(self.sampler.num_classes, self.n0, looks, make_rule())
          wanted.extend(active[place].first_requests(place))
        if not wanted and not active:
          return
        yield wanted.popleft() if wanted else None

    answers = self.sampler.sample(x, rng, requests(), sigma=self.sigma, ids=ids)
    for request, counts in answers:
      image = active[request.place]
      if not image.is_complete(request.stage, counts):
        continue
      if image.decide():
        del active[request.place]
        yield request.place, finish(image.label, image.rule)
      else:
        wanted.extend(image.next_requests(request.place))


def _in_order(found: Iterator[tuple[int, Any]]) -> Any:
  """Results of images, stacked by their places."""
  results = [result for _, result in sorted(found, key=lambda each: each[0])]
  return type(results[0])(*map(np.stack, zip(*results, strict=True)))
