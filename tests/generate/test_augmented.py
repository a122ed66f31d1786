"""Sets of augmented images: each is of its original, and one seed makes one set."""

import numpy as np
import pytest
import rows

from jax_robust.generate.augmented import AUGMENTATIONS, augment_once

NUM = 23  # two groups and a part of one


def made(num=NUM, side=16):
  return np.random.default_rng(0).integers(1, 256, (num, side, side, 3), np.uint8)


@pytest.fixture(scope="module")
def sets():
  """What four augmentations make of the images."""
  return {name: augment_once(made(), name, seed=0)
          for name in ("crop_flip", "cutout", "mixup", "cutmix")}  # fmt: skip


def test_rows_are_their_images(sets):
  images = made()
  cut = sets["cutout"]
  np.testing.assert_array_equal(cut[cut > 0], images[cut > 0])
  assert ((cut == 0).any((1, 2, 3))).all() and 0.05 < (cut == 0).mean() < 0.25
  for one, original in zip(sets["crop_flip"], images, strict=True):
    kept = one[(one > 0).all(-1)]
    assert len(kept) >= 14 * 14
    assert (kept[:, None] == original.reshape(-1, 3)[None]).all(-1).any(1).all()


def test_mixed_images_are_of_their_own_and_one_of_their_ten(sets):
  tens = np.resize(made(), (30, 16, 16, 3)).astype(float).reshape(3, 10, -1)
  for row, (mixed, cut) in enumerate(zip(sets["mixup"], sets["cutmix"], strict=True)):
    ten = tens[row // 10]
    weights = np.linalg.lstsq(ten.T, mixed.reshape(-1).astype(float), rcond=None)[0]
    parts = np.flatnonzero(np.abs(weights) > 0.01)
    assert abs(weights.sum() - 1) < 0.01 and {row % 10} <= {*parts} and len(parts) <= 2
    same = [(cut.reshape(-1) == other).mean() for other in ten]
    assert sum(share > 0.1 for share in same) <= 2 and np.isclose(
      sum(sorted(same)[-2:]), 1, atol=0.1
    )


def test_same_for_one_seed(sets):
  for name in ("cutout", "mixup"):
    np.testing.assert_array_equal(augment_once(made(), name, seed=0), sets[name])
    np.testing.assert_array_equal(augment_once(made()[:20], name, seed=0), sets[name][:20])
    assert (augment_once(made(), name, seed=1) != sets[name]).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if "augment" in name])
def test_policies_change_images(name):
  found = augment_once(made(), name, seed=0)
  assert found.shape == made().shape and (found != made()).any((1, 2, 3)).mean() > 0.4


@pytest.mark.fast
def test_an_unknown_augmentation_is_named():
  bad = {"misspelt": ("cutuot", "augmentation='cutuot': did you mean 'cutout'")}
  rows.assert_all_refused(bad, lambda name: augment_once(made(), name, seed=0))
