"""ResNets with activation after the sum: `CifarResNet`, and the four-group ResNet-18, 34, 50."""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from jax_robust.errors import check_name
from jax_robust.models.residual import Block, ResidualNet

FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""N(0, 2 / (kernel area x output channels)), He et al. 2015."""


STEMS = ("imagenet", "cifar")


class PostActBlock(Block):
  """Convolutions with BatchNorm, activation between them and after the sum with the shortcut.

  The shortcut is projected by a 1x1 convolution with BatchNorm where the shape changes. The first
  3x3 convolution has the stride.

  Attributes:
    kernel_sizes: of each convolution; `features` has their output channels.
    The others are `Block`'s.
  """

  kernel_sizes: tuple[int, ...]

  @nn.compact
  def __call__(self, x, train):
    y = x
    for i, (features, size) in enumerate(zip(self.features, self.kernel_sizes, strict=True)):
      stride = self.stride if i == self.kernel_sizes.index(3) else 1
      y = self.convolve(features, size, stride, name=f"conv_{i}")(y)
      y = self.batchnorm(name=f"batchnorm_{i}")(y, train)
      if i + 1 < len(self.features):
        y = self.activate(y)
    if x.shape != y.shape:
      x = self.convolve(self.features[-1], 1, self.stride, name="shortcut")(x)
      x = self.batchnorm(name="shortcut_batchnorm")(x, train)
    return self.activate(x + y)

  def convolve(self, features, size, stride, *, name):
    """A convolution that is padded symmetrically."""
    return self.conv(
      features, size, stride=stride, padding="SYMMETRIC", kernel_init=FAN_OUT, name=name
    )


class CifarResNet(ResidualNet, kw_only=True):
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
    The others are `ResidualNet`'s; the running averages keep .9, as PyTorch's do.

  Raises:
    ValueError: a depth that is not 6n + 2.

  Reference: He et al. 2016 (arXiv:1512.03385), with projections for shortcuts.
  """

  depth: int = 110
  bn_momentum: float = 0.9
  has_torch_init = True

  def __post_init__(self):
    if self.depth < 8 or (self.depth - 2) % 6:
      raise ValueError(f"depth={self.depth}: expected 6 n + 2 layers, as in 20 or 110")
    super().__post_init__()

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b k"]:
    conv, batchnorm = self.conv_factory(), self.batchnorm_factory()
    y = self.preprocess(x)
    y = conv(16, 3, padding=1, kernel_init=FAN_OUT, name="init_conv")(y)
    y = self.activate(batchnorm(name="batchnorm")(y, train))
    for group in range(3):
      for number in range((self.depth - 2) // 6):
        features = (16 << group,) * 2
        y = self.block(PostActBlock, group, number, features, kernel_sizes=(3, 3))(y, train)
    return self.head(y)


class FourGroups(ResidualNet, kw_only=True):
  """What ResNet-18, 34 and 50 share; they differ in the number of blocks, and in the blocks.

  A stem, four groups with 1, 2, 4 and 8 times `width` channels and strides 1, 2, 2, 2, mean over
  space, linear. Shortcuts that change shape are projected by a 1x1 convolution with BatchNorm.

  Submodules: those of `CifarResNet`, with `conv_2` and `batchnorm_2` in a bottleneck.

  Attributes:
    stem: 'imagenet', a 7x7 convolution with stride 2 and 3x3 max-pool with stride 2; or 'cifar', a
      3x3 convolution with stride 1 and no max-pool, for images of 32x32.
    width: channels of the first group, before a bottleneck's fourfold end.
    The others are `ResidualNet`'s; the running averages keep .9, as PyTorch's do.

  Raises:
    ValueError: an unknown stem.
  """

  stem: str = "imagenet"
  width: int = 64
  bn_momentum: float = 0.9
  has_torch_init = True
  num_blocks: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)  # properties of the architecture, not fields
  kernel_sizes: ClassVar[tuple[int, ...]] = (3, 3)

  def __post_init__(self):
    check_name("stem", self.stem, STEMS)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b k"]:
    conv, batchnorm = self.conv_factory(), self.batchnorm_factory()
    size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
    y = self.preprocess(x)
    y = conv(
      self.width, size, stride=stride, padding="SYMMETRIC", kernel_init=FAN_OUT, name="init_conv"
    )(y)
    y = self.activate(batchnorm(name="batchnorm")(y, train))
    if self.stem == "imagenet":
      y = nn.max_pool(y, (3, 3), (2, 2), [(1, 1), (1, 1)])
    for group, num_blocks in enumerate(self.num_blocks):
      width = self.width << group
      features = (width, width) if len(self.kernel_sizes) == 2 else (width, width, 4 * width)
      for number in range(num_blocks):
        options = {"kernel_sizes": self.kernel_sizes}
        y = self.block(PostActBlock, group, number, features, **options)(y, train)
    return self.head(y)


class ResNet18(FourGroups, kw_only=True):
  """ResNet-18, by default for 32x32 images: groups of two blocks of two 3x3 convolutions.

  Guarantees:
    `parameter_counts`: 11,173,962 for 10 classes.

  Attributes: those of `FourGroups`; the default stem is 'cifar'.

  Reference: He et al. 2016 (arXiv:1512.03385), as it is usually trained on CIFAR-10.
  """

  stem: str = "cifar"


class ResNet34(FourGroups, kw_only=True):
  """ResNet-34, by default for 32x32 images: groups of 3, 4, 6 and 3 blocks of two convolutions.

  Guarantees:
    `parameter_counts`: 21,282,122 for 10 classes.

  Attributes: those of `FourGroups`; the default stem is 'cifar'.

  Reference: He et al. 2016 (arXiv:1512.03385), as it is usually trained on CIFAR-10.
  """

  stem: str = "cifar"
  num_blocks: ClassVar[tuple[int, ...]] = (3, 4, 6, 3)


class ResNet50(FourGroups, kw_only=True):
  """ResNet-50 for 224x224 or 32x32 images, the stride in the 3x3 convolution of a bottleneck.

  Groups of 3, 4, 6 and 3 bottlenecks with 64, 128, 256 and 512 channels, fourfold at their ends.

  Guarantees:
    `parameter_counts`: 25,557,032 for 1,000 classes; 23,520,842 for 10 with the stem for CIFAR.

  Attributes: those of `FourGroups`; the default stem is 'imagenet'.

  Reference: He et al. 2016 (arXiv:1512.03385); the variant of torchvision.
  """

  num_blocks: ClassVar[tuple[int, ...]] = (3, 4, 6, 3)
  kernel_sizes: ClassVar[tuple[int, ...]] = (1, 3, 1)
