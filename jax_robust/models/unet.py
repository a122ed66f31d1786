"""`UNet`: the net of diffusion models, as a denoiser of images."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jax_robust.errors import check_count, check_name, check_positive
from jax_robust.models.layers import conv
from jax_robust.nets.denoisers import NO_LABEL, PRECONDITIONINGS, log_frequencies

_EMBEDDED = {"edm": 250.0, "epsilon": 1.0}
"""What noise levels are multiplied by before they are embedded, so that all span about 1,000."""


class UNet(nn.Module):
  """A denoiser: `D(x, sigma, label)`, the mean of the image given `x = image + sigma noise`.

  A U-Net of residual blocks with GroupNorm and SiLU. Each level has `num_blocks` blocks on the way
  down, one more on the way up, and `width * multipliers[level]` channels; between levels images are
  halved by a convolution with stride 2, and doubled by nearest neighbours and a convolution.
  Self-attention stands behind the blocks of the levels in `attention`, and in the middle. Noise
  level and label are embedded and added to the channels of every block. With `patch_size` 2 the
  net works at half the resolution, with the pixels of each 2 x 2 patch as channels: on a CPU it
  trains twice as fast with four times the parameters.

  Guarantees:
    `fresh_net_keeps_the_mean`: with fresh weights F is 0, so D is `c_skip` times the image.
    `labels_are_known`: for a label that is no class and not `NO_LABEL`, D is NaN.

  Attributes:
    width: channels of the first level.
    multipliers: of the channels, by level.
    num_blocks: residual blocks of a level.
    attention: numbers of the levels with self-attention, from 0; () has none in the middle either.
    num_labels: classes that it can be told, besides `nets.denoisers.NO_LABEL`; 0 for a net that is
      never told one.
    patch_size: side of the square of pixels that becomes one pixel of the first level.
    dropout: share of channels' entries dropped in each block, in training.
    precondition: 'edm' or 'epsilon', of `nets.denoisers`.
    mean, scale: of the units in which recipes are published, [-1, 1]: u = (x - mean) / scale.
    dtype: in which the blocks compute; the result is of the type of x.

  Raises:
    TypeError, ValueError: a field out of range; (when called) images whose sides can't be halved
      between all levels, or a label that is missing.

  Reference: Ho et al., 2020, "Denoising Diffusion Probabilistic Models"; its preconditioning
  'edm': Karras et al., 2022.
  """

  width: int = 64
  multipliers: Sequence[int] = (1, 2, 2)
  num_blocks: int = 2
  attention: Sequence[int] = (2,)
  num_labels: int = 0
  patch_size: int = 1
  dropout: float = 0.0
  precondition: str = "edm"
  mean: float = 0.5
  scale: float = 0.5
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    check_count(width=self.width, num_blocks=self.num_blocks, patch_size=self.patch_size)
    check_count(0, num_labels=self.num_labels)
    check_positive(scale=self.scale)
    check_name("precondition", self.precondition, PRECONDITIONINGS)
    check_count(**{f"multipliers[{i}]": each for i, each in enumerate(self.multipliers)})
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "b h w c"],
    sigma: Float[Array, " b"],
    label: Int[Array, " b"] | None = None,
    train: bool = False,
  ) -> Float[Array, "b h w c"]:
    _check_size(x.shape, self.patch_size << (len(self.multipliers) - 1))
    factors = PRECONDITIONINGS[self.precondition](sigma / self.scale)
    c_skip, c_out, c_in = (each[:, None, None, None] for each in factors[:3])
    u = (x - self.mean) / self.scale
    told = self.embed(factors.c_noise * _EMBEDDED[self.precondition], label)
    patches = to_patches((c_in * u).astype(self.dtype), self.patch_size)
    f = from_patches(self.body(patches, told.astype(self.dtype), train), self.patch_size)
    return self.mean + self.scale * (c_skip * u + c_out * f.astype(x.dtype))

  def example_inputs(self, image_shape: Sequence[int]) -> list[Any]:
    """Shapes of the inputs for images `[h, w, c]`."""
    return [
      jax.ShapeDtypeStruct((1, *image_shape), jnp.float32),
      jax.ShapeDtypeStruct((1,), jnp.float32),
      jax.ShapeDtypeStruct((1,), jnp.int32),
    ]

  def embed(self, level: Float[Array, " b"], label: Int[Array, " b"] | None) -> Array:
    """Noise level and label as `[b, 4 width]`."""
    angles = jnp.outer(level, log_frequencies(self.width // 2))
    told = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    told = nn.Dense(4 * self.width, name="level_0")(told)
    if self.num_labels:
      if label is None:
        raise ValueError(f"label is None: this net was made for {self.num_labels} classes")
      is_known = (label == NO_LABEL) | ((label >= 0) & (label < self.num_labels))
      classes = jnp.where(is_known[:, None], jax.nn.one_hot(label, self.num_labels), jnp.nan)
      told += nn.Dense(4 * self.width, use_bias=False, name="label")(classes)
    return nn.silu(nn.Dense(4 * self.width, name="level_1")(nn.silu(told)))

  def body(self, x: Array, told: Array, train: bool) -> Array:
    """F: down, middle and up, with a skip from what every step down gives to a block up."""
    image_channels, widths = x.shape[-1], [self.width * each for each in self.multipliers]
    plain = functools.partial(conv, kernel_size=3, use_bias=True, dtype=self.dtype)
    x = plain(widths[0], name="init_conv")(x)
    skips = [x]
    for level, channels in enumerate(widths):
      for number in range(self.num_blocks):
        x = self.block(channels, f"down_{level}_{number}", level)(x, told, train)
        skips.append(x)
      if level + 1 < len(widths):
        x = plain(channels, stride=2, name=f"down_{level}")(x)
        skips.append(x)
    for number in range(2):
      last = len(widths) - 1 if number == 0 else None
      x = self.block(widths[-1], f"middle_{number}", last)(x, told, train)
    for level, channels in reversed([*enumerate(widths)]):
      for number in range(self.num_blocks + 1):
        x = jnp.concatenate([x, skips.pop()], axis=-1)
        x = self.block(channels, f"up_{level}_{number}", level)(x, told, train)
      if level:
        x = plain(channels, name=f"up_{level}")(x.repeat(2, axis=1).repeat(2, axis=2))
    x = nn.silu(_norm(x, self.dtype, "norm"))
    return plain(image_channels, kernel_init=nn.initializers.zeros, name="output")(x)

  def block(self, channels: int, name: str, level: int | None) -> "DenoisingBlock":
    """A block of a level; None is that of no level, without attention."""
    return DenoisingBlock(channels, level in self.attention, self.dropout, self.dtype, name=name)


class DenoisingBlock(nn.Module):
  """Twice GroupNorm, SiLU and convolution, what is told added between them; then self-attention.

  Attributes:
    channels: of the output.
    attention: whether self-attention follows.
    dropout: share of entries dropped before the second convolution, in training.
    dtype: in which it computes.
  """

  channels: int
  attention: bool
  dropout: float
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Array, told: Array, train: bool) -> Array:
    plain = functools.partial(conv, self.channels, use_bias=True, dtype=self.dtype)
    y = plain(3, name="conv_0")(nn.silu(_norm(x, self.dtype, "norm_0")))
    y += nn.Dense(self.channels, dtype=self.dtype, name="told")(told)[:, None, None]
    y = nn.silu(_norm(y, self.dtype, "norm_1"))
    y = nn.Dropout(self.dropout, deterministic=not train)(y)
    y = plain(3, kernel_init=nn.initializers.zeros, name="conv_1")(y)
    x = y + (x if x.shape[-1] == self.channels else plain(1, name="shortcut")(x))
    return x + self.attend(x) if self.attention else x

  def attend(self, x: Array) -> Array:
    """Self-attention with one head over all pixels."""
    b, h, w, c = x.shape
    dense = functools.partial(nn.Dense, dtype=self.dtype)
    parts = dense(3 * c, name="attention_in")(_norm(x, self.dtype, "norm_2"))
    query, key, value = jnp.split(parts.reshape(b, h * w, 3 * c), 3, axis=-1)
    weights = jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", query, key) / math.sqrt(c), axis=-1)
    y = jnp.einsum("bqk,bkc->bqc", weights, value).reshape(x.shape)
    return dense(c, kernel_init=nn.initializers.zeros, name="attention_out")(y)


def _norm(x: Array, dtype: DTypeLike, name: str) -> Array:
  """GroupNorm with at most 32 groups of at least 4 channels; statistics in float32.

  A group of one channel would forget what the block was told, which is added to whole channels.
  """
  num_groups = max(n for n in (1, 2, 4, 8, 16, 32) if n == 1 or x.shape[-1] % (4 * n) == 0)
  return nn.GroupNorm(num_groups, epsilon=1e-5, dtype=dtype, name=name)(x)


def to_patches(
  x: Float[Array, "b h w c"], size: int
) -> Float[Array, "b h/size w/size size*size*c"]:
  """Makes the pixels of each square of `size` the channels of one pixel."""
  b, h, w, c = x.shape
  squares = x.reshape(b, h // size, size, w // size, size, c)
  return squares.swapaxes(2, 3).reshape(b, h // size, w // size, size * size * c)


def from_patches(
  x: Float[Array, "b h/size w/size size*size*c"], size: int
) -> Float[Array, "b h w c"]:
  """The inverse of `to_patches`.

  >>> x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
  >>> bool((from_patches(to_patches(x, 2), 2) == x).all())
  True
  """
  b, h, w, c = x.shape
  squares = x.reshape(b, h, w, size, size, c // size**2).swapaxes(2, 3)
  return squares.reshape(b, h * size, w * size, c // size**2)


def _check_size(shape: Sequence[int], factor: int) -> None:
  """Raises ValueError where the sides of images are no multiples of what they are divided by."""
  if any(side % factor for side in shape[1:3]):
    raise ValueError(
      f"images of {shape[1]} x {shape[2]} pixels can't be divided by {factor}, as patch_size and "
      "the halvings between levels do: pad them, or give a smaller patch_size or fewer multipliers"
    )
