"""LPIPS as a feature space: squared l2 distances of these features are LPIPS distances.

The weights are given as an npz of arrays under the names that PyTorch has for them, so that no
conversion is needed:

    features.N.weight, features.N.bias    convolutions of torchvision's VGG-16 or AlexNet, OIHW
    lin0.model.1.weight … lin4.…          the learned weights of the five taps, [1, c, 1, 1]

    numpy.savez("lpips_vgg.npz", **{name: value.numpy() for name, value in {
      **torchvision.models.vgg16(weights="IMAGENET1K_V1").state_dict(),
      **torch.load("lpips/weights/v0.1/vgg.pth", weights_only=True)}.items()})

Other arrays, as those of the trunk's classifier, are left alone.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jax_robust.errors import DataFileError, check_count, check_images

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""What each channel, in [-1, 1], is moved and divided by, as published (version 0.1)."""

_TINY = 1e-10  # added to norms, as published


class Trunk(NamedTuple):
  """How the convolutions of a net follow one another, each with its ReLU.

  Attributes:
    layers: numbers in `features.N` of the convolutions.
    sizes: of their kernels.
    strides: of the convolutions.
    pool: size of the window of the maximum, of stride 2.
    pooled: which convolutions come after a pooling.
    taps: which are looked at.
  """

  layers: tuple[int, ...]
  sizes: tuple[int, ...]
  strides: tuple[int, ...]
  pool: int
  pooled: tuple[int, ...]
  taps: tuple[int, ...]


TRUNKS = {
  "vgg16": Trunk(
    layers=(0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    sizes=(3,) * 13,
    strides=(1,) * 13,
    pool=2,
    pooled=(2, 4, 7, 10),
    taps=(1, 3, 6, 9, 12),
  ),
  "alexnet": Trunk(
    layers=(0, 3, 6, 8, 10),
    sizes=(11, 5, 3, 3, 3),
    strides=(4, 1, 1, 1, 1),
    pool=3,
    pooled=(1, 2),
    taps=(0, 1, 2, 3, 4),
  ),
}
"""The nets that weights may be of; which one, the names of the arrays tell."""


class Weights(NamedTuple):
  """Weights of LPIPS: a trunk's name, its kernels (HWIO) and biases, and each tap's weights."""

  trunk: str
  kernels: tuple[np.ndarray, ...]
  biases: tuple[np.ndarray, ...]
  linear: tuple[np.ndarray, ...]


def read_weights(path: str | os.PathLike) -> Weights:
  """Reads an npz of the layout that the head of this module describes; nothing is unpickled.

  Raises:
    DataFileError: there is no such file, or it holds no such weights; the message names the array.
  """
  try:
    file = np.load(path, allow_pickle=False)
    if isinstance(file, np.ndarray):
      raise ValueError("it is one array")
    with file:
      wanted = [name for name in file.files if name.startswith(("features.", "lin"))]
      return as_weights({name: file[name] for name in wanted})
  except FileNotFoundError:
    raise DataFileError(path, "there is no such file", _REMEDY) from None
  except (OSError, ValueError, EOFError, KeyError) as error:
    raise DataFileError(path, f"holds no weights of LPIPS: {error}", _REMEDY) from error


_REMEDY = (
  "Save torchvision's VGG-16 or AlexNet and the weights of LPIPS under their PyTorch names by "
  "numpy.savez; jax_robust/image_sets/lpips.py shows how."
)


def as_weights(arrays: Mapping[str, np.ndarray]) -> Weights:
  """The weights of arrays under their PyTorch names.

  The widths may be others than the published ones; names, sizes of kernels and what must fit to
  what are looked at.

  Raises:
    ValueError: an array is missing, does not fit, is not finite, or a weight of a tap is negative.
  """
  numbers = sorted(int(name.split(".")[1]) for name in arrays if _is_kernel(name))
  trunk = next((name for name, each in TRUNKS.items() if list(each.layers) == numbers), "")
  if not trunk:
    raise ValueError(
      f"its convolutions are features.N of N = {numbers}, VGG-16's are "
      f"{list(TRUNKS['vgg16'].layers)}, AlexNet's {list(TRUNKS['alexnet'].layers)}"
    )
  plan, width, kernels, biases, linear = TRUNKS[trunk], 3, [], [], []
  for number, layer in enumerate(plan.layers):
    size = plan.sizes[number]
    kernel = _fitting(arrays, f"features.{layer}.weight", (None, width, size, size))
    width = kernel.shape[0]
    kernels.append(kernel.transpose(2, 3, 1, 0))
    biases.append(_fitting(arrays, f"features.{layer}.bias", (width,)))
    if number in plan.taps:
      name = f"lin{len(linear)}.model.1.weight"
      linear.append(_fitting(arrays, name, (1, width, 1, 1)).reshape(width))
      if (linear[-1] < 0).any():
        raise ValueError(f"{name} has a weight below 0, and distances need them to be at least 0")
  return Weights(trunk, tuple(kernels), tuple(biases), tuple(linear))


def _is_kernel(name: str) -> bool:
  """Whether an array is the kernel of a convolution of a trunk, by its name."""
  parts = name.split(".")
  return len(parts) == 3 and parts[0] == "features" and parts[1].isdigit() and parts[2] == "weight"


def _fitting(arrays: Mapping[str, np.ndarray], name: str, shape: tuple) -> np.ndarray:
  """An array in float32, of a shape in which None stands for any size."""
  if name not in arrays:
    raise ValueError(f"{name!r} is missing")
  found = np.asarray(arrays[name])
  fits = len(found.shape) == len(shape) and all(
    wanted in (None, size) for size, wanted in zip(found.shape, shape, strict=True)
  )
  if not fits or not np.issubdtype(found.dtype, np.floating):
    expected = "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
    raise ValueError(
      f"{name} is {found.dtype} {list(found.shape)}: expected floating-point {expected}"
    )
  if not np.isfinite(found).all():
    raise ValueError(f"{name} holds NaN or infinity")
  return found.astype(np.float32)


def features(weights: Weights, x: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
  """Features whose squared l2 distance is LPIPS: taps of unit length, weighted, side by side.

      d(x, y) = Σ_taps 1/(H W) Σ_positions Σ_c w_c (x̂_c - ŷ_c)²

  where x̂ is the tap divided by its norm over channels; so each is scaled by (w_c / (H W))^½.

  Guarantees:
    `squared_distance_is_lpips`: to rounding.

  Args:
    weights: of `read_weights`.
    x: images in [0, 1]; grey ones are taken for colour.

  Returns:
    Of images of 32 by 32 pixels 124,928 numbers an image with VGG-16, 5,760 with AlexNet, whose
    first layer leaves 7 by 7 positions of such a small image.

  Raises:
    TypeError, ValueError: no images in [0, 1], of 1 or 3 channels; images too small for the trunk.

  Reference: Zhang et al., 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual
  Metric", https://arxiv.org/abs/1801.03924
  """
  check_images(x)
  if np.ndim(x) != 4 or np.shape(x)[3] not in (1, 3):
    raise ValueError(f"x has shape {np.shape(x)}: expected images [b, h, w, c] of 1 or 3 channels")
  plan = TRUNKS[weights.trunk]
  x = jnp.broadcast_to(jnp.asarray(x, jnp.float32), (*x.shape[:3], 3))
  h, found = (2 * x - 1 - _per_channel(SHIFT)) / _per_channel(SCALE), []
  for number, (kernel, bias) in enumerate(zip(weights.kernels, weights.biases, strict=True)):
    if number in plan.pooled:
      h = _max_pool(h, plan.pool)
    if 0 in h.shape:
      raise ValueError(f"images of {x.shape[1]} by {x.shape[2]} are too small for {weights.trunk}")
    h = jax.nn.relu(_convolve(h, kernel, plan.strides[number]) + _per_channel(bias))
    if number in plan.taps:
      found.append(_weighted(h, weights.linear[len(found)]))
  return jnp.concatenate(found, 1)


def _per_channel(values: Any) -> Array:
  """Numbers for each channel, as images are multiplied by them."""
  return jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1)


def _convolve(h: Array, kernel: Any, stride: int) -> Array:
  """A convolution as these trunks pad it: AlexNet's first by 2, others to keep the size."""
  pad = 2 if stride == 4 else kernel.shape[0] // 2
  layout = ("NHWC", "HWIO", "NHWC")
  return lax.conv_general_dilated(
    h, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=layout
  )


def _max_pool(h: Array, size: int) -> Array:
  """The maximum of each window, at every second position; what is left over is dropped."""
  window, strides = (1, size, size, 1), (1, 2, 2, 1)
  return lax.reduce_window(h, -jnp.inf, lax.max, window, strides, "VALID")


def _weighted(tap: Array, linear: Any) -> Array:
  """A tap of unit length over channels, times the root of its weights over the positions."""
  unit = tap / (jnp.linalg.norm(tap, axis=-1, keepdims=True) + _TINY)
  scaled = unit * jnp.sqrt(_per_channel(linear) / (tap.shape[1] * tap.shape[2]))
  return scaled.reshape(len(tap), -1)


def project(
  features: Float[Array, "b d"], *, num_features: int, seed: int = 0
) -> Float[Array, "b num_features"]:
  """Fewer features with nearly the same squared distances, where memory is short.

  Each feature is added, with a random sign, to one of the sums at random. Squared distances keep
  their expectation; their relative standard deviation is at most (2 / num_features)^½.

  Guarantees:
    `squared_distances_are_kept`: on average over seeds, with that deviation.

  Args:
    features: to be summed up.
    num_features: number of sums.
    seed: of the draw; images that are compared must have one.

  Raises:
    ValueError: no number of features.

  Reference: Weinberger et al., 2009, "Feature Hashing for Large Scale Multitask Learning",
  https://arxiv.org/abs/0902.2206
  """
  check_count(num_features=num_features)
  rng = np.random.default_rng(seed)
  place = rng.integers(num_features, size=features.shape[1])
  sign = rng.choice(np.array([-1, 1], np.float32), features.shape[1])
  return jax.ops.segment_sum((features * sign[None]).T, place, num_segments=num_features).T
