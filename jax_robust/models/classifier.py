"""`Classifier`: the fields, the first and the last layer that all classifiers have in common."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_robust.errors import check_count, check_name, check_not_negative, check_share
from jax_robust.models import layers
from jax_robust.models.convolution import CONVOLUTIONS
from jax_robust.models.layers import (
  ACTIVATIONS,
  BatchNorm,
  normalise,
)


class Classifier(nn.Module, kw_only=True):
  """A net from images in [0, 1] to logits, `module(x, train)`; subclasses are the architectures.

  Variables are `params` and, where there is BatchNorm, `batch_stats`; the names of BatchNorm layers
  contain 'batchnorm'. With `train=True` apply with `mutable=['batch_stats']`.

  Attributes:
    num_classes: number of logits.
    activation: a name in `layers.ACTIVATIONS`.
    mean: subtracted from the pixels, one per channel or one for all.
    std: what they are then divided by.
    pad_to: zero-pads images to this side before normalisation (28 to 32 for MNIST); None does not.
    bn_group_size: see `BatchNorm.group_size`.
    bn_axis_name: see `BatchNorm.axis_name`.
    bn_momentum: see `BatchNorm.momentum`.
    bn_epsilon: see `BatchNorm.epsilon`.
    bn_debias: see `BatchNorm.debias`.
    zero_init_logits: whether the last layer's weights start at zero.
    convolution: "auto", the fastest for the backend, or "xla", always `jax.lax`'s (see
      `convolution.conv_general_dilated`).
    dtype: of the computation up to the last layer; parameters, statistics and logits are float32
      (computation and logits float64 for float64).

  Raises:
    ValueError: if `activation` or `convolution` is unknown, `bn_momentum` no share, `bn_epsilon`
      negative, or a `width` below 1.
  """

  num_classes: int
  activation: str = "relu"
  mean: tuple[float, ...] = (0.0,)
  std: tuple[float, ...] = (1.0,)
  pad_to: int | None = None
  bn_group_size: int | None = None
  bn_axis_name: str | None = None
  bn_momentum: float = 0.99
  bn_epsilon: float = 1e-5
  bn_debias: bool = False
  zero_init_logits: bool = False
  convolution: str = "auto"
  dtype: DTypeLike = jnp.float32

  has_torch_init = False  # a property of the architecture, not a field

  def __post_init__(self):
    check_name("activation", self.activation, ACTIVATIONS)
    check_name("convolution", self.convolution, CONVOLUTIONS)
    check_share(bn_momentum=self.bn_momentum)
    check_not_negative(bn_epsilon=self.bn_epsilon)
    check_count(width=getattr(self, "width", 1))
    super().__post_init__()

  def conv_factory(self) -> Callable[..., nn.Conv]:
    """`layers.conv` with this net's dtype and choice of convolution."""
    return functools.partial(layers.conv, dtype=self.dtype, convolution=self.convolution)

  def batchnorm_factory(self) -> Callable[..., BatchNorm]:
    """BatchNorm with this net's constants; give it a name that contains 'batchnorm'."""
    return functools.partial(
      BatchNorm,
      momentum=self.bn_momentum,
      epsilon=self.bn_epsilon,
      group_size=self.bn_group_size,
      axis_name=self.bn_axis_name,
      debias=self.bn_debias,
      dtype=self.dtype,
    )

  def preprocess(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Pads and normalises in x's dtype, then casts to the net's."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise TypeError(f"x is {x.dtype}; expected floating-point images in [0, 1]")
    if self.pad_to is not None:
      missing = [self.pad_to - size for size in x.shape[1:3]]
      if min(missing) < 0:
        raise ValueError(f"pad_to={self.pad_to} is smaller than the images, {x.shape[1:3]}")
      before_after = [(m // 2, m - m // 2) for m in missing]
      x = jnp.pad(x, ((0, 0), *before_after, (0, 0)))
    return normalise(x, self.mean, self.std).astype(self.dtype)

  def head_factory(self) -> Callable[..., Array]:
    """`layers.mean_and_linear` with this net's number of classes, dtype and initial weights."""
    initial = {"kernel_init": nn.initializers.zeros} if self.zero_init_logits else {}
    return functools.partial(
      layers.mean_and_linear,
      num_classes=self.num_classes,
      dtype=self.dtype,
      like_torch=self.has_torch_init,
      **initial,
    )

  def head(self, features: Float[Array, "b *s c"]) -> Float[Array, "b k"]:
    """Averages over space and applies the last layer, both in float32 or better."""
    return self.head_factory()(features)

  def activate(self, x: Array) -> Array:
    """The net's activation."""
    return ACTIVATIONS[self.activation](x)
