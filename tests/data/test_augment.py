"""The step's augmentation: crops, flips, cutout, targets, and what a row may depend on."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from scipy import stats

from jax_robust.data import augment
from jax_robust.data.augment import make_prepare

KEY = jax.random.key(11)


def make_batch(num_rows=32, size=16, channels=3, num_classes=10, seed=0):
  random = np.random.default_rng(seed)
  return {
    "image": jnp.asarray(random.integers(0, 256, (num_rows, size, size, channels), np.uint8)),
    "label": jnp.asarray(random.integers(0, num_classes, num_rows), jnp.int32),
    "generated": jnp.asarray(np.arange(num_rows) % 3 != 0),
    "row": jnp.arange(num_rows, dtype=jnp.int32),
  }


def take(batch, rows):
  return {name: np.asarray(value)[rows] for name, value in batch.items()}


def assert_same(one, other):
  assert set(one) == set(other) == {"image", "target", "label", "row", "generated"}
  for name in one:
    np.testing.assert_array_equal(one[name], other[name], err_msg=name)


CONFIGS = {
  "rich": {"policy": "autoaugment", "cutout": 5, "label_smoothing": 0.1},
  "cutmix": {"cutmix": True, "group_size": 4, "label_smoothing": 0.1, "cutout": 5},
  "mixup": {"mixup_alpha": 0.4, "group_size": 4},
}


@functools.cache
def jitted(config):
  """One jitted function per configuration, so that the tests share its compilations."""
  return jax.jit(make_prepare(num_classes=10, **CONFIGS[config]))


@pytest.mark.thorough
@pytest.mark.parametrize("config", ["rich", "cutmix"])
def test_rows_do_not_depend_on_slicing(config):
  """Eight slices give the rows of the whole batch; without mixing, so does any order."""
  batch, prepare = make_batch(), jitted(config)
  whole = prepare(batch, KEY)
  parts = [prepare(take(batch, slice(start, start + 4)), KEY) for start in range(0, 32, 4)]
  assert_same(whole, jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts))
  if config == "rich":
    order = np.random.default_rng(1).permutation(32)
    assert_same(take(whole, order), prepare(take(batch, order), KEY))


@pytest.mark.thorough
@pytest.mark.parametrize("config", ["rich", "cutmix"])
def test_sharded_jit_moves_no_rows(config):
  """Over eight devices the result is the same, and no row crosses a device."""
  batch, prepare = make_batch(), jitted(config)
  mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  sharded = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
  key = jax.device_put(KEY, NamedSharding(mesh, PartitionSpec()))
  compiled = prepare.lower(sharded, key).compile()
  assert_same(prepare(batch, KEY), compiled(sharded, key))
  collectives = ("all-gather", "all-to-all", "collective-permute", "all-reduce")
  assert not [name for name in collectives if name in compiled.as_text()]


def test_pmap_equals_jit():
  """Eight pmapped devices give the rows of the whole batch."""
  batch = make_batch()
  stacked = jax.tree.map(lambda leaf: leaf.reshape(8, 4, *leaf.shape[1:]), batch)
  mapped = jax.pmap(make_prepare(num_classes=10, **CONFIGS["cutmix"]), in_axes=(0, None))
  result = jax.tree.map(lambda leaf: leaf.reshape(32, *leaf.shape[2:]), mapped(stacked, KEY))
  assert_same(jitted("cutmix")(batch, KEY), result)


@pytest.mark.parametrize("config", CONFIGS)
def test_prepare_is_deterministic_in_rng_and_row(config):
  batch, prepare = make_batch(), jitted(config)
  one = prepare(batch, KEY)
  assert_same(one, prepare(batch, KEY))
  assert np.any(prepare(batch, jax.random.key(12))["image"] != one["image"])
  assert np.any(prepare({**batch, "row": batch["row"] + 8}, KEY)["image"] != one["image"])


def test_jit_equals_eager():
  batch = make_batch()
  one = jitted("cutmix")(batch, KEY)
  eager = make_prepare(num_classes=10, **CONFIGS["cutmix"])(batch, KEY)
  for name in one:
    np.testing.assert_allclose(one[name], eager[name], atol=1e-6, rtol=0, err_msg=name)


def test_prepare_scales_and_keeps_the_rest():
  batch = make_batch()
  plain = jax.jit(make_prepare(num_classes=10, pad=0, flip=False))(batch, KEY)
  assert plain["image"].dtype == plain["target"].dtype == jnp.float32
  np.testing.assert_allclose(plain["image"], np.asarray(batch["image"]) / 255, rtol=2e-7)
  extremes = {**batch, "image": batch["image"].at[:, :8].set(255).at[:, 8:].set(0)}
  image = jax.jit(make_prepare(num_classes=10, pad=0))(extremes, KEY)["image"]
  assert set(np.unique(image)) == {0.0, 1.0}
  for name in ("label", "row", "generated"):
    np.testing.assert_array_equal(plain[name], batch[name])


def test_float64_draws_the_same():
  batch = make_batch(8)
  arguments = {"num_classes": 10, "cutmix": True, "label_smoothing": 0.1, "cutout": 4}
  single = jax.jit(make_prepare(**arguments))(batch, KEY)
  with jax.enable_x64(True):
    double = jax.jit(make_prepare(**arguments, dtype=jnp.float64))(batch, KEY)
    assert double["image"].dtype == double["target"].dtype == jnp.float64
    for name in ("image", "target"):
      np.testing.assert_allclose(single[name], double[name], atol=1e-6)
    assert np.abs(np.asarray(double["target"]).sum(1) - 1).max() < 1e-14


@pytest.mark.parametrize(("num_classes", "on", "off"), [(10, 0.91, 0.01), (100, 0.901, 0.001)])
def test_smoothing_is_the_published_one(num_classes, on, off):
  """Generated rows have .91/.01 for 10 classes, .901/.001 for 100; original rows are one-hot."""
  batch = make_batch(num_classes=num_classes)
  prepare = make_prepare(num_classes=num_classes, label_smoothing=0.1, pad=0, flip=False)
  target = np.asarray(prepare(batch, KEY)["target"])
  one_hot = np.eye(num_classes)[batch["label"]]
  generated = np.asarray(batch["generated"])
  np.testing.assert_allclose(target[generated], np.where(one_hot, on, off)[generated], atol=1e-7)
  np.testing.assert_array_equal(target[~generated], one_hot[~generated])


def test_smoothing_scopes():
  batch = make_batch()

  def smoothed(scope):
    prepare = make_prepare(
      num_classes=10, label_smoothing=0.2, smoothing_scope=scope, pad=0, flip=False
    )
    return np.asarray(prepare(batch, KEY)["target"]).max(1) < 1

  np.testing.assert_array_equal(smoothed("generated"), batch["generated"])
  assert np.all(smoothed("all")) and not np.any(smoothed("none"))


@pytest.mark.parametrize("config", CONFIGS)
def test_targets_sum_to_one(config):
  batch = make_batch()
  for seed in range(5):
    target = np.asarray(jitted(config)(batch, jax.random.key(seed))["target"])
    np.testing.assert_allclose(target.sum(1), 1, atol=1e-6)
    assert np.all(target >= 0)


def _coordinates(size):
  """An image whose two channels are the row and the column, from 1."""
  y, x = np.mgrid[1 : size + 1, 1 : size + 1]
  return np.stack([y, x], -1).astype(np.uint8)


def _crops(num, size=12, **arguments):
  """(results, top, left, flipped) of many crops, decoded from the central pixels."""
  keys = jax.random.split(KEY, num)
  images = jnp.broadcast_to(_coordinates(size), (num, size, size, 2))
  crop = jax.jit(partial(augment.crop_and_flip, pad=4, **arguments))
  result = np.asarray(crop(images, keys)).astype(int)
  middle = size // 2
  flipped = result[:, middle, middle, 1] < result[:, middle, middle - 1, 1]
  top = result[:, middle, 0:size, 0].max(1) - middle + 3
  column = np.where(flipped, size - 1 - middle, middle)
  return result, top, result[:, middle, middle, 1] - column + 3, flipped


def test_crop_offsets_are_uniform():
  """81 offsets, equally likely, each an exact crop of the zero-padded image."""
  result, top, left, flipped = _crops(8100, flip=True)
  counts = np.bincount(9 * top + left, minlength=81)
  assert counts.shape == (81,) and stats.chisquare(counts).pvalue > 1e-4
  padded = np.pad(_coordinates(12), ((4, 4), (4, 4), (0, 0)))
  for row in range(300):
    window = padded[top[row] : top[row] + 12, left[row] : left[row] + 12]
    np.testing.assert_array_equal(result[row], window[:, ::-1] if flipped[row] else window)


def test_flips_are_fair():
  """One half, independent of the offset; none where flips are off."""
  _, _, left, flipped = _crops(8100, flip=True)
  assert stats.binomtest(int(flipped.sum()), 8100, 0.5).pvalue > 1e-4
  table = [np.bincount(left[flipped == side], minlength=9) for side in (False, True)]
  assert stats.chi2_contingency(table).pvalue > 1e-4
  assert not np.any(_crops(500, flip=False)[3])


def test_cutout_centres_are_uniform():
  """Zeros form a clipped square of the given side; its 144 centres are equally likely."""
  num = 7200
  images = jnp.full((num, 12, 12, 1), 9, jnp.uint8)
  cut = jax.jit(partial(augment.cut_out, size=5))(images, jax.random.split(KEY, num))
  holes = np.asarray(cut)[..., 0] == 0
  y, x = np.mgrid[:12, :12]
  squares = {
    ((y >= i - 2) & (y <= i + 2) & (x >= j - 2) & (x <= j + 2)).tobytes(): 12 * i + j
    for i in range(12)
    for j in range(12)
  }
  assert len(squares) == 144
  counts = np.bincount([squares[hole.tobytes()] for hole in holes], minlength=144)
  assert stats.chisquare(counts).pvalue > 1e-4


def test_the_draws_of_a_row_do_not_share_keys():
  """Cutout's place is independent of the crop's offset."""
  size = 8
  images = jnp.broadcast_to(_coordinates(size), (3000, size, size, 2))
  batch = {
    "image": jnp.concatenate([images, jnp.zeros((3000, size, size, 1), jnp.uint8)], -1),
    "label": jnp.zeros(3000, jnp.int32),
    "generated": jnp.zeros(3000, bool),
    "row": jnp.arange(3000, dtype=jnp.int32),
  }
  run = partial(make_prepare, num_classes=2, pad=1, flip=False)
  plain = np.asarray(jax.jit(run())(batch, KEY)["image"])
  holed = np.asarray(jax.jit(run(cutout=1))(batch, KEY)["image"])
  top = np.rint(plain[:, 4, 4, 0] * 255).astype(int) - 4
  place = np.any(plain != holed, axis=(2, 3)).argmax(1)  # its row; 0 also where it hit the padding
  inside = np.any(plain != holed, axis=(1, 2, 3)) & (place > 0) & (place < 7)
  table = [np.bincount(place[inside & (top == t)], minlength=7)[1:] for t in range(3)]
  assert inside.sum() > 1500 and stats.chi2_contingency(table).pvalue > 1e-4


def test_cutmix_shares_one_box_with_rows_of_the_same_step():
  """CutMix' key is the step's: renumbered rows meet the same box and partners."""
  batch = make_batch(8)
  prepare = jax.jit(make_prepare(num_classes=10, pad=0, flip=False, cutmix=True))
  one = prepare(batch, KEY)
  other = prepare({**batch, "row": batch["row"] + 100}, KEY)
  np.testing.assert_array_equal(one["image"], other["image"])
  assert np.any(np.asarray(one["image"]) != np.asarray(batch["image"], np.float32) / 255)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"smoothing_scope": "generate"}, "smoothing_scope='generate'.*did you mean 'generated'"),
    ({"label_smoothing": 1.0}, r"label_smoothing=1.0: expected a value in \[0, 1\)"),
    ({"label_smoothing": -0.1}, "label_smoothing=-0.1"),
    ({"policy": "randaugmnt"}, "did you mean 'randaugment'"),
    ({"mixup_alpha": -0.2}, "mixup_alpha=-0.2"),
    ({"cutmix_alpha": 0.0}, "cutmix_alpha=0.0.*above 0"),
    ({"cutmix_beta": 0.0}, "cutmix_beta=0.0.*above 0"),
    ({"cutmix": True, "mixup_alpha": 0.2}, "at most one of the two"),
    ({"group_size": 0}, "group_size=0"),
    ({"cutout": -1}, "cutout=-1"),
    ({"pad": -1}, "pad=-1"),
    ({"num_classes": 0}, "num_classes=0"),
  ],
)
def test_config_errors_name_the_argument(arguments, message):
  with pytest.raises(ValueError, match=message):
    make_prepare(**{"num_classes": 10, **arguments})


def test_batch_errors_name_the_argument():
  batch = make_batch(8)
  with pytest.raises(ValueError, match="group_size=3: expected a divisor of the batch's 8 rows"):
    make_prepare(num_classes=10, cutmix=True, group_size=3)(batch, KEY)
  with pytest.raises(ValueError, match=r"expected uint8 \[b,h,w,c\]"):
    make_prepare(num_classes=10)({**batch, "image": batch["image"] / 255}, KEY)
  with pytest.raises(TypeError, match="mixup_alfa"):
    make_prepare(num_classes=10, mixup_alfa=0.2)
