"""Post-activation ResNets as randomized smoothing uses them: small ones for CIFAR, ResNet-50."""

from collections.abc import Callable

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_robust.models.classifier import Classifier
from jax_robust.models.layers import ACTIVATIONS, BatchNorm, conv

FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""N(0, 2 / (kernel area x output channels)), He et al. 2015."""


class ResidualBlock(nn.Module):
  """Convolutions with BatchNorm, activation between them and after the sum with the shortcut.

  The shortcut is projected by a 1x1 convolution with BatchNorm where the shape changes.

  Attributes:
    features: output channels of each convolution.
    kernel_sizes: of each convolution.
    strided: which convolution has the stride.
    stride: of that one and of the projection.
    activation: a name in `layers.ACTIVATIONS`.
    batchnorm: makes a BatchNorm of a name.
    dtype: of the computation.
  """

  features: tuple[int, ...]
  kernel_sizes: tuple[int, ...]
  strided: int
  stride: int
  activation: str
  batchnorm: Callable[..., BatchNorm]
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x, train):
    activate, y = ACTIVATIONS[self.activation], x
    for i, (features, size) in enumerate(zip(self.features, self.kernel_sizes, strict=True)):
      stride = self.stride if i == self.strided else 1
      y = self.convolve(features, size, stride, name=f"conv_{i}")(y)
      y = self.batchnorm(name=f"batchnorm_{i}")(y, train)
      if i + 1 < len(self.features):
        y = activate(y)
    if x.shape != y.shape:
      x = self.convolve(self.features[-1], 1, self.stride, name="shortcut")(x)
      x = self.batchnorm(name="shortcut_batchnorm")(x, train)
    return activate(x + y)

  def convolve(self, features, size, stride, *, name):
    """A convolution that is padded symmetrically."""
    return conv(
      features, size, stride=stride, padding=size // 2, dtype=self.dtype, kernel_init=FAN_OUT,
      name=name,
    )  # fmt: skip


class CifarResNet(Classifier, kw_only=True):
  """ResNet for 32x32 images: 6n + 2 layers in three groups of n blocks, 16, 32 and 64 channels.

  A 3x3 convolution, the groups with strides 1, 2, 2, mean over space, linear. Shortcuts that change
  shape are projected.

  Submodules: `init_conv`, `batchnorm`, `logits`, and in each `layer_{g}_block_{b}` `conv_0`,
  `batchnorm_0`, `conv_1`, `batchnorm_1` and, where there is a projection, `shortcut` and
  `shortcut_batchnorm`.

  Guarantees:
    `parameter_counts`: 272,474 at depth 20 and 1,730,714 at depth 110, for 10 classes.

  Attributes:
    depth: number of layers, 6n + 2: 20, 56, 110.
    remat: whether blocks are computed again in the backward pass, to save memory.
    The others are `Classifier`'s; the running averages keep .9, as PyTorch's do.

  Raises:
    ValueError: a depth that is not 6n + 2.

  Reference: He et al. 2016 (arXiv:1512.03385), with projections for shortcuts.
  """

  depth: int = 110
  bn_momentum: float = 0.9
  remat: bool = False
  has_torch_init = True

  def __post_init__(self):
    if self.depth < 8 or (self.depth - 2) % 6:
      raise ValueError(f"depth={self.depth}: expected 6 n + 2 layers, as in 20 or 110")
    super().__post_init__()

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b k"]:
    """Logits of images in [0, 1]."""
    batchnorm = self.batchnorm_factory()
    y = self.preprocess(x)
    y = conv(16, 3, padding=1, dtype=self.dtype, kernel_init=FAN_OUT, name="init_conv")(y)
    y = self.activate(batchnorm(name="batchnorm")(y, train))
    for group in range(3):
      for number in range((self.depth - 2) // 6):
        block = _block_class(self.remat)(
          features=(16 << group,) * 2,
          kernel_sizes=(3, 3),
          strided=0,
          stride=2 if group and not number else 1,
          activation=self.activation,
          batchnorm=batchnorm,
          dtype=self.dtype,
          name=f"layer_{group}_block_{number}",
        )
        y = block(y, train)
    return self.head(y)


class ResNet50(Classifier, kw_only=True):
  """ResNet-50 for 224x224 images, the stride in the 3x3 convolution of a bottleneck.

  A 7x7 convolution with stride 2, 3x3 max-pool with stride 2, groups of 3, 4, 6 and 3 bottlenecks
  with 64, 128, 256 and 512 channels (fourfold at their ends), mean over space, linear.

  Submodules: `init_conv`, `batchnorm`, `logits`, and in each `layer_{g}_block_{b}` `conv_{0,1,2}`,
  `batchnorm_{0,1,2}` and, in a group's first, `shortcut` and `shortcut_batchnorm`.

  Guarantees:
    `parameter_counts`: 25,557,032 for 1,000 classes.

  Attributes:
    remat: whether blocks are computed again in the backward pass, to save memory.
    The others are `Classifier`'s; the running averages keep .9, as PyTorch's do.

  Reference: He et al. 2016 (arXiv:1512.03385); the variant of torchvision.
  """

  bn_momentum: float = 0.9
  remat: bool = False
  has_torch_init = True

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b k"]:
    """Logits of images in [0, 1]."""
    batchnorm = self.batchnorm_factory()
    y = self.preprocess(x)
    y = conv(64, 7, stride=2, padding=3, dtype=self.dtype, kernel_init=FAN_OUT, name="init_conv")(y)
    y = self.activate(batchnorm(name="batchnorm")(y, train))
    y = nn.max_pool(y, (3, 3), (2, 2), [(1, 1), (1, 1)])
    for group, num_blocks in enumerate((3, 4, 6, 3)):
      width = 64 << group
      for number in range(num_blocks):
        block = _block_class(self.remat)(
          features=(width, width, 4 * width),
          kernel_sizes=(1, 3, 1),
          strided=1,
          stride=2 if group and not number else 1,
          activation=self.activation,
          batchnorm=batchnorm,
          dtype=self.dtype,
          name=f"layer_{group}_block_{number}",
        )
        y = block(y, train)
    return self.head(y)


def _block_class(remat: bool):
  """The block, or one that is computed again in the backward pass."""
  return nn.remat(ResidualBlock, static_argnums=(2,)) if remat else ResidualBlock
