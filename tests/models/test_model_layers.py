"""Initial weights, padding, normalisation, activations, dataset constants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_robust.models.layers import (
  ACTIVATIONS,
  conv,
  fan_in_truncated_normal,
  normalise,
)
from jax_robust.models.normalization import CONSTANTS, constants

pytestmark = pytest.mark.fast


def test_kernel_is_cut_at_two_sigmas_and_not_corrected():
  kernel = fan_in_truncated_normal(jax.random.key(0), (3, 3, 64, 256))
  scaled = np.asarray(kernel, np.float64) * np.sqrt(3 * 3 * 64)
  assert np.abs(scaled).max() <= 2
  # The standard error over 147,456 draws is 0.0013.
  assert scaled.std() == pytest.approx(0.8796, abs=0.006)
  assert scaled.mean() == pytest.approx(0, abs=0.01)


def test_same_padding_with_stride_two_pads_after():
  x = jnp.arange(16.0).reshape(1, 4, 4, 1)
  layer = conv(1, 3, stride=2, name="conv")
  y = layer.apply({"params": {"kernel": jnp.ones((3, 3, 1, 1))}}, x)
  padded = np.pad(np.arange(16.0).reshape(4, 4), ((0, 1), (0, 1)))
  expected = [[padded[i : i + 3, j : j + 3].sum() for j in (0, 2)] for i in (0, 2)]
  np.testing.assert_array_equal(y[0, :, :, 0], expected)


def test_normalise_per_channel_and_for_all():
  x = jnp.full((1, 2, 2, 3), 0.5)
  y = normalise(x, (0.5, 0.25, 0.0), (1.0, 0.5, 0.25))
  np.testing.assert_allclose(y[0, 0, 0], [0, 0.5, 2])
  np.testing.assert_allclose(normalise(x, (0.25,), (0.5,)), 0.5)


@pytest.mark.parametrize("wrong", ["mean", "std"])
def test_normalise_names_the_mismatch(wrong):
  given = {"mean": (0.5,), "std": (1.0,)} | {wrong: (0.5, 0.5)}
  with pytest.raises(ValueError, match=rf"{wrong}=\(0.5, 0.5\) is for 2 channels; .* have 3"):
    normalise(jnp.ones((1, 2, 2, 3)), **given)


def test_activations():
  assert ACTIVATIONS["relu"](jnp.array(-1.0)) == 0
  for name in ("swish", "silu"):
    assert ACTIVATIONS[name](jnp.array(1.0)) == pytest.approx(1 / (1 + np.exp(-1)), rel=1e-6)


def test_constants_of_datasets():
  assert constants("cifar10") == ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
  assert constants("cifar100") == ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
  x = jnp.linspace(0, 1, 8).reshape(1, 2, 4, 1)
  np.testing.assert_allclose(normalise(x, *constants("mnist")), (x - 0.5) * 2, atol=1e-6)
  assert constants("of_my_own") == ((0.0,), (1.0,))
  assert {"svhn_cropped", "fashion_mnist", "tiny_imagenet", "imagenet2012"} <= CONSTANTS.keys()
