"""What the residual nets share: the fields of a block, and blocks that are recomputed on demand."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jaxtyping import Array

from jax_robust.errors import check_name
from jax_robust.models.classifier import Classifier
from jax_robust.models.layers import ACTIVATIONS, PADDINGS


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


class PreActNet(ResidualNet, kw_only=True):
  """A residual net with activation before the convolutions, which programs pad in two ways.

  Attributes:
    padding: of 3x3 convolutions with stride 2 on even sizes: 'same', nothing before and one after,
      as in Haiku, TensorFlow and DeepMind's programs; or 'symmetric', one before and none after, as
      in programs that were written for PyTorch. Weights trained with one give other logits with
      the other.
    The others are `ResidualNet`'s.

  Raises:
    ValueError: an unknown padding.
  """

  padding: str = "same"

  def __post_init__(self):
    check_name("padding", self.padding, PADDINGS)
    super().__post_init__()

  def conv_factory(self) -> Callable[..., nn.Conv]:
    """`layers.conv` with this net's dtype, choice of convolution and padding."""
    return functools.partial(super().conv_factory(), padding=PADDINGS[self.padding])
