"""Logs at another number of samples: recorded averages, and counts that come back."""

import numpy as np
import pytest

from jax_robust.smoothing import bounds, conversion, curves
from jax_robust.smoothing.comparison import select_images
from jax_robust.smoothing.log import make_log

N, ALPHA = 100_000, 0.001

BUDGET = {
  "mnist_smoothmix_eta5_sigma0.50": (0.5, (1.694, 1.466, 1.156, 0.714), None),
  "mnist_smoothmix_onestep_sigma1.00": (1.0, (1.823, 1.732, 1.504, 0.988), None),
  "mnist_gaussian_sigma1.00": (1.0, (1.619, 1.562, 1.396, 0.942), None),
  "cifar10_smoothmix_sigma0.25": (
    0.25, (0.553, 0.485, 0.389, 0.242), (77.0, 76.9, 76.0, 73.6),
  ),
  "cifar10_smoothmix_onestep_sigma0.5": (
    0.5, (0.735, 0.663, 0.545, 0.345), (63.5, 63.2, 62.2, 58.7),
  ),
}  # fmt: skip
"""sigma; average radius, and clean accuracy where recorded, at N = 100,000, 10,000, 1,000, 100."""


def convert(log, n_to, *, sigma, seed=0, **options):
  rng = np.random.default_rng(seed)
  settings = {"sigma": sigma, "n_from": N, "alpha": ALPHA, **options}
  return conversion.convert_log(log, n_to=n_to, rng=rng, **settings)


@pytest.mark.parametrize("name", BUDGET)
def test_budget_table_is_met(published_log, name):
  """Two emulations differ by their draws; some of the recorded ones are of another training run."""
  sigma, averages, clean = BUDGET[name]
  log = published_log(name)
  assert len(log.idx) == 10_000
  run = abs(curves.average_certified_radius(log) - averages[0])  # 0 up to rounding, or .002 or .003
  for i, n_to in enumerate((N, 10_000, 1000, 100)):
    converted = convert(log, n_to, sigma=sigma)
    assert abs(curves.average_certified_radius(converted) - averages[i]) < 0.002 + run, n_to
    cap = bounds.max_radius(sigma=sigma, n=n_to, alpha=ALPHA)
    assert converted.radius.max() <= cap * (1 + 1e-12)
    if clean:
      accuracy = 100 * curves.certified_accuracy(converted, 0.0)[0]
      assert abs(accuracy - clean[i]) < 0.4, n_to


@pytest.mark.parametrize("n", [100, 10_000, N])
def test_counts_come_back(n):
  """Of radii in full every count; of three digits those that three digits tell apart."""
  counts = np.unique(np.linspace(bounds.least_count(n, alpha=ALPHA), n, 3000).astype(int))
  radius = bounds.radius(bounds.lower_bound(counts, n, alpha=ALPHA), sigma=0.5)
  ones = np.ones(len(counts), int)
  log = make_log(range(len(counts)), ones, ones, radius)
  found = conversion.recover_counts(log, sigma=0.5, n=n, alpha=ALPHA)
  np.testing.assert_array_equal(found, counts)
  printed = log._replace(radius=np.array([float(f"{value:.3}") for value in radius]))
  found = conversion.recover_counts(printed, sigma=0.5, n=n, alpha=ALPHA)
  # Half a unit of the last digit (.005 above 1, less below) times the slope of Phi(r / sigma).
  reach = 0.005 * np.exp(-0.5 * (radius / 0.5) ** 2) / (0.5 * np.sqrt(2 * np.pi)) * n
  assert (np.abs(found - counts) <= 1.1 * reach + 1).all()
  assert found[-1] == n


def test_converted_counts_are_binomial():
  """p = .9 exactly: the new votes, seen through their radii, have its mean and variance."""
  ones = np.ones(4000, int)
  radius = float(bounds.radius(bounds.lower_bound(90_000, N, alpha=ALPHA), sigma=1.0))
  log = make_log(range(4000), ones, ones, np.full(4000, radius))
  converted = convert(log, 1000, sigma=1.0)
  votes = conversion.recover_counts(converted, sigma=1.0, n=1000, alpha=ALPHA)
  assert abs(votes.mean() - 900) < 4 * np.sqrt(90 / 4000)
  assert abs(votes.var() / 90 - 1) < 4 * np.sqrt(2 / 4000)


def test_what_stays_and_what_changes():
  log = make_log(
    [0, 1, 2, 3], [7, 7, 7, 7], [7, 3, -1, 7], [1.9, 1.9, 0.0, 0.01], header={"n0": 100}
  )
  less = convert(log, 100, sigma=0.5)
  assert less.idx is log.idx and less.label is log.label
  assert less.predict.tolist() == [7, 3, -1, -1]
  assert less.correct.tolist() == [True, False, False, False]
  assert less.radius[2] == less.radius[3] == 0 and not less.seconds.any()
  assert less.header == {
    "n0": 100, "sigma": 0.5, "n": 100, "alpha": ALPHA, "converted_from": {"n": N, "alpha": ALPHA},
  }  # fmt: skip


def test_another_alpha():
  log = make_log([0], [7], [7], [bounds.max_radius(sigma=1.0, n=1000, alpha=0.01)])
  less = convert(log, 1000, sigma=1.0, n_from=1000, alpha_from=0.01)
  cap = bounds.max_radius(sigma=1.0, n=1000, alpha=ALPHA)
  assert less.radius.item() == pytest.approx(cap, rel=1e-12)


def test_upwards_a_row_at_the_cap_goes_to_the_new_cap():
  log = make_log([0], [7], [7], [bounds.max_radius(sigma=1.0, n=1000, alpha=ALPHA)])
  more = convert(log, N, sigma=1.0, n_from=1000)
  cap = bounds.max_radius(sigma=1.0, n=N, alpha=ALPHA)
  assert more.radius.item() == pytest.approx(cap, rel=1e-12)


def test_same_key_same_log(published_log):
  log = select_images(published_log("cifar10_smoothmix_sigma0.25"), range(0, 10_000, 20))
  first, again, other = (convert(log, 1000, sigma=0.25, seed=seed) for seed in (1, 1, 2))
  assert np.array_equal(first.radius, again.radius) and not np.array_equal(
    first.radius, other.radius
  )


def test_a_log_of_other_settings_is_refused():
  """Some published logs reach 3.91 sigma, which alpha = .001 and N = 100,000 can't give."""
  log = make_log([0, 20], [7, 7], [7, 7], [0.5, 0.977], name="cohen")
  with pytest.raises(
    ValueError, match=r"cohen, image 20: radius=0.977 is above 0.9528.*alpha=0.001"
  ):
    conversion.recover_counts(log, sigma=0.25, n=N, alpha=ALPHA)
  assert conversion.recover_counts(log, sigma=0.25, n=N, alpha=0.01)[1] == N


@pytest.mark.parametrize(
  ("options", "reason"),
  [
    ({"sigma": 0.0}, "sigma=0.0"),
    ({"sigma": 1.0, "alpha": 1.0}, "alpha=1.0"),
    ({"sigma": 1.0, "n_from": 0}, "n=0"),
    ({"sigma": 1.0, "n_to": 5}, "n=5: too few votes"),
  ],
)
def test_bad_arguments_are_named(options, reason):
  log = make_log([0], [7], [7], [0.5])
  with pytest.raises(ValueError, match=reason):
    convert(log, **{"n_to": 1000, **options})
