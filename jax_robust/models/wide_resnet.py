"""`WideResNet`, as the released TRADES recipes use it."""

import flax.linen as nn
from jaxtyping import Array, Float

from jax_robust.models.residual import Block, PreActNet


class WideBlock(Block):
  """BN, activation, 3x3, BN, activation, 3x3; with `project`, the shortcut is a 1x1 convolution."""

  project: bool

  @nn.compact
  def __call__(self, x, train):
    y = self.activate(self.batchnorm(name="batchnorm_0")(x, train))
    # The projection starts from the activated input; the identity from the raw one.
    if self.project:
      x = self.conv(self.features, 1, stride=self.stride, name="shortcut")(y)
    y = self.conv(self.features, 3, stride=self.stride, name="conv_0")(y)
    y = self.activate(self.batchnorm(name="batchnorm_1")(y, train))
    return x + self.conv(self.features, 3, name="conv_1")(y)


class WideResNet(PreActNet, kw_only=True):
  """WideResNet-`depth`-`width`, pre-activation, with the released recipes' details.

  A 3x3 convolution to 16 channels; three groups of `(depth - 4) / 6` blocks with 16, 32 and 64
  times `width` channels and strides 1, 2, 2; BatchNorm, activation, mean over space, linear. The
  first block of each group has a projection, always.

  Submodules: `init_conv`, `batchnorm`, `logits`, and in each `layer_{g}_block_{b}` `batchnorm_0`,
  `conv_0`, `batchnorm_1`, `conv_1` and, where there is a projection, `shortcut`.

  Guarantees:
    `parameter_counts`: those of the released nets, from WRN-10-1 to WRN-106-16.
    `released_program_agrees`: logits and input gradients are those of the released PyTorch net.

  Attributes:
    depth: 6 n + 4.
    width: the widening factor.
    The others are `PreActNet`'s; the default activation is swish, and the head starts at zero.

  Raises:
    ValueError: if `depth` is not 6 n + 4 with n >= 1.

  >>> import jax, jax.numpy as jnp
  >>> net = WideResNet(num_classes=10, depth=10, width=1)
  >>> shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  >>> sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
  78106

  Reference: Zagoruyko & Komodakis 2016; Gowal et al. 2020 (arXiv:2010.03593) for swish.
  """

  depth: int = 28
  width: int = 10
  activation: str = "swish"
  zero_init_logits: bool = True

  def __post_init__(self):
    if self.depth < 10 or (self.depth - 4) % 6:
      raise ValueError(f"depth={self.depth}: expected 6 n + 4 (10, 16, 22, 28, 34, ...)")
    super().__post_init__()

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b k"]:
    conv, batchnorm = self.conv_factory(), self.batchnorm_factory()
    y = conv(16, 3, name="init_conv")(self.preprocess(x))
    for group in range(3):
      for number in range((self.depth - 4) // 6):
        features = 16 * self.width * 2**group
        y = self.block(WideBlock, group, number, features, project=number == 0)(y, train)
    return self.head(self.activate(batchnorm(name="batchnorm")(y, train)))
