"""Duplicates: exact ones by their pixels, near ones by a distance, counted by hand."""

import numpy as np
import pytest
from rows import assert_all_refused

from jax_robust.data import convert
from jax_robust.image_sets import duplicates
from jax_robust.image_sets.duplicates import ALONE

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 8, 12, 3), np.uint8)


def test_equal_pixels_have_equal_digests_and_others_have_not():
  images = IMAGES[[0, 1, 0, 2, 1, 0]].copy()
  images[5, 3, 3, 1] ^= 1
  found = duplicates.exact_within(duplicates.pixel_digests(images))
  assert found.of.tolist() == [ALONE, ALONE, 0, ALONE, 1, ALONE]
  np.testing.assert_array_equal(found.distance, [np.nan, np.nan, 0, np.nan, 0, np.nan])
  digests = duplicates.pixel_digests(IMAGES)
  against = duplicates.exact_against(digests[[4, 0, 7]], digests[[9, 7, 4, 7]])
  assert against.of.tolist() == [2, ALONE, 1] and against.is_duplicate.tolist() == [
    True,
    False,
    True,
  ]


def test_distance_is_rms():
  grey = np.full((2, 20, 30, 3), 100, np.uint8)
  grey[1] += 51
  one, two = duplicates.thumbnails(grey)
  assert np.linalg.norm(one - two) == pytest.approx(51 / 255, rel=1e-5)


def test_a_thumbnail_is_the_mean_over_the_area_of_each_pixel():
  image = RNG.integers(0, 256, (1, 16, 24, 1), np.uint8)
  means = (image[0, :, :, 0] / 255).reshape(8, 2, 8, 3).mean((1, 3))
  found = duplicates.thumbnails(image).reshape(8, 8) * 8
  np.testing.assert_allclose(found, means, rtol=1e-5)
  uneven = duplicates.thumbnails(image[:, :5, :3], side=2).reshape(2, 2) * 2
  row, column = np.array([1, 1, 0.5, 0, 0]) / 2.5, np.array([1, 0.5, 0]) / 1.5
  assert uneven[0, 0] == pytest.approx(row @ (image[0, :5, :3, 0] / 255) @ column, rel=1e-5)
  same = duplicates.thumbnails(image[:, :4, :4]).reshape(4, 4) * 4
  np.testing.assert_allclose(same, image[0, :4, :4, 0] / 255, rtol=1e-5)


def by_hand(points, distance):
  """All pairs, and the rows that an earlier one that stays leaves out."""
  far = np.linalg.norm(points[:, None] - points[None], axis=-1)
  near = far <= distance
  stays: list[int] = []
  of = np.full(len(points), ALONE)
  for row in range(len(points)):
    others = [other for other in stays if near[row, other]]
    if others:
      of[row] = min(others, key=lambda other: far[row, other])
    else:
      stays.append(row)
  return np.argwhere(np.triu(near, 1)), of


@pytest.mark.parametrize("distance", [0.02, 0.1, 0.3])
def test_no_two_that_stay_are_near(distance):
  """Also where an image has more neighbours than one search looks at, or equal ones."""
  points = RNG.random((150, 2)).astype(np.float32)
  points[100:130] = points[0] + RNG.normal(size=(30, 2), scale=1e-3)
  points[130:] = points[50]
  pairs = duplicates.near_pairs(points, distance)
  expected, of = by_hand(points.astype(np.float64), distance)
  np.testing.assert_array_equal(np.stack([pairs.first, pairs.second], 1), expected)
  found = duplicates.near_within(150, pairs)
  np.testing.assert_array_equal(found.of, of)
  left, there = np.flatnonzero(found.is_duplicate), found.of[found.is_duplicate]
  np.testing.assert_allclose(
    found.distance[left], np.linalg.norm(points[left] - points[there], axis=1), atol=1e-6
  )


def test_near_ones_of_a_reference():
  found = duplicates.near_against([[0.0], [3.0]], [[9.0], [3.2], [3.1]], 0.15)
  assert found.of.tolist() == [ALONE, 2] and found.distance[1] == pytest.approx(0.1)


def test_recompressed_and_shifted_images_are_near_and_others_are_not():
  """Smooth images: one with noise of two grey levels, one shifted by a pixel, one of its own."""
  smooth = RNG.random((2, 5, 5, 3))
  images = np.kron(smooth, np.ones((1, 8, 8, 1)))[:, 4:36, 4:36]
  noisy = images[0] + RNG.normal(size=images[0].shape, scale=2 / 255)
  shifted = np.roll(images[0], 1, axis=0)
  every = np.clip(255 * np.stack([images[0], noisy, shifted, images[1]]), 0, 255).astype(np.uint8)
  rows = duplicates.thumbnails(every)
  to_first = np.linalg.norm(rows - rows[0], axis=1)
  assert to_first[1] < duplicates.DISTANCE < to_first[3] and to_first[2] < to_first[3] / 3


def test_what_is_no_image_or_distance_is_refused(monkeypatch):
  monkeypatch.setattr(duplicates, "MOST_NEIGHBOURS", 16)
  assert_all_refused(
    {
      "floats": (lambda: duplicates.pixel_digests(IMAGES / 255), "float64.*expected uint8"),
      "one": (lambda: duplicates.thumbnails(IMAGES[0]), "expected uint8"),
      "side": (lambda: duplicates.thumbnails(IMAGES, side=0), "side=0"),
      "digests": (lambda: duplicates.exact_within(np.zeros((2, 3))), "expected uint64"),
      "zero": (lambda: duplicates.near_pairs(np.zeros((2, 3)), 0.0), "distance=0"),
      "all": (lambda: duplicates.near_pairs(RNG.random((99, 2)), 5.0), "choose a smaller one"),
      "other": (lambda: duplicates.near_against([[0.0]], [[0.0, 1.0]]), "features an image"),
    },
    lambda call: call(),
  )


@pytest.mark.slow
def test_the_known_duplicates_of_cifake_are_found(shared):
  """920 pairs of equal files in train, and 378 of test that are also in train."""
  train, test = (
    np.concatenate([
      duplicates.pixel_digests(images)
      for images, _ in convert.open_source(shared / "data" / f"cifake_fake_{name}.npz").batches()
    ])
    for name in ("train", "test")
  )  # fmt: skip
  assert duplicates.exact_within(train).is_duplicate.sum() == 920
  assert duplicates.exact_against(test, train).is_duplicate.sum() == 378
