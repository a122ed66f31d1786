"""What the residual nets share: the fields of a block, and blocks that are recomputed on demand."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jaxtyping import Array

from jax_robust.models.classifier import Classifier
from jax_robust.models.layers import ACTIVATIONS


class Block(nn.Module):
  """The fields of a residual block, which is called as `block(x, train)`.

  Attributes:
    features: output channels.
    stride: of the convolution that has one, and of the shortcut's.
    activation: a name in `layers.ACTIVATIONS`.
    conv: as `layers.conv`, for the net's dtype.
    batchnorm: makes a BatchNorm with the net's constants of a name.
  """

  features: Any
  stride: int
  activation: str
  conv: Callable[..., nn.Conv]
  batchnorm: Callable[..., nn.Module]

  def activate(self, x: Array) -> Array:
    """The activation, a method so that `representation` can find its calls."""
    return ACTIVATIONS[self.activation](x)


class ResidualNet(Classifier, kw_only=True):
  """A classifier made of blocks.

  Attributes:
    remat: whether blocks are computed again in the backward pass, to save memory.
    The others are `Classifier`'s.
  """

  remat: bool = False

  def block(
    self, block_class: type[Block], group: int, number: int, features: Any, **options: Any
  ) -> Block:
    """Block `number` of a group, `layer_{group}_block_{number}`; a group starts with stride 2.

    The first group does not: it has stride 1.
    """
    if self.remat:
      block_class = nn.remat(block_class, static_argnums=(2,))
    return block_class(
      features=features,
      stride=2 if group > 0 and number == 0 else 1,
      activation=self.activation,
      conv=self.conv_factory(),
      batchnorm=self.batchnorm_factory(),
      name=f"layer_{group}_block_{number}",
      **options,
    )
