"""CERTIFY with as many draws as an image needs: sequential tests in place of a fixed n."""

import functools
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from jax_robust.errors import as_numbers, check_positive, check_probability, check_sigma
from jax_robust.smoothing import bounds
from jax_robust.smoothing.noise import ESTIMATION, SELECTION
from jax_robust.smoothing.sampler import Ids, Images, Sampler, Votes, as_sampler, in_order
from jax_robust.smoothing.sequences import (
  log_evidence,
  look_totals,
  lower_sequence,
  upper_sequence,
)
from jax_robust.types import LogitsFn, Rng

Radii = Float[np.ndarray, " m"] | Sequence[float | int]


class RadiusDecisions(NamedTuple):
  """Whether the radius is at least r, for one image or an array of them, and each r of a list.

  Attributes:
    label: class that was selected, or -1 where no radius is certified.
    certified: that it is kept within each radius.
    num_draws: draws after which each decision was made; an image took as many as its last one.
  """

  label: Int[np.ndarray, "*n"]
  certified: Bool[np.ndarray, "*n m"]
  num_draws: Int[np.ndarray, "*n m"]


class RadiusInterval(NamedTuple):
  """A radius from below and above, for one image or an array of them.

  Attributes:
    label, radius, lower_bound, count, total: as a `Certificate`'s; `total` differs between images.
    upper_radius: what n draws are unlikely to exceed; no claim about robustness.
  """

  label: Int[np.ndarray, "*n"]
  radius: Float[np.ndarray, "*n"]
  lower_bound: Float[np.ndarray, "*n"]
  count: Int[np.ndarray, "*n"]
  total: Int[np.ndarray, "*n"]
  upper_radius: Float[np.ndarray, "*n"]


def certify_at(
  model: LogitsFn | Sampler,
  x: Images,
  rng: Rng,
  radii: Radii,
  *,
  sigma: float | int,
  n0: int = 100,
  n: int = 100_000,
  alpha: float = 0.001,
  futility: float = 0.001,
  ids: Ids = None,
  **sampling: Any,
) -> RadiusDecisions:
  """Is the radius at least r? As CERTIFY, for a list of r, with as many draws as that takes.

  Votes are looked at after 100, 200, ... draws, then at every twentieth more. With p_r =
  Phi(r / sigma), r is certified at the first look where `log_evidence` of p_A > p_r reaches
  log(1 / alpha). It is given up where the evidence of p_A < p_r reaches log(1 / futility), or where
  it would not be certified even if all draws up to n voted for the class.

  Guarantees:
    `no_radius_is_certified_wrongly`: with probability at least 1 - alpha over the votes of an
      image, all the radii that are certified hold, together; whatever `futility` and n are.
    `decisions_depend_on_the_image_only`: not on batch size, devices, or the other images.

  Why: evidence falls with r, so that if any r larger than the true radius R is ever certified, the
  evidence of p_A > Phi(R / sigma) has reached 1 / alpha; Ville's inequality bounds that by alpha
  over all looks. A `futility` of 0.001 loses a radius that n draws would have certified with
  probability .001; it costs no soundness.

  Args: as those of `certify_images`, and
    radii: r, in units of the image, `[m]`.
    n: draws at most.
    futility: probability of giving up a radius that holds, at most 1/2.

  Returns:
    The decisions, `[n]` and `[n, m]`.

  Raises:
    ValueError: as `certify_images`; negative radii; alpha or futility above 1/2.

  Reference: Horváth, Müller, Fischer and Vechev, 2022, "Boosting randomized smoothing with variance
  reduced classifiers", https://arxiv.org/abs/2106.06946 (adaptive sampling for a radius, there with
  a union bound over few looks); `log_evidence` for the test.

  >>> import jax, jax.numpy as jnp, numpy as np
  >>> logits_fn = lambda x: jnp.stack([0.5 - x[:, 0], x[:, 0] - 0.5], axis=1)
  >>> x = np.array([[0.9, 0.0], [0.5, 0.0]], np.float32)
  >>> found = certify_at(logits_fn, x, jax.random.key(0), [0.0, 0.25, 0.75], sigma=0.25)
  >>> found.certified.tolist()
  [[True, True, False], [False, False, False]]
  >>> found.num_draws[0].tolist()
  [100, 200, 100]
  """
  found = each_decision(
    as_sampler(model, x, sampling), x, rng, radii, sigma=sigma, n0=n0, n=n, alpha=alpha,
    futility=futility, ids=ids,
  )  # fmt: skip
  return in_order(found)


def each_decision(
  sampler: Sampler,
  x: Images,
  rng: Rng,
  radii: Radii,
  *,
  sigma: float | int,
  n0: int = 100,
  n: int = 100_000,
  alpha: float = 0.001,
  futility: float = 0.001,
  ids: Ids = None,
) -> Iterator[tuple[int, Votes, RadiusDecisions]]:
  """`certify_at`, images in the order in which they are finished: (place, votes, result)."""
  _check(sigma=sigma, n0=n0, n=n, alpha=alpha, futility=futility)
  radii = as_numbers(radii, "radii")
  if radii.ndim != 1 or not radii.size or not np.all((radii >= 0) & (radii < np.inf)):
    raise ValueError(f"radii={radii}: expected a list of numbers, none negative")
  distance = sampler.total_variation(sigma)
  # The votes' probability must exceed Phi(r / sigma) by the error of the noise.
  miss = np.maximum(special.ndtr(-radii / sigma) - distance, 0.0)
  scores = np.minimum(radii / sigma if not distance else -special.ndtri(miss), 37.0)
  plan = functools.partial(decide, scores, n0=n0, n=n, alpha=alpha, futility=futility)
  return sampler.run(x, rng, plan, sigma=sigma, ids=ids)


def decide(
  scores: Float[np.ndarray, " m"], *, n0: int, n: int, alpha: float, futility: float
) -> Generator[Mapping[int, int], Votes, RadiusDecisions]:
  """The plan of `certify_at` for one image, and scores z = r / sigma: is p_A at least Phi(z)?"""
  certified, is_open = np.zeros(len(scores), bool), np.ones(len(scores), bool)
  num_draws, label = np.zeros(len(scores), np.int64), bounds.ABSTAIN
  for total in look_totals(n).tolist():
    label, count = yield from _look(n0, total)
    (places,) = np.nonzero(is_open)
    z = scores[places]
    yes = log_evidence(count, total, z) >= -np.log(alpha)
    no = log_evidence(total - count, total, -z) >= -np.log(futility)
    # Not even if all votes to come were for the class.
    no |= log_evidence(count + n - total, n, z) < -np.log(alpha)
    certified[places], num_draws[places], is_open[places] = yes, total, ~(yes | no)
    if not is_open.any():
      break
  label = np.asarray(label if certified.any() else bounds.ABSTAIN)
  return RadiusDecisions(label, certified, num_draws)


def certify_within(
  model: LogitsFn | Sampler,
  x: Images,
  rng: Rng,
  *,
  tolerance: float,
  sigma: float | int,
  n0: int = 100,
  n: int = 100_000,
  alpha: float = 0.001,
  futility: float = 0.001,
  ids: Ids = None,
  **sampling: Any,
) -> RadiusInterval:
  """The radius to within a tolerance: as CERTIFY, with as many draws as that takes.

  Draws until `sigma` times the distance between `lower_sequence` and `upper_sequence` (or what n
  draws could give at most) is `tolerance`, or n.

  Guarantees:
    `radius_holds_whenever_it_stops`: with probability at least 1 - alpha, whatever `futility`, the
      tolerance and n are.
    `decisions_depend_on_the_image_only`: not on batch size, devices, or the other images.

  Args: as those of `certify_at`, and
    tolerance: in units of the image.

  Returns:
    The radii and their upper ends, `[n]`.

  Raises:
    ValueError: as `certify_at`; a tolerance that is not positive.

  >>> import jax, jax.numpy as jnp, numpy as np
  >>> logits_fn = lambda x: jnp.stack([0.5 - x[:, 0], x[:, 0] - 0.5], axis=1)
  >>> x = np.array([[0.9, 0.0], [0.7, 0.0]], np.float32)
  >>> found = certify_within(logits_fn, x, jax.random.key(0), tolerance=0.05, sigma=0.25)
  >>> found.radius.round(2).tolist(), found.total.tolist()
  ([0.38, 0.17], [8700, 3900])
  """
  found = each_interval(
    as_sampler(model, x, sampling), x, rng, tolerance, sigma=sigma, n0=n0, n=n, alpha=alpha,
    futility=futility, ids=ids,
  )  # fmt: skip
  return in_order(found)


def each_interval(
  sampler: Sampler,
  x: Images,
  rng: Rng,
  tolerance: float,
  *,
  sigma: float | int,
  n0: int = 100,
  n: int = 100_000,
  alpha: float = 0.001,
  futility: float = 0.001,
  ids: Ids = None,
) -> Iterator[tuple[int, Votes, RadiusInterval]]:
  """`certify_within`, images in the order in which they are finished: (place, votes, result)."""
  _check(sigma=sigma, n0=n0, n=n, alpha=alpha, futility=futility)
  check_positive(tolerance=tolerance)
  plan = functools.partial(
    narrow, tolerance, sampler.total_variation(sigma), sigma=sigma, n0=n0, n=n, alpha=alpha,
    futility=futility,
  )  # fmt: skip
  return sampler.run(x, rng, plan, sigma=sigma, ids=ids)


def narrow(
  tolerance: float,
  distance: float,
  *,
  sigma: float | int,
  n0: int,
  n: int,
  alpha: float,
  futility: float,
) -> Generator[Mapping[int, int], Votes, RadiusInterval]:
  """The plan of `certify_within` for one image; `distance` is the error of the noise."""
  low, high, label, count, total = -np.inf, np.inf, bounds.ABSTAIN, 0, 0
  for total in look_totals(n).tolist():
    label, count = yield from _look(n0, total)
    low = max(low, float(lower_sequence(count, total, alpha=alpha)))
    # It will not be above what it would be if all votes to come were for the class.
    best = max(float(lower_sequence(count + n - total, n, alpha=alpha)), low)
    high = min(high, float(upper_sequence(count, total, alpha=futility)), best)
    if max(high, 0.0) - max(low, 0.0) <= tolerance / sigma:
      break
  p_low = max(special.ndtr(low) - distance, 0.0)
  found = (
    label if p_low >= 0.5 else bounds.ABSTAIN, bounds.radius(p_low, sigma=sigma), p_low, count,
    total, sigma * max(high, 0.0),
  )  # fmt: skip
  return RadiusInterval(*map(np.asarray, found))


def _look(n0: int, total: int) -> Generator[Mapping[int, int], Votes, tuple[int, int]]:
  """The selected class, and its votes among the first `total` draws of the estimation."""
  votes = yield {SELECTION: n0, ESTIMATION: total}
  label = int(np.argmax(votes[SELECTION]))
  return label, int(votes[ESTIMATION, label])


def _check(*, sigma: float | int, n0: int, n: int, alpha: float, futility: float) -> None:
  """Raises ValueError where the tests have no guarantee, or could certify no image."""
  check_sigma(sigma)
  bounds.check_budget(n0=n0, n=n, alpha=alpha)
  check_probability(futility=futility)
  if alpha > 0.5 or futility > 0.5:
    raise ValueError(f"alpha={alpha}, futility={futility}: expected at most 1/2")
  if log_evidence(n, n, 0.0) < -np.log(alpha):
    raise ValueError(f"n={n}: too few draws to certify any image at alpha={alpha}")
