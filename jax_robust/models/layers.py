"""The layers of the nets: convolution, normalisation, BatchNorm, activations, initial weights."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_robust.models.convolution import CONVOLUTIONS

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  "relu": jax.nn.relu,
  "silu": jax.nn.silu,
  "swish": jax.nn.silu,
}

PADDINGS = {"same": "SAME", "symmetric": "SYMMETRIC"}
"""Choices of a net's `padding`, which differ where a convolution has stride 2, as `conv` takes."""

Initializer: TypeAlias = Callable[..., Array]
"""`(key, shape, dtype) -> array`."""


def fan_in_truncated_normal(
  key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> Array:
  """Draws a kernel from N(0, 1 / fan_in) cut at two sigmas, without correcting for the cut.

  The standard deviation is therefore 0.8796 / sqrt(fan_in), as in Haiku, whose default the
  published recipes used; `jax.nn.initializers.lecun_normal` corrects it to 1 / sqrt(fan_in). Output
  features are the last axis of `shape`; fan_in is the product of the others.
  """
  return jax.random.truncated_normal(key, -2, 2, shape, dtype) / math.sqrt(math.prod(shape[:-1]))


def torch_init(fan_in: int) -> dict[str, Any]:
  """PyTorch's default for a layer, as keywords: weights and bias from U(-1, 1) / sqrt(fan_in).

  >>> kernel_init = torch_init(4)["kernel_init"]
  >>> kernel = kernel_init(jax.random.key(0), (4, 500), jnp.float32)
  >>> bool(0.49 < abs(kernel).max() <= 0.5)
  True
  """

  def draw(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -1.0, 1.0) / math.sqrt(fan_in)

  return {"kernel_init": draw, "bias_init": draw}


def conv(
  features: int,
  kernel_size: int,
  *,
  name: str,
  stride: int = 1,
  padding: str | int = "SAME",
  use_bias: bool = False,
  dtype: DTypeLike = jnp.float32,
  kernel_init: Initializer = fan_in_truncated_normal,
  bias_init: Initializer = nn.initializers.zeros,
  convolution: str = "auto",
) -> nn.Conv:
  """A square NHWC convolution with float32 parameters, by default with Haiku's initial weights.

  Args:
    features, kernel_size, stride: output channels; side of the kernel; in both directions.
    name: of the submodule.
    padding: 'SAME' (with stride 2 on even sizes: nothing before, one after), 'SYMMETRIC' (half the
      kernel on every side, as PyTorch's nets pad), or a symmetric width.
    use_bias, kernel_init, bias_init, dtype: as those of `flax.linen.Conv`; computes in `dtype`.
    convolution: a name in `convolution.CONVOLUTIONS`.
  """
  if padding == "SYMMETRIC":
    padding = kernel_size // 2
  return nn.Conv(
    features,
    (kernel_size, kernel_size),
    strides=(stride, stride),
    padding=padding,
    use_bias=use_bias,
    dtype=jnp.dtype(dtype),
    kernel_init=kernel_init,
    bias_init=bias_init,
    conv_general_dilated=CONVOLUTIONS[convolution],
    name=name,
  )


def mean_and_linear(
  features: Float[Array, "b *s c"],
  *,
  num_classes: int,
  dtype: DTypeLike,
  like_torch: bool = False,
  **initial: Any,
) -> Float[Array, "b k"]:
  """Averages over space and applies a linear layer `logits`, both in float32 or better.

  Args:
    features: what a net ends in; to be called in the module that the layer shall belong to.
    num_classes: outputs.
    dtype: of the net.
    like_torch: whether initial weights and biases are PyTorch's.
    **initial: `kernel_init`, `bias_init`, to have them otherwise.
  """
  dtype = jnp.promote_types(dtype, jnp.float32)
  features = features.astype(dtype).mean(tuple(range(1, features.ndim - 1)))
  usual: dict[str, Any] = {"kernel_init": fan_in_truncated_normal}
  if like_torch:
    usual = torch_init(features.shape[-1])
  usual |= initial
  return nn.Dense(num_classes, dtype=dtype, name="logits", **usual)(features)


def _per_channel(values: Array, ndim: int) -> Array:
  """Shapes `[c]` so that it broadcasts against an array of `ndim` dimensions, channels last."""
  return values.reshape((1,) * (ndim - 1) + (-1,))


def normalise(
  x: Float[Array, "b h w c"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "b h w c"]:
  """Computes `(x - mean) / std` in x's dtype; the constants are per channel, or one for all.

  Raises:
    ValueError: the constants are for another number of channels.

  >>> normalise(jnp.ones((1, 2, 2, 1)), (0.5,), (0.5,)).max().item()
  1.0
  """
  for argument, values in (("mean", mean), ("std", std)):
    if len(values) not in (1, x.shape[-1]):
      raise ValueError(
        f"{argument}={tuple(values)} is for {len(values)} channels; the images have {x.shape[-1]}"
      )
  shift, scale = (_per_channel(jnp.asarray(v, x.dtype), x.ndim) for v in (mean, std))
  return (x - shift) / scale


class BatchNorm(nn.Module):
  """Batch normalisation whose groups, devices and running averages are chosen, not incidental.

  With `train=True` each channel is normalised by its mean and biased variance `E[x^2] - E[x]^2`
  over a group of rows, `y = scale (x - mean) / sqrt(var + epsilon) + bias`; with `train=False` by
  the running averages. An update moves those by `(1 - momentum)` towards the mean of the groups'
  statistics. Statistics are float32 (float64 for float64 inputs) whatever `dtype` is.

  With `debias=True` an average over t updates is divided by `1 - momentum^t`, as Haiku does. The
  stored `mean` and `var` are the divided ones; before the first update they are 0 and 1.

  Under `jit` a batch that is sharded over devices is one batch: its statistics span all devices.

  Guarantees:
    `groups_equal_devices`: `group_size=g` gives the numbers of b/g devices with g rows each.
    `axis_name_equals_whole_batch`: with `axis_name`, outputs, statistics and gradients under `pmap`
      and `shard_map` are those of the whole batch on one device.
    `debias_is_haikus`: the averages are Haiku's zero-debiased exponential moving averages.
    `evaluation_leaves_statistics`: with `train=False` no variable changes.

  Attributes:
    momentum: weight of the old running average, in [0, 1).
    epsilon: added to the variance.
    group_size: rows per group, contiguous; None is the whole batch (of this device, under a map).
    axis_name: mapped axis over which the moments are averaged when `group_size` is None; with
      groups only the update of the running averages is, so that every device keeps the same ones.
      It is not used during initialisation. Gradients under `shard_map` need `check_vma=False`.
    debias: whether running averages are debiased; adds the variable `count`.
    dtype: of the output.

  Raises:
    ValueError: if the batch is no multiple of `group_size`.

  Reference: Ioffe & Szegedy 2015; Haiku's `ExponentialMovingAverage` for the debiasing.
  """

  momentum: float = 0.99
  epsilon: float = 1e-5
  group_size: int | None = None
  axis_name: str | None = None
  debias: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b *s c"], train: bool = False) -> Float[Array, "b *s c"]:
    """Normalises `x`, channels last; with `train` by the batch, moving the averages."""
    shape, channels = x.shape, x.shape[-1:]
    scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
    running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
    count = None
    if self.debias:
      count = self.variable("batch_stats", "count", jnp.zeros, (), jnp.int32)

    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if train:
      groups = self._num_groups(shape[0])
      x = x.reshape(groups, shape[0] // groups, *shape[1:])
      mean, var = self._moments(x)
      if not self.is_initializing():
        self._update(running_mean, running_var, count, mean, var)
    else:
      mean, var = (
        _per_channel(jnp.asarray(v.value, x.dtype), x.ndim) for v in (running_mean, running_var)
      )
    scale, bias = (_per_channel(jnp.asarray(v, x.dtype), x.ndim) for v in (scale, bias))
    y = (x - mean) * (scale * jax.lax.rsqrt(var + self.epsilon)) + bias
    return y.reshape(shape).astype(self.dtype)

  def _num_groups(self, batch_size: int) -> int:
    """How many groups the batch falls into; the dummy batch of an initialisation is one."""
    if self.group_size is None or self.is_initializing():
      return 1
    if self.group_size < 1 or batch_size % self.group_size:
      raise ValueError(
        f"group_size={self.group_size} does not divide the batch of {batch_size} rows (per device)"
      )
    return batch_size // self.group_size

  def _moments(self, x: Array) -> tuple[Array, Array]:
    """Mean and biased variance of each group, `[groups, 1, ..., c]`."""
    axes = tuple(range(1, x.ndim - 1))
    moments = x.mean(axes, keepdims=True), jnp.square(x).mean(axes, keepdims=True)
    if self.group_size is None:
      moments = self._mean_over_devices(moments)
    mean, mean_of_squares = moments
    # Rounding can leave a constant channel's difference below zero.
    return mean, jnp.maximum(mean_of_squares - jnp.square(mean), 0)

  def _mean_over_devices(self, values):
    """Averages over `axis_name`, which is not bound yet during initialisation."""
    if self.axis_name is None or self.is_initializing():
      return values
    return jax.lax.pmean(values, self.axis_name)

  def _update(self, running_mean, running_var, count, mean, var) -> None:
    """Moves the running averages towards the mean of the groups' statistics."""
    new = tuple(v.reshape(v.shape[0], -1).mean(0) for v in (mean, var))
    if self.group_size is not None:
      new = self._mean_over_devices(new)
    weight = 1 - self.momentum
    if count is not None:
      count.value = count.value + 1
      # Dividing by 1 - momentum^t amounts to this weight; expm1 keeps it exact for small t.
      log_momentum = math.log(self.momentum) if self.momentum else -math.inf
      weight = -weight / jnp.expm1(count.value * log_momentum)
    for running, value in zip((running_mean, running_var), new, strict=True):
      old = running.value
      running.value = (old + weight * (value - old)).astype(old.dtype)
