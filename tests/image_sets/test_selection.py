"""Filters of a labelled set: what each keeps, in closed form, and what it refuses."""

import numpy as np
import pytest
from rows import assert_all_refused

from jax_robust.image_sets import selection

pytestmark = pytest.mark.fast

RNG = np.random.default_rng(0)
LABELS = RNG.permutation(np.repeat([0, 1, 2], [50, 30, 7]))
CONFIDENCE = RNG.random(len(LABELS))


@pytest.mark.parametrize(("share", "counts"), [(0.2, [10, 6, 2]), (1.0, [50, 30, 7]), (0, [0] * 3)])
def test_share_of_every_class(share, counts):
  kept = selection.top_share(LABELS, CONFIDENCE, share)
  assert np.bincount(LABELS[kept], minlength=3).tolist() == counts
  for label in range(3):
    of_class = np.equal(LABELS, label)
    inside, outside = (CONFIDENCE[of_class & mask] for mask in (kept, ~kept))
    assert not (len(inside) and len(outside)) or inside.min() > outside.max()


def test_rounding_errors_keep_no_image_more_and_ties_keep_the_first():
  assert selection.top_share(np.zeros(100, int), np.zeros(100), 0.07).sum() == 7
  kept = selection.top_share(np.zeros(4, int), np.ones(4), 0.5)
  assert kept.tolist() == [True, True, False, False]


@pytest.mark.parametrize(
  ("count", "wanted", "short"), [(0, [7, 7, 7, 0], {3: 7}), (30, [30, 30, 7, 0], {2: 23, 3: 30})]
)
def test_equal_numbers(count, wanted, short):
  found = selection.balance(LABELS, 4, count=count, seed=1)
  assert np.bincount(LABELS[found.kept], minlength=4).tolist() == wanted
  assert found.short == short and found.count == (count or 7)
  other = selection.balance(LABELS, 4, count=count, seed=2)
  assert (found.kept != other.kept).any()


def test_a_random_subset_is_that_of_its_seed_or_all():
  one, two = (selection.random_subset(40, 10, seed=seed) for seed in (0, 1))
  assert one.sum() == two.sum() == 10 and (one != two).any()
  np.testing.assert_array_equal(one, selection.random_subset(40, 10, seed=0))
  assert selection.random_subset(4, 10).all()


def test_clusters_of_blobs_are_found_and_their_gap_is_exact():
  centres = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])
  points = (centres[LABELS] + RNG.normal(size=(len(LABELS), 2))).astype(np.float32)
  fitted = selection.fit_clusters(points, 3, seed=0)
  place = selection.place_among(points, fitted)
  pairs = {*zip(place.cluster.tolist(), LABELS.tolist(), strict=True)}
  assert len(pairs) == 3  # one cluster for each blob
  exact = selection.place_among([[8.0, 0.0], [10.0, 0.0]], centres)
  np.testing.assert_allclose(exact.gap, [4.0, 0.0], atol=1e-12)


def place_of(gap, cluster=None):
  gap = np.asarray(gap, float)
  return selection.Place(np.zeros(len(gap), int) if cluster is None else cluster, gap)


def test_boundary_keeps_the_smallest_gaps_and_others_at_random():
  gap = RNG.random(100)
  kept = selection.by_clusters(place_of(gap), 0.4, boundary_share=0.5)
  assert kept.sum() == 40 and kept[np.argsort(gap)[:20]].all()
  np.testing.assert_array_equal(
    selection.by_clusters(place_of(gap), 0.4, boundary_share=1.0), gap <= np.sort(gap)[39]
  )
  near = selection.by_clusters(place_of(gap), 0.4, boundary_share=0.0)
  assert 12 < near[np.argsort(gap)[:50]].sum() < 28  # at random


def test_spread_takes_equal_numbers_and_what_is_lacking_of_the_others():
  place = place_of(np.zeros(len(LABELS)), LABELS)
  kept = selection.by_clusters(place, 36 / 87, rule="spread")
  assert np.bincount(LABELS[kept]).tolist() == [15, 14, 7]


@pytest.mark.parametrize(
  ("sizes", "total", "quotas"),
  [
    ([3, 3, 3], 4, [2, 1, 1]), ([3, 3, 3], 9, [3, 3, 3]), ([0, 2, 100], 50, [0, 2, 48]),
    ([3, 3], 10, [3, 3]), ([5, 5], 0, [0, 0]),
  ],
)  # fmt: skip
def test_quotas(sizes, total, quotas):
  assert selection.equal_quotas(sizes, total).tolist() == quotas


def test_what_makes_no_sense_is_refused():
  place = place_of([1.0, 2.0])
  assert_all_refused(
    {
      "share": (lambda: selection.top_share([0], [0.5], 1.5), "share=1.5"),
      "lengths": (lambda: selection.top_share([0, 1], [0.5], 0.5), r"shape \[1\]"),
      "nan": (lambda: selection.top_share([0], [np.nan], 0.5), "1 NaN"),
      "floats": (lambda: selection.top_share([0.5], [0.5], 0.5), "expected integers"),
      "empty": (lambda: selection.balance(np.zeros(0, int), 2), "of an image at least"),
      "class": (lambda: selection.balance([0, 2], 2), "outside 0 to 1"),
      "count": (lambda: selection.balance([0], 2, count=-1), "count=-1"),
      "samples": (lambda: selection.random_subset(3, 0), "num_samples=0"),
      "rule": (lambda: selection.by_clusters(place, 0.5, rule="spreed"), "did you mean 'spread'"),
      "boundary": (lambda: selection.by_clusters(place, 0.5, boundary_share=2), "boundary_share=2"),
      "too few": (lambda: selection.fit_clusters(np.zeros((2, 3)), 3), "num_clusters=3"),
      "one": (lambda: selection.place_among(np.zeros((2, 3)), np.zeros((1, 3))), "from two on"),
    },
    lambda call: call(),
  )
