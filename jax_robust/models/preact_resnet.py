"""`PreActResNet18`, 34 and 50, in the variants of the published robust models."""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from jax_robust.errors import check_name
from jax_robust.models.residual import Block, PreActNet

SHORTCUTS = ("3x3_raw", "1x1_raw", "1x1_activated")


class PreActBlock(Block):
  """BatchNorm, activation and convolution, twice or thrice; then the sum with the shortcut.

  The first 3x3 convolution has the stride.

  Attributes:
    kernel_sizes: of each convolution; `features` has their output channels.
    shortcut: a name in `SHORTCUTS`: the kernel of the projection, and what it takes.
    The others are `Block`'s.
  """

  kernel_sizes: tuple[int, ...]
  shortcut: str

  @nn.compact
  def __call__(self, x, train):
    y = x
    for i, (features, size) in enumerate(zip(self.features, self.kernel_sizes, strict=True)):
      y = self.activate(self.batchnorm(name=f"batchnorm_{i}")(y, train))
      if i == 0 and self.shortcut == "1x1_activated":
        x = self.project(x, y)
      elif i == 0:
        x = self.project(x, x)
      stride = self.stride if i == self.kernel_sizes.index(3) else 1
      y = self.conv(features, size, stride=stride, name=f"conv_{i}")(y)
    return x + y

  def project(self, x, source):
    """x, or a convolution of `source` where the block changes the shape."""
    if self.stride == 1 and x.shape[-1] == self.features[-1]:
      return x
    size = int(self.shortcut[0])
    return self.conv(self.features[-1], size, stride=self.stride, name="shortcut")(source)


class PreActGroups(PreActNet, kw_only=True):
  """What PreActResNet-18, 34 and 50 share; they differ in the number of blocks, and in the blocks.

  A 3x3 convolution; four groups with 1, 2, 4 and 8 times `width` channels and strides 1, 2, 2, 2;
  BatchNorm and activation, mean over space, linear.

  Submodules: `init_conv`, `batchnorm`, `logits`, and in each `layer_{g}_block_{b}` `batchnorm_0`,
  `conv_0`, `batchnorm_1`, `conv_1` (in a bottleneck `batchnorm_2`, `conv_2`) and, where there is a
  projection, `shortcut`.

  Attributes:
    width: channels of the first group, before a bottleneck's fourfold end.
    shortcut: the projection where a block changes the shape, without BatchNorm: '3x3_raw' and
      '1x1_raw' take the block's input, '1x1_activated' the input after BatchNorm and activation.
      The last two have the same weights, and different logits.
    final_batchnorm: whether BatchNorm and activation stand before the mean over space.
    The others are `PreActNet`'s; here the default activation is swish.

  Raises:
    ValueError: an unknown shortcut.
  """

  width: int = 64
  activation: str = "swish"
  shortcut: str = "3x3_raw"
  final_batchnorm: bool = True
  num_blocks: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)  # properties of the architecture, not fields
  kernel_sizes: ClassVar[tuple[int, ...]] = (3, 3)

  def __post_init__(self):
    check_name("shortcut", self.shortcut, SHORTCUTS)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b k"]:
    conv, batchnorm = self.conv_factory(), self.batchnorm_factory()
    y = conv(self.width, 3, name="init_conv")(self.preprocess(x))
    options = {"kernel_sizes": self.kernel_sizes, "shortcut": self.shortcut}
    for group, num_blocks in enumerate(self.num_blocks):
      width = self.width << group
      features = (width, width) if len(self.kernel_sizes) == 2 else (width, width, 4 * width)
      for number in range(num_blocks):
        y = self.block(PreActBlock, group, number, features, **options)(y, train)
    if self.final_batchnorm:
      y = self.activate(batchnorm(name="batchnorm")(y, train))
    return self.head(y)


class PreActResNet18(PreActGroups, kw_only=True):
  """PreActResNet-18, by default with 3x3 projections, which take the raw, not the activated, input.

  Groups of two blocks of two 3x3 convolutions. The usual PreActResNet-18 has 1x1 projections of the
  activated input (`shortcut='1x1_activated'`) and 1,376,256 parameters less.

  Guarantees:
    `parameter_counts`: 12,548,426 for 10 classes, 12,594,596 for 100.

  Attributes: those of `PreActGroups`.

  Reference: He et al. 2016 (arXiv:1603.05027); Rebuffi et al. 2021 (arXiv:2103.01946).
  """


class PreActResNet34(PreActGroups, kw_only=True):
  """PreActResNet-34: groups of 3, 4, 6 and 3 blocks of two 3x3 convolutions.

  Guarantees:
    `parameter_counts`: 21,280,330 for 10 classes with 1x1 shortcuts.

  Attributes: those of `PreActGroups`.

  Reference: He et al. 2016 (arXiv:1603.05027).
  """

  num_blocks: ClassVar[tuple[int, ...]] = (3, 4, 6, 3)


class PreActResNet50(PreActGroups, kw_only=True):
  """PreActResNet-50: groups of 3, 4, 6 and 3 bottlenecks, the stride in their 3x3 convolution.

  Guarantees:
    `parameter_counts`: 23,513,162 for 10 classes with 1x1 shortcuts.

  Attributes: those of `PreActGroups`.

  Reference: He et al. 2016 (arXiv:1603.05027).
  """

  num_blocks: ClassVar[tuple[int, ...]] = (3, 4, 6, 3)
  kernel_sizes: ClassVar[tuple[int, ...]] = (1, 3, 1)
