"""LPIPS' features against its formula, computed step by step in NumPy and SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rows
from narrow_lpips import WIDTHS, made
from scipy import signal

from jax_robust.errors import DataFileError
from jax_robust.image_sets import lpips

SIDE = {"vgg16": 16, "alexnet": 35}


def images(trunk, num=2):
  side = SIDE[trunk]
  return np.random.default_rng(5).uniform(size=(num, side, side, 3)).astype(np.float32)


@functools.cache
def computed(trunk):
  """Features of two images, compiled once for each trunk."""
  weights = lpips.as_weights(made(trunk))
  return np.asarray(jax.jit(functools.partial(lpips.features, weights))(images(trunk)))


def correlate(h, kernel, stride, pad):
  """`[c, h, w]` with `[o, i, k, k]`, as PyTorch's convolution."""
  h = np.pad(h, ((0, 0), (pad, pad), (pad, pad)))
  maps = [sum(signal.correlate2d(a, k, "valid") for a, k in zip(h, each, strict=True))
          for each in kernel]  # fmt: skip
  return np.stack(maps)[:, ::stride, ::stride]


def max_pool(h, size):
  places = [range(0, side - size + 1, 2) for side in h.shape[1:]]
  return np.array([[[c[i : i + size, j : j + size].max() for j in places[1]] for i in places[0]]
                   for c in h])  # fmt: skip


def taps_of(trunk, arrays, image):
  """The taps of one image in float64, by the published structure."""
  plan = lpips.TRUNKS[trunk]
  h, found = (2 * image.astype(np.float64) - 1 - lpips.SHIFT) / lpips.SCALE, []
  h = h.transpose(2, 0, 1)
  for number, layer in enumerate(plan.layers):
    if trunk == "vgg16" and layer in (5, 10, 17, 24):  # after torchvision's poolings 4, 9, 16, 23
      h = max_pool(h, 2)
    if trunk == "alexnet" and layer in (3, 6):  # after 2 and 5
      h = max_pool(h, 3)
    stride, pad = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))[number] if trunk == "alexnet" else (1, 1)
    h = correlate(h, arrays[f"features.{layer}.weight"], stride, pad)
    h = np.maximum(h + arrays[f"features.{layer}.bias"][:, None, None], 0)
    if layer in {"vgg16": (2, 7, 14, 21, 28), "alexnet": (0, 3, 6, 8, 10)}[trunk]:
      found.append(h)
  return found


def distance(trunk, arrays, one, other):
  """LPIPS by its formula."""
  total = 0.0
  pairs = zip(taps_of(trunk, arrays, one), taps_of(trunk, arrays, other), strict=True)
  for number, (a, b) in enumerate(pairs):
    unit = [tap / (np.sqrt((tap**2).sum(0)) + 1e-10) for tap in (a, b)]
    weighted = (unit[0] - unit[1]) ** 2 * arrays[f"lin{number}.model.1.weight"][0]
    total += weighted.sum(0).mean()
  return total


@pytest.mark.parametrize("trunk", ["vgg16", "alexnet"])
def test_squared_distance_is_lpips(trunk):
  found = ((computed(trunk)[0] - computed(trunk)[1]) ** 2).sum()
  assert found == pytest.approx(distance(trunk, made(trunk), *images(trunk)), rel=1e-4)
  assert found > 1e-3


def test_squared_distances_are_kept():
  """By many seeds: no bias, and the deviation that the docstring promises, on features that are."""
  one, other = computed("vgg16")
  difference = jnp.asarray((one - other)[None])
  exact = float((difference**2).sum())
  found = [
    float((lpips.project(difference, num_features=50, seed=seed) ** 2).sum()) / exact
    for seed in range(100)
  ]
  assert abs(np.mean(found) - 1) < 4 * 0.2 / 10 and 0.05 < np.std(found) < 0.25


def test_grey_images_are_colour():
  weights = lpips.as_weights(made("vgg16"))
  grey = images("vgg16")[..., :1]
  shape = jax.eval_shape(functools.partial(lpips.features, weights), grey).shape
  assert shape == computed("vgg16").shape


def test_sizes_are_those_of_the_docstring():
  for trunk, positions, published in (
    ("vgg16", (1024, 256, 64, 16, 4), (64, 128, 256, 512, 512)),
    ("alexnet", (49, 9, 1, 1, 1), (64, 192, 384, 256, 256)),
  ):
    features_of = functools.partial(lpips.features, lpips.as_weights(made(trunk)))
    shape = jax.eval_shape(features_of, np.zeros((1, 32, 32, 3), np.float32)).shape
    widths = [WIDTHS[trunk][number] for number in lpips.TRUNKS[trunk].taps]
    assert shape == (1, np.dot(widths, positions))
    assert f"{np.dot(published, positions):,}" in lpips.features.__doc__


def test_a_file_is_read_and_nothing_unpickled(tmp_path):
  path = tmp_path / "lpips.npz"
  np.savez(path, **made("alexnet"))
  weights = lpips.read_weights(path)
  assert weights.trunk == "alexnet" and weights.kernels[0].shape == (11, 11, 3, 3)
  np.savez(path, **{**made("alexnet"), "features.0.bias": np.array([{}], object)})
  with pytest.raises(DataFileError, match="holds no weights of LPIPS: Object arrays"):
    lpips.read_weights(path)


def test_bad_files(tmp_path):
  path, array = tmp_path / "text.npz", tmp_path / "one.npy"
  path.write_text("no zip")
  np.save(array, np.zeros(3))
  bad = {
    "nothing": (tmp_path / "none.npz", "there is no such file. Save torchvision's"),
    "text": (path, "holds no weights of LPIPS"),
    "one array": (array, "holds no weights of LPIPS: it is one array"),
  }
  rows.assert_all_refused(bad, lpips.read_weights)


def test_bad_weights():
  good = made("alexnet")
  bad = {
    "another net": ({"features.12.weight": good["features.0.weight"]}, "AlexNet's .0, 3, 6, 8, 10"),
    "bias": ({"features.3.bias": np.zeros(9, np.float32)}, r"features.3.bias is float32 \[9\]"),
    "kernel": (
      {"features.3.weight": good["features.3.weight"][:, :2]},
      r"features.3.weight is float32 \[4, 2, 5, 5\]: expected floating-point \[any, 3, 5, 5\]",
    ),
    "integers": ({"features.0.bias": np.zeros(3, int)}, "features.0.bias is int64"),
    "NaN": ({"features.0.bias": np.full(3, np.nan, "f4")}, "features.0.bias holds NaN"),
    "negative": (
      {"lin0.model.1.weight": -good["lin0.model.1.weight"]},
      "lin0.model.1.weight has a weight below 0",
    ),
  }
  rows.assert_all_refused(bad, lambda changes: lpips.as_weights({**good, **changes}))
  del good["lin2.model.1.weight"]
  with pytest.raises(ValueError, match="'lin2.model.1.weight' is missing"):
    lpips.as_weights(good)


def test_bad_images():
  weights = lpips.as_weights(made("alexnet"))
  bad = {
    "bytes": (np.zeros((1, 35, 35, 3), np.uint8), "x has dtype uint8"),
    "two channels": (np.zeros((1, 35, 35, 2), np.float32), "of 1 or 3 channels"),
    "small": (np.zeros((1, 8, 8, 3), np.float32), "images of 8 by 8 are too small for alexnet"),
  }
  rows.assert_all_refused(bad, lambda x: lpips.features(weights, x))
