"""Sequential tests: error rates at all times, few draws, decisions that depend on one image."""

import functools

import numpy as np
import pytest
import voters
from scipy import special, stats
from voters import KEY

from jax_robust import smoothing
from jax_robust.smoothing import adaptive

LOOKS = smoothing.look_totals(100_000)


@pytest.mark.parametrize("z", [-1.0, 0.0, 0.5, 2.0, 3.5])
def test_evidence_is_a_martingale(z):
  """Its mean after one more draw, by the number of successes; less if the probability is less."""
  p = special.ndtr(z)
  for n in (0, 1, 7, 100, 2000):
    k = np.unique(np.linspace(0, n, 60).astype(int))
    now = smoothing.log_evidence(k, n, z)
    more, less = smoothing.log_evidence(k + 1, n + 1, z), smoothing.log_evidence(k, n + 1, z)
    after = np.logaddexp(np.log(p) + more, np.log1p(-p) + less)
    exact = now > -5  # below, SciPy's incomplete beta function may underflow
    assert exact.any()
    np.testing.assert_allclose(after[exact], now[exact], rtol=1e-9, atol=1e-9)
    q = 0.9 * p
    lower = np.logaddexp(np.log(q) + more, np.log1p(-q) + less)
    assert np.all(lower[exact] <= now[exact] + 1e-9)


def test_evidence_falls_with_the_hypothesis():
  z = np.linspace(-8, 8, 1601)
  for n in (1, 2, 10, 100, 5000, 100_000):
    for k in np.unique(np.linspace(0, n, 30).astype(int)):
      evidence = smoothing.log_evidence(k, n, z)
      strong = np.flatnonzero(evidence >= np.log(2))
      np.testing.assert_array_equal(strong, np.arange(len(strong)))
      assert np.all(np.diff(evidence[strong]) < 0)


@pytest.mark.parametrize("z", [0.0, 0.7, 1.6])
def test_evidence_rarely_misleads(z):
  """Looked at after each of 600 draws: the probability that it ever reaches 1 / alpha, exactly."""
  alpha, p, k = 0.05, special.ndtr(z), np.arange(602)
  alive, crossed = np.zeros(602), 0.0
  alive[0] = 1.0
  for n in range(1, 601):
    alive = p * np.roll(alive, 1) + (1 - p) * alive
    over = smoothing.log_evidence(np.minimum(k, n), n, z) >= -np.log(alpha)
    over &= k <= n
    crossed, alive = crossed + alive[over].sum(), np.where(over, 0.0, alive)
  assert crossed <= alpha
  assert crossed > alpha / 10  # a test that never rejects would not be one


def paths(p, num, seed=0, looks=LOOKS):
  """Successes at each look, `[num, m]`."""
  more = np.diff(looks, prepend=0)
  return np.cumsum(np.random.default_rng(seed).binomial(more, p, (num, len(looks))), axis=1)


def assert_rare(flags, alpha):
  """The share of true flags may be alpha."""
  assert stats.binom.sf(flags.sum() - 1, flags.size, alpha) > 1e-4


@pytest.mark.parametrize("p", [0.5, 0.8, 0.99, 0.999])
def test_sequence_covers_at_all_times(p):
  alpha, z = 0.05, special.ndtri(p)
  counts = paths(p, 3000)
  assert_rare((smoothing.log_evidence(counts, LOOKS, z) >= -np.log(alpha)).any(axis=1), alpha)
  few, at = counts[:20, ::8], LOOKS[::8]
  low = smoothing.lower_sequence(few, at, alpha=alpha)
  high = smoothing.upper_sequence(few, at, alpha=alpha)
  assert np.all(low[:, -1] < high[:, -1]) and np.all(high[:, -1] - low[:, -1] < 0.3)
  assert np.mean((low <= z).all(axis=1) & (z <= high).all(axis=1)) >= 0.8
  # The end is where the evidence is 1 / alpha, on its lower side.
  known = np.isfinite(low)
  k, n = few[known], np.broadcast_to(at, few.shape)[known]
  assert np.all(smoothing.log_evidence(k, n, low[known]) >= -np.log(alpha))
  assert np.all(smoothing.log_evidence(k, n, low[known] + 1e-6) < -np.log(alpha))


def test_sequence_ends():
  low = smoothing.lower_sequence(np.array([0, 0, 100, 1]), np.array([0, 100, 100, 1]), alpha=0.001)
  assert np.isneginf(low[:2]).all() and 1.2 < low[2] < special.ndtri(0.001**0.01)
  assert low[3] < special.ndtri(0.001)  # what a single draw tells, and Clopper and Pearson would
  high = smoothing.upper_sequence(np.array([0, 100]), 100, alpha=0.001)
  assert high[0] == -low[2] and np.isposinf(high[1])
  with pytest.raises(ValueError, match="alpha=0.6: expected at most 1/2"):
    smoothing.lower_sequence(1, 2, alpha=0.6)


def follow(plan, counts, looks):
  """The result of a plan for one image whose class has `counts` of the draws at each look."""
  assert next(plan) == {smoothing.SELECTION: 100, smoothing.ESTIMATION: looks[0]}
  for i, (count, total) in enumerate(zip(counts, looks, strict=True)):
    try:
      wanted = plan.send(np.array([[1, 99], [total - count, count], [0, 0]]))
    except StopIteration as end:
      return end.value
    assert wanted[smoothing.ESTIMATION] == looks[i + 1]
  raise AssertionError("it wants more draws than n")


@pytest.mark.parametrize("last", [3000, 100_000])
def test_no_radius_is_certified_wrongly(last):
  """Simulated models, most of whose radii are as near to a false one as can be."""
  alpha, futility = 0.05, 1e-6  # who gives up late errs most
  looks, scores = smoothing.look_totals(last), np.array([0.0, 0.3, 0.6, 0.9, 1.2])
  truth = np.random.default_rng(1).uniform(-0.3, 1.3, 400)
  truth[50:] = scores[np.arange(350) % 5] - 1e-9
  counts = paths(special.ndtr(truth)[:, None], 400, looks=looks)
  k, n, z = counts[..., None], looks[:, None], scores
  yes = smoothing.log_evidence(k, n, z) >= -np.log(alpha)
  no = smoothing.log_evidence(n - k, n, -z) >= -np.log(futility)
  no |= smoothing.log_evidence(k + last - n, last, z) < -np.log(alpha)
  first = np.argmax(yes | no, axis=1)
  certified = np.take_along_axis(yes, first[:, None], axis=1)[:, 0]
  assert_rare(np.any(certified & (scores > truth[:, None]), axis=1), alpha)
  assert np.all(np.diff(certified.astype(int), axis=1) <= 0)
  lost = ~certified[scores < truth[:, None] - 0.2]
  assert lost.mean() < (0.1 if last == 100_000 else 0.5)
  for i in range(0, 400, 8):
    plan = adaptive.decide(scores, n0=100, n=last, alpha=alpha, futility=futility)
    found = follow(plan, counts[i], looks)
    np.testing.assert_array_equal(found.certified, certified[i])
    np.testing.assert_array_equal(found.num_draws, looks[first[i]])
    assert found.label == (1 if certified[i].any() else smoothing.ABSTAIN)


def test_radius_holds_whenever_it_stops():
  """For tolerances of all sizes, as the user may choose, and where draws run out."""
  rng, widths = np.random.default_rng(2), []
  # The lower end is above z at some look if and only if the evidence is there.
  z = rng.uniform(-0.2, 2, 2000)
  counts = paths(special.ndtr(z)[:, None], 2000)
  evidence = smoothing.log_evidence(counts, LOOKS, z[:, None])
  assert_rare((evidence >= -np.log(0.05)).any(axis=1), 0.05)
  for i in range(50):
    tolerance, last = float(rng.choice([0.5, 0.2, 0.1])), int(rng.choice([900, 10_000]))
    looks = smoothing.look_totals(last)
    counts = paths(special.ndtr(z[i]), 1, i, looks)[0]
    options = {"n0": 100, "n": last, "alpha": 0.05, "futility": 0.05}
    found = follow(adaptive.narrow(tolerance, 0.0, sigma=1.0, **options), counts, looks)
    seen = looks <= found.total
    assert found.count == counts[seen][-1]
    low = smoothing.lower_sequence(counts[seen], looks[seen], alpha=0.05).max()
    assert found.lower_bound == special.ndtr(low) and found.radius == pytest.approx(max(low, 0))
    if found.total < last:
      widths.append(found.upper_radius - max(low, 0) <= tolerance)
  assert len(widths) > 10 and np.all(widths)


def published_probabilities(log, sigma):
  """p_A of every 20th image of a log, from its radius; of an abstention, below 1/2."""
  rows = log.idx % 20 == 0
  low = special.ndtr(log.radius[rows] / sigma)
  k = np.arange(50_000, 100_001)
  p = k[np.searchsorted(smoothing.lower_bound(k, 100_000, alpha=0.001), low)[:] - 1] / 1e5
  p[low >= smoothing.lower_bound(100_000, 100_000, alpha=0.001) - 1e-6] = 1.0
  return np.where(log.predict[rows] < 0, 0.45, p)


@pytest.mark.parametrize(
  ("name", "sigma"), [("mnist_gaussian_sigma0.50", 0.5), ("mnist_smoothmix_sigma0.25", 0.25)]
)
def test_decisions_take_ten_times_fewer_draws(published_log, name, sigma):
  """Over 500 images and the grid of radii, against CERTIFY at N = 100,000 on the same draws."""
  p = published_probabilities(published_log(name), sigma)
  assert len(p) == 500
  counts = paths(p[:, None], 500)
  radii = np.arange(0, smoothing.max_radius(sigma=sigma, n=100_000, alpha=0.001), 0.25)
  low = smoothing.radius(smoothing.lower_bound(counts[:, -1], 100_000, alpha=0.001), sigma=sigma)
  draws, changed = [], []
  for radius in radii:
    z = radius / sigma
    yes = smoothing.log_evidence(counts, LOOKS, z) >= np.log(1000)
    no = smoothing.log_evidence(LOOKS - counts, LOOKS, -z) >= np.log(1000)
    no |= smoothing.log_evidence(counts + LOOKS[-1] - LOOKS, LOOKS[-1], z) < np.log(1000)
    first = np.argmax(yes | no, axis=1)
    draws.append(LOOKS[first])
    fixed = (low >= radius) & (smoothing.lower_bound(counts[:, -1], 100_000, alpha=0.001) >= 0.5)
    changed.append(yes[np.arange(500), first] != fixed)
  assert np.mean(draws) < 100_000 / 10
  assert np.mean(changed) < 0.01


RADII = (0.0, 0.05, 0.1, 0.2)
OPTIONS = {"sigma": 0.2, "n": 5050}


@functools.cache
def sampler(batch_size=1000, noise="gaussian"):
  return smoothing.Sampler(
    voters.linear, image_shape=voters.SHAPE, batch_size=batch_size, noise=noise
  )


def at(x, radii=RADII, model=None, **options):
  """Decisions at the radii."""
  return smoothing.certify_at(model or sampler(), x, KEY, radii, **OPTIONS, **options)


def within(x, tolerance, model=None):
  """Radii to within a tolerance."""
  return smoothing.certify_within(model or sampler(), x, KEY, tolerance=tolerance, **OPTIONS)


@functools.cache
def decisions():
  """The decisions for 40 images."""
  return at(voters.images(40))


@pytest.mark.thorough
def test_decisions_depend_on_the_image_only():
  x, whole = voters.images(40), decisions()
  assert whole.certified.any() and (whole.label == -1).any()
  assert len(np.unique(whole.num_draws)) > 8 and whole.num_draws.max() <= 5050
  order = np.array([31, 4, 17])
  for batch_size in (300, 3000):
    some = at(x[order], model=sampler(batch_size), ids=order)
    for got, wanted in zip(some, whole, strict=True):
      np.testing.assert_array_equal(got, wanted[order])
  for got, wanted in zip(at(x, model=sampler(300)), whole, strict=True):
    np.testing.assert_array_equal(got, wanted)


def test_draws_are_those_of_certify():
  x = voters.images(8)
  found = within(x, 0.05)
  assert len(np.unique(found.total)) > 2
  for place in range(8):
    options = {**OPTIONS, "n": int(found.total[place]), "ids": np.array([place])}
    fixed = smoothing.certify_images(sampler(), x[place : place + 1], KEY, **options)
    assert fixed.count[0] == found.count[place]
    assert fixed.radius[0] >= found.radius[place]  # optional stopping has its price
    assert fixed.label[0] == found.label[place] or found.label[place] == -1
  done = found.total < 5050
  assert done.any() and np.all((found.upper_radius - found.radius)[done] <= 0.05 + 1e-12)
  assert np.all(found.upper_radius >= found.radius)


def test_radii_and_interval_agree():
  found = within(voters.images(40)[:20], 0.02)
  certified = decisions().certified[:20]
  both = [found.radius >= r + 0.05 for r in RADII], [found.upper_radius < r for r in RADII]
  assert certified[np.transpose(both[0]) & (found.label >= 0)[:, None]].all()
  assert not certified[np.transpose(both[1])].any()


def test_images_come_out_as_they_are_finished():
  found = smoothing.each_decision(sampler(300), voters.images(40), KEY, RADII, **OPTIONS)
  places = [place for place, _, _ in found]
  assert sorted(places) == list(range(40)) and places != sorted(places)


def test_sound_noise_needs_a_little_more():
  x = np.rint(voters.images(3) * 255).astype(np.float32) / 255
  sound = sampler(noise="sound")
  found = at(x, [0.0, 50.0], sound)
  assert not found.certified[:, 1].any() and np.all(found.num_draws[:, 1] == 100)
  np.testing.assert_array_equal(found.certified[:, 0], at(x, [0.0]).certified[:, 0])
  assert within(x, 0.1, sound).radius.max() > 0


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"radii": [-0.1]}, "radii="),
    ({"radii": []}, "radii="),
    ({"radii": [np.inf]}, "radii="),
    ({"futility": 0.0}, "futility=0.0"),
    ({"futility": 0.7}, "futility=0.7"),
    ({"alpha": 0.7}, "alpha=0.7"),
    ({"sigma": 0.0}, "sigma=0.0"),
    ({"n": 5, "n0": 5}, "n=5: too few votes"),
    ({"n": 11, "n0": 5}, "n=11: too few draws"),
  ],
)
def test_errors_name_what_is_wrong(changes, message):
  options = {"radii": [0.1], "sigma": 0.2, "n": 100, **changes}
  with pytest.raises(ValueError, match=message):
    smoothing.certify_at(voters.linear, voters.images(1), KEY, options.pop("radii"), **options)


def test_tolerances_are_positive():
  with pytest.raises(ValueError, match="tolerance=0.0"):
    smoothing.certify_within(voters.linear, voters.images(1), KEY, sigma=0.2, tolerance=0.0)
