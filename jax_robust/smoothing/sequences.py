"""Bounds of a probability that hold at all sample sizes at once, so that one may stop at any."""

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from jax_robust.errors import check_probability
from jax_robust.smoothing.bounds import Counts
from jax_robust.smoothing.noise import CHUNK

_PRIOR = 0.5, 0.5
"""Jeffreys' prior: Beta's parameters for the alternatives. Measured on 500 images of each of 14
published logs and radii 0, 0.25, ..., alpha = .001: a decision takes 4,700 draws on average, and
0.35 % of those of CERTIFY at N = 100,000 are lost. With (1, 1) 4,900 draws; with (1, 1/10)
4,500, but 0.46 % lost; with the prior on both sides of the hypothesis 5,700; with Clopper and
Pearson's bound at 17 looks, each half as late again and at alpha / 17, 5,600."""

_GROWTH = 1.05
"""Votes are looked at when there are a twentieth more draws than at the last look."""

_LARGEST = 9.0  # in units of sigma: 1 - Phi(9) is 1e-19
_POINTS, _ROUNDS = 32, 5

Scores = Float[np.ndarray, "..."] | float


def log_evidence(counts: Counts, totals: Counts, z: Scores) -> Float[np.ndarray, "..."]:
  """The logarithm of the evidence that a success probability is above `Phi(z)`.

  With p = Phi(z), k successes among the first n draws, and Jeffreys' prior pi cut to (p, 1),

      M_n = integral of (q / p)^k ((1 - q) / (1 - p))^(n - k) over pi(q | q > p),

  a mixture of likelihood ratios. As a function of n it is a martingale if the probability is p, and
  a supermartingale if it is less, since each factor's mean is at most 1. By Ville's inequality, if
  the probability is at most p then P(M_n >= 1 / alpha for some n) <= alpha: to conclude from
  M_n >= 1 / alpha that the probability is more than p, at any n, however chosen, is wrong with
  probability at most alpha.

  Guarantees:
    `evidence_is_a_martingale`: its mean after one more draw is what it was.
    `evidence_falls_with_the_hypothesis`: where it is 2 or more, it is larger for smaller z.
    `evidence_rarely_misleads`: looked at after every draw, it ever reaches 1 / alpha with
      probability at most alpha.

  Args:
    counts: k.
    totals: n, at least 0.
    z: quantile of the normal; an array of the same shape, or one that NumPy can broadcast.

  Returns:
    log M_n.

  Reference: Ville, 1939, "Étude critique de la notion de collectif"; Robbins, 1970, "Statistical
  methods related to the law of the iterated logarithm" (mixtures); Howard, Ramdas, McAuliffe and
  Sekhon, 2021, "Time-uniform, nonparametric, nonasymptotic confidence sequences" (one-sided
  beta-binomial mixture), https://arxiv.org/abs/1810.08240.

  >>> log_evidence(np.array([0, 60, 100]), np.array([0, 100, 100]), 0.0).round(1).tolist()
  [0.0, 0.2, 67.1]
  """
  k, m = np.asarray(counts, np.float64), np.asarray(totals, np.float64) - counts
  a, b = _PRIOR
  miss = special.ndtr(-np.asarray(z, np.float64))  # 1 - p without cancellation
  with np.errstate(divide="ignore"):
    posterior = np.log(special.betainc(m + b, k + a, miss)) + special.betaln(m + b, k + a)
  prior = np.log(special.betainc(b, a, miss)) + special.betaln(b, a)
  return np.asarray(posterior - prior - k * special.log_ndtr(z) - m * special.log_ndtr(-1 * z))


def lower_sequence(counts: Counts, totals: Counts, *, alpha: float) -> Float[np.ndarray, "..."]:
  """The lower ends z_n of a confidence sequence, which holds for all n at once.

  With probability at least 1 - alpha, the success probability is at least `Phi(z_n)` for every n.
  z_n is the largest z all below which have `log_evidence >= log(1 / alpha)`, rounded down by less
  than 1e-6.

  Guarantees:
    `sequence_covers_at_all_times`: max z_n exceeds the true one with probability at most alpha.

  Args:
    counts: successes, `[...]`.
    totals: draws, at least 0.
    alpha: of all n together, at most 1/2.

  Returns:
    z_n, in [-9, 9), or -inf where nothing is known. `sigma * z_n`, where positive, is a radius.

  Raises:
    ValueError: alpha out of range.

  >>> lower_sequence(np.array([0, 90, 900]), np.array([100, 100, 1000]), alpha=0.001).round(2)
  array([-inf, 0.63, 1.06])
  """
  check_probability(alpha=alpha)
  if alpha > 0.5:
    raise ValueError(f"alpha={alpha}: expected at most 1/2, where the sequence is proved to cover")
  counts, totals = np.broadcast_arrays(np.asarray(counts), np.asarray(totals))
  enough, ends = -np.log(alpha), np.linspace(0.0, 1.0, _POINTS + 1)
  low, width = np.full(counts.shape, -_LARGEST), 2 * _LARGEST
  is_known = log_evidence(counts, totals, -_LARGEST) >= enough
  for _ in range(_ROUNDS):
    points = low[..., None] + width * ends[1:-1]
    is_below = log_evidence(counts[..., None], totals[..., None], points) >= enough
    # Up to the first that is not: no gap is jumped, whatever rounding does.
    steps = np.logical_and.accumulate(is_below, axis=-1).sum(axis=-1)
    low, width = low + steps * (width / _POINTS), width / _POINTS
  return np.where(is_known, low, -np.inf)


def upper_sequence(counts: Counts, totals: Counts, *, alpha: float) -> Float[np.ndarray, "..."]:
  """The upper ends of a confidence sequence: `lower_sequence` of the failures, mirrored.

  >>> upper_sequence(np.array([100, 900]), np.array([100, 1000]), alpha=0.001).round(2)
  array([ inf, 1.54])
  """
  return np.asarray(-lower_sequence(np.asarray(totals) - counts, totals, alpha=alpha))


def look_totals(n: int) -> Int[np.ndarray, " m"]:
  """Numbers of draws after which a sequential test looks at the votes: whole chunks, n the last.

  >>> look_totals(5000)[:3].tolist(), look_totals(5000)[-3:].tolist(), len(look_totals(100_000))
  ([100, 200, 300], [4400, 4700, 5000], 93)
  """
  totals = [min(CHUNK, n)]
  while totals[-1] < n:
    grown = int(np.ceil(totals[-1] * _GROWTH / CHUNK)) * CHUNK
    totals.append(min(max(grown, totals[-1] + CHUNK), n))
  return np.array(totals)
