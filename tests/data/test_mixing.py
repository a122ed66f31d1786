"""CutMix and mixup: laws, labels, groups."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jax_robust.data import mixing

HEIGHT, WIDTH = 16, 24


def make_batch(num_rows, num_classes=None):
  """Every image is constant and of its own value; every row is a class of its own."""
  values = (jnp.arange(num_rows, dtype=jnp.float32) + 1) / num_rows
  images = jnp.broadcast_to(values[:, None, None, None], (num_rows, HEIGHT, WIDTH, 1))
  return images, jax.nn.one_hot(jnp.arange(num_rows), num_classes or num_rows)


def test_cutmix_labels_follow_the_pixels():
  """A row's target holds the share of its own pixels and the share of its partner's."""
  images, targets = make_batch(8)
  run = jax.jit(jax.vmap(partial(mixing.cutmix, images, targets)))
  mixed, soft = map(np.asarray, run(jax.random.split(jax.random.key(0), 60)))
  owner = np.rint(mixed[..., 0] * 8).astype(int) - 1
  shares = np.stack([np.mean(owner == k, axis=(2, 3)) for k in range(8)], axis=-1)
  np.testing.assert_allclose(soft, shares, atol=1e-6)
  np.testing.assert_allclose(soft.sum(-1), 1, atol=1e-6)
  assert np.any((shares > 0.05) & (shares < 0.95))


def test_cutmix_has_one_box_and_one_permutation_per_step():
  images, targets = make_batch(8)
  mix = jax.jit(mixing.cutmix)
  for seed in range(12):
    mixed, soft = mix(images, targets, jax.random.key(seed))
    changed = np.asarray(mixed != images)[..., 0]
    moved = np.any(changed, axis=(1, 2))
    assert np.all(changed[moved] == changed[moved][:1])
    box = changed[moved][0] if moved.any() else np.zeros((HEIGHT, WIDTH), bool)
    rows, columns = np.any(box, 1), np.any(box, 0)
    assert np.array_equal(box, rows[:, None] & columns[None, :])  # a rectangle
    for line in (rows, columns):
      assert np.sum(np.diff(line.astype(int)) == 1) <= 1  # without gaps
    partner = np.asarray(soft - jnp.eye(8) * soft.diagonal()[:, None]).argmax(1)
    assert len(set(partner[moved])) == moved.sum()


def _half_law(length):
  """P(half side = s) under λ ~ Beta(1, 1), for a side of floor(length sqrt(U)) pixels."""
  sides = np.arange(length + 1)
  chances = np.minimum((sides + 1) / length, 1) ** 2 - (sides / length) ** 2
  return np.bincount(sides // 2, weights=chances)


def test_cutmix_box_has_its_law():
  """Mean area by exact enumeration, histogram of the clipped height, uniform centre."""
  draw = jax.jit(jax.vmap(partial(mixing.cutmix_box, height=16, width=16)))
  boxes = draw(jax.random.split(jax.random.key(1), 20000))
  top, bottom, left, right = map(np.asarray, boxes)
  assert top.min() >= 0 and bottom.max() <= 16 and np.all(top <= bottom) and np.all(left <= right)
  chances, centres = _half_law(16), np.arange(16)
  lengths = np.array(
    [
      np.clip(centres + half, 0, 16) - np.clip(centres - half, 0, 16)
      for half in range(len(chances))
    ]
  )
  mean = np.sum(chances * lengths.mean(1) ** 2)  # given the side, the two centres are independent
  area = (bottom - top) * (right - left)
  assert abs(area.mean() - mean) < 4 * area.std() / np.sqrt(len(area))
  law = np.bincount(lengths.ravel(), weights=np.repeat(chances / 16, 16), minlength=17)
  observed = np.bincount(bottom - top, minlength=17)
  assert stats.chisquare(observed[law > 0], law[law > 0] * len(top)).pvalue > 1e-4
  assert np.all(observed[law == 0] == 0)


def test_cutmix_follows_other_beta_laws():
  """The share of the image that is cut before clipping has mean beta / (alpha + beta)."""
  draw = jax.jit(jax.vmap(partial(mixing.cutmix_box, height=400, width=400, alpha=8.0, beta=2.0)))
  top, bottom, left, right = map(np.asarray, draw(jax.random.split(jax.random.key(2), 4000)))
  whole = (top > 0) & (bottom < 400) & (left > 0) & (right < 400)
  # Given a side a, the box is whole with probability (1 - a)^2; integrated over a^2 ~ Beta(2, 8).
  grid = (np.arange(20000) + 0.5) / 20000
  weight = stats.beta(2, 8).pdf(grid) * (1 - np.sqrt(grid)) ** 2
  mean = np.sum(grid * weight) / np.sum(weight)
  area = ((bottom - top) * (right - left) / 400**2)[whole]
  assert abs(area.mean() - mean) < 4 * area.std() / np.sqrt(whole.sum()) + 1e-3


@pytest.mark.parametrize("mix", [mixing.cutmix, mixing.mixup])
def test_cutmix_groups_act_alike(mix):
  """A group's rows are what they are with the group alone; partners come from the group."""
  images, targets = make_batch(16)
  key = jax.random.key(5)
  mixed, soft = mix(images, targets, key, group_size=4)
  assert np.any(np.asarray(soft) != np.asarray(targets))
  for start in range(0, 16, 4):
    rows = slice(start, start + 4)
    alone, alone_soft = mix(images[rows], targets[rows], key)
    np.testing.assert_array_equal(mixed[rows], alone)
    np.testing.assert_array_equal(soft[rows], alone_soft)
    assert np.all(np.asarray(soft[rows])[:, np.r_[:start, start + 4 : 16]] == 0)


def test_mixup_mixes_images_and_targets_alike():
  images, targets = make_batch(8)
  run = jax.jit(jax.vmap(partial(mixing.mixup, images, targets, alpha=0.4)))
  mixed, soft = map(np.asarray, run(jax.random.split(jax.random.key(3), 2000)))
  np.testing.assert_allclose(soft.sum(-1), 1, atol=1e-6)
  values = np.asarray(images[:, 0, 0, 0])
  np.testing.assert_allclose(mixed[:, :, 3, 5, 0], soft @ values, atol=1e-6)
  assert np.all(np.ptp(mixed, axis=(2, 3, 4)) < 1e-6)
  # λ is what a row that has moved keeps of itself, and the same for all rows that moved.
  kept = soft[:, np.arange(8), np.arange(8)]
  moved = kept < 1 - 1e-6
  share = np.array([row[m][0] for row, m in zip(kept, moved, strict=True) if m.any()])
  spread = max(np.ptp(row[m]) for row, m in zip(kept, moved, strict=True) if m.any())
  assert spread < 1e-6
  inner = share[(share > 0.01) & (share < 0.99)]
  law = stats.beta(0.4, 0.4)
  low, high = law.cdf(0.01), law.cdf(0.99)
  assert stats.kstest(inner, lambda x: (law.cdf(x) - low) / (high - low)).pvalue > 1e-4
  assert len(inner) > 1000


@pytest.mark.parametrize(
  ("mix", "arguments", "message"),
  [
    (mixing.cutmix, {"alpha": 0.0}, "alpha=0.0.*above 0"),
    (mixing.cutmix, {"beta": -1.0}, "beta=-1.0.*above 0"),
    (mixing.mixup, {"alpha": float("nan")}, "alpha=nan"),
    (mixing.cutmix, {"group_size": 3}, "group_size=3: expected a divisor of the batch's 8 rows"),
    (mixing.mixup, {"group_size": 0}, "group_size=0"),
  ],
)
def test_mixing_errors_name_the_argument(mix, arguments, message):
  with pytest.raises(ValueError, match=message):
    mix(*make_batch(8), jax.random.key(0), **arguments)
