"""PreActResNet-18 in the variant of the published robust models."""

from collections.abc import Callable

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_robust.models.classifier import Classifier
from jax_robust.models.layers import ACTIVATIONS, BatchNorm, conv


class PreActBlock(nn.Module):
  """BN, activation, 3x3, BN, activation, 3x3; the projection is 3x3 and takes the raw input."""

  features: int
  stride: int
  activation: str
  batchnorm: Callable[..., BatchNorm]
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x, train):
    activate = ACTIVATIONS[self.activation]
    y = activate(self.batchnorm(name="batchnorm_0")(x, train))
    y = conv(self.features, 3, stride=self.stride, dtype=self.dtype, name="conv_0")(y)
    y = activate(self.batchnorm(name="batchnorm_1")(y, train))
    y = conv(self.features, 3, dtype=self.dtype, name="conv_1")(y)
    if self.stride != 1:
      x = conv(self.features, 3, stride=self.stride, dtype=self.dtype, name="shortcut")(x)
    return x + y


class PreActResNet18(Classifier, kw_only=True):
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
    remat: whether blocks are computed again in the backward pass, to save memory.
    The others are `Classifier`'s; here the default activation is swish.

  Reference: He et al. 2016 (arXiv:1603.05027); Rebuffi et al. 2021 (arXiv:2103.01946).
  """

  width: int = 64
  activation: str = "swish"
  remat: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b k"]:
    """Logits of images in [0, 1]."""
    block_class = nn.remat(PreActBlock, static_argnums=(2,)) if self.remat else PreActBlock
    batchnorm = self.batchnorm_factory()
    y = conv(self.width, 3, dtype=self.dtype, name="init_conv")(self.preprocess(x))
    for group in range(4):
      for number in range(2):
        block = block_class(
          features=self.width * 2**group,
          stride=2 if group > 0 and number == 0 else 1,
          activation=self.activation,
          batchnorm=batchnorm,
          dtype=self.dtype,
          name=f"layer_{group}_block_{number}",
        )
        y = block(y, train)
    return self.head(self.activate(batchnorm(name="batchnorm")(y, train)))
