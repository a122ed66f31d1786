"""What a certification log would be with another number of draws, without running the model."""

import numpy as np
from jaxtyping import Int
from scipy import special

from jax_robust.errors import check_sigma
from jax_robust.smoothing import bounds, claims
from jax_robust.smoothing.log import CertifyLog


def recover_counts(
  log: CertifyLog, *, sigma: float | int, n: int, alpha: float
) -> Int[np.ndarray, " rows"]:
  """The vote count behind each certified radius, as far as its printed digits determine it.

  The k whose Clopper-Pearson bound is nearest to Phi(radius / sigma); a radius at the cap, or above
  it by less than the half unit that rounding to three digits adds, is k = n.

  Guarantees:
    `counts_come_back`: exactly, of radii in full; of printed ones to within their rounding.

  Args:
    log: the rows.
    sigma: noise that they were certified with.
    n: samples that they were certified with.
    alpha: failure probability that they were certified with.

  Returns:
    Counts `[rows]`; -1 where the classifier abstains, since the log does not hold them.

  Raises:
    ValueError: sigma, n or alpha out of range; a radius above what they allow, so that the log is
      of other settings.

  >>> from jax_robust.smoothing.log import make_log
  >>> log = make_log([0, 1, 2], [7, 2, 1], [7, 2, -1], [1.91, 0.5, 0.0])
  >>> recover_counts(log, sigma=0.5, n=100_000, alpha=0.001).tolist()
  [100000, 84491, -1]
  """
  check_sigma(sigma)
  bounds.check_budget(n=n, alpha=alpha)
  cap = bounds.max_radius(sigma=sigma, n=n, alpha=alpha)
  most = float(log.radius.max(initial=0.0))
  if most - cap > claims.half_unit(most):
    row = int(np.argmax(log.radius))
    raise ValueError(
      f"{log.name or 'the log'}, image {log.idx[row]}: radius={most} is above {cap:.6g}, the "
      f"largest with sigma={sigma}, n={n}, alpha={alpha}: expected the settings of the log"
    )
  bound = special.ndtr(np.minimum(log.radius, cap) / sigma)
  # k solves P(Binomial(n, bound) >= k) = alpha; bdtrik does so for real k.
  counts = np.rint(special.bdtrik(1.0 - alpha, n, bound) + 1.0)
  counts = np.where(log.radius >= cap, n, np.clip(counts, 0, n))
  return np.where(log.predict == bounds.ABSTAIN, bounds.ABSTAIN, counts).astype(np.int64)


def convert_log(
  log: CertifyLog,
  *,
  sigma: float | int,
  n_from: int,
  n_to: int,
  alpha: float,
  rng: np.random.Generator,
  alpha_from: float | None = None,
) -> CertifyLog:
  """Emulates CERTIFY with another number of samples; the results are no certificates.

  Average radii can be compared only at one N: at 100 samples no radius exceeds 1.50 sigma, at
  100,000 none exceeds 3.81 sigma. Each row's p is taken to be k / n_from of `recover_counts`,
  `n_to` new votes are drawn from Binomial(n_to, p), and certified with `alpha`.

  That takes the estimate of p for p. To fewer samples the error is small: the standard error of p
  at N = 100,000 is .0016 at most. To more samples it extrapolates: a row at the cap (k = n_from) is
  taken for one of p = 1 and goes to the new cap, and rows that abstained still abstain. The
  predicted class is kept: selection by `n0` samples is not repeated.

  Guarantees:
    `budget_table_is_met`: published logs at N = 10,000, 1,000 and 100 have the recorded averages.
    `same_key_same_log`: equal generators give equal logs.

  Args:
    log: the rows, of `n_from` samples.
    sigma: noise that they were certified with.
    n_from: samples that they were certified with.
    n_to: samples to emulate.
    alpha: failure probability to emulate.
    rng: for the new votes.
    alpha_from: failure probability that the rows were certified with; None: `alpha`.

  Returns:
    The log at `n_to`, with times of 0, and the settings it was converted from in its header.

  Raises:
    ValueError: as in `recover_counts`.

  Reference: Sun et al., 2024, "Average Certified Radius is a Poor Metric for Randomized Smoothing",
  https://arxiv.org/abs/2410.06895, on what the number of samples does to the average.

  >>> from jax_robust.smoothing.log import make_log
  >>> log = make_log([0], [7], [7], [1.91])
  >>> less = convert_log(
  ...   log, sigma=0.5, n_from=100_000, n_to=1000, alpha=0.001, rng=np.random.default_rng(0)
  ... )
  >>> less.radius.round(4).tolist()
  [1.2316]
  """
  alpha_from = alpha if alpha_from is None else alpha_from
  bounds.check_budget(n=n_to, alpha=alpha)
  counts = recover_counts(log, sigma=sigma, n=n_from, alpha=alpha_from)
  votes = rng.binomial(n_to, np.maximum(counts, 0) / n_from)
  bound = bounds.lower_bound(votes, n_to, alpha=alpha)
  certified = (log.predict != bounds.ABSTAIN) & (bound >= 0.5)
  predict = np.where(certified, log.predict, bounds.ABSTAIN)
  made_from = {"n": n_from, "alpha": alpha_from}
  return log._replace(
    predict=predict,
    radius=np.where(certified, bounds.radius(bound, sigma=sigma), 0.0),
    correct=predict == log.label,
    seconds=np.zeros_like(log.seconds),
    header={**log.header, "sigma": sigma, "n": n_to, "alpha": alpha, "converted_from": made_from},
  )
