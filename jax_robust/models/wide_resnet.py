"""Wide residual nets as the released TRADES recipes use them."""

from collections.abc import Callable

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_robust.models.classifier import Classifier
from jax_robust.models.layers import ACTIVATIONS, BatchNorm, conv


class WideBlock(nn.Module):
  """BN, activation, 3x3, BN, activation, 3x3; `project` puts a 1x1 convolution for the identity."""

  features: int
  stride: int
  project: bool
  activation: str
  batchnorm: Callable[..., BatchNorm]
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x, train):
    activate = ACTIVATIONS[self.activation]
    y = activate(self.batchnorm(name="batchnorm_0")(x, train))
    # The projection starts from the activated input; the identity from the raw one.
    if self.project:
      x = conv(self.features, 1, stride=self.stride, dtype=self.dtype, name="shortcut")(y)
    y = conv(self.features, 3, stride=self.stride, dtype=self.dtype, name="conv_0")(y)
    y = activate(self.batchnorm(name="batchnorm_1")(y, train))
    return x + conv(self.features, 3, dtype=self.dtype, name="conv_1")(y)


class WideResNet(Classifier, kw_only=True):
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
    remat: whether blocks are computed again in the backward pass, to save memory.
    The others are `Classifier`'s; here the default activation is swish and the head starts at zero.

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
  remat: bool = False

  def __post_init__(self):
    if self.depth < 10 or (self.depth - 4) % 6:
      raise ValueError(f"depth={self.depth}: expected 6 n + 4 (10, 16, 22, 28, 34, ...)")
    super().__post_init__()

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b k"]:
    """Logits of images in [0, 1]."""
    block_class = nn.remat(WideBlock, static_argnums=(2,)) if self.remat else WideBlock
    batchnorm = self.batchnorm_factory()
    y = conv(16, 3, dtype=self.dtype, name="init_conv")(self.preprocess(x))
    for group in range(3):
      for number in range((self.depth - 4) // 6):
        block = block_class(
          features=16 * self.width * 2**group,
          stride=2 if group > 0 and number == 0 else 1,
          project=number == 0,
          activation=self.activation,
          batchnorm=batchnorm,
          dtype=self.dtype,
          name=f"layer_{group}_block_{number}",
        )
        y = block(y, train)
    return self.head(self.activate(batchnorm(name="batchnorm")(y, train)))
