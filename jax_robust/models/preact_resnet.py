"""`PreActResNet18`, in the variant of the published robust models."""

import flax.linen as nn
from jaxtyping import Array, Float

from jax_robust.models.residual import Block, ResidualNet


class PreActBlock(Block):
  """BN, activation, 3x3, BN, activation, 3x3; the projection is 3x3 and takes the raw input."""

  @nn.compact
  def __call__(self, x, train):
    y = self.activate(self.batchnorm(name="batchnorm_0")(x, train))
    y = self.conv(self.features, 3, stride=self.stride, name="conv_0")(y)
    y = self.activate(self.batchnorm(name="batchnorm_1")(y, train))
    y = self.conv(self.features, 3, name="conv_1")(y)
    if self.stride != 1:
      x = self.conv(self.features, 3, stride=self.stride, name="shortcut")(x)
    return x + y


class PreActResNet18(ResidualNet, kw_only=True):
  """PreActResNet-18 with 3x3 projections, which take the raw, not the activated, input.

  A 3x3 convolution; four groups of two blocks with 1, 2, 4 and 8 times `width` channels and strides
  1, 2, 2, 2; BatchNorm, activation, mean over space, linear. The usual PreActResNet-18 has 1x1
  projections of the activated input and 1,376,256 parameters less.

  Submodules: `init_conv`, `batchnorm`, `logits`, and in each `layer_{g}_block_{b}` `batchnorm_0`,
  `conv_0`, `batchnorm_1`, `conv_1` and, where there is a projection, `shortcut`.

  Guarantees:
    `parameter_counts`: 12,548,426 for 10 classes, 12,594,596 for 100.

  Attributes:
    width: channels of the first group.
    The others are `ResidualNet`'s; here the default activation is swish.

  Reference: He et al. 2016 (arXiv:1603.05027); Rebuffi et al. 2021 (arXiv:2103.01946).
  """

  width: int = 64
  activation: str = "swish"

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b k"]:
    conv, batchnorm = self.conv_factory(), self.batchnorm_factory()
    y = conv(self.width, 3, name="init_conv")(self.preprocess(x))
    for group in range(4):
      for number in range(2):
        y = self.block(PreActBlock, group, number, self.width * 2**group)(y, train)
    return self.head(self.activate(batchnorm(name="batchnorm")(y, train)))
