"""`SmallCNN` and `MLP`: nets small enough for tests, laptops and smoke runs on a CPU."""

import functools
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from jax_robust.errors import check_count, check_name
from jax_robust.models.classifier import Classifier
from jax_robust.models.layers import fan_in_truncated_normal, torch_init

INITS = ("haiku", "torch")


class SmallCNN(Classifier, kw_only=True):
  """3x3 convolutions, each with BatchNorm and activation, then mean over space and linear.

  The default costs 2.8 million multiply-adds per 32x32 colour image.

  Submodules: `conv_{i}`, `batchnorm_{i}` (if `norm`), `logits`.

  Attributes:
    channels: output channels of each convolution.
    strides: of each convolution.
    padding: 'SAME', or a symmetric width (1 is PyTorch's usual).
    norm: whether there is BatchNorm; without it the convolutions have a bias.
    The others are `Classifier`'s.

  Raises:
    ValueError: if `channels` and `strides` differ in length.

  >>> net = SmallCNN(num_classes=10)
  >>> net.channels, net.strides
  ((16, 32, 64), (1, 2, 2))
  """

  channels: tuple[int, ...] = (16, 32, 64)
  strides: tuple[int, ...] = (1, 2, 2)
  padding: str | int = "SAME"
  norm: bool = True

  def __post_init__(self):
    if len(self.channels) != len(self.strides):
      raise ValueError(f"channels={self.channels} and strides={self.strides} differ in length")
    super().__post_init__()

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b k"]:
    conv, batchnorm = self.conv_factory(), self.batchnorm_factory()
    y = self.preprocess(x)
    for i, (features, stride) in enumerate(zip(self.channels, self.strides, strict=True)):
      y = conv(
        features,
        3,
        stride=stride,
        padding=self.padding,
        use_bias=not self.norm,
        name=f"conv_{i}",
      )(y)
      if self.norm:
        y = batchnorm(name=f"batchnorm_{i}")(y, train)
      y = self.activate(y)
    return self.head(y)


class MLP(Classifier, kw_only=True):
  """Linear layers over the flattened image, each with activation (and BatchNorm if `norm`).

  With `hidden=()` it is a linear classifier, whose robust optimum is known in closed form.

  Submodules: `hidden_{i}`, `batchnorm_{i}` (if `norm`), `logits`.

  Attributes:
    hidden: sizes of the hidden layers.
    norm: whether there is BatchNorm; without it the layers have a bias.
    initial_weights: 'haiku', a truncated normal and no biases; or 'torch', PyTorch's default.
    The others are `Classifier`'s.

  Raises:
    ValueError: `initial_weights` is unknown; a layer without a unit.
  """

  hidden: tuple[int, ...] = (64,)
  norm: bool = False
  initial_weights: str = "haiku"

  def __post_init__(self):
    check_name("initial_weights", self.initial_weights, INITS)
    for size in self.hidden:
      check_count(hidden=size)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b k"]:
    batchnorm = self.batchnorm_factory()
    y = self.preprocess(x).reshape(x.shape[0], -1)
    for i, features in enumerate(self.hidden):
      initial: dict[str, Any] = {"kernel_init": fan_in_truncated_normal}
      if self.initial_weights == "torch":
        initial = torch_init(y.shape[-1])
      y = nn.Dense(
        features, use_bias=not self.norm, dtype=self.dtype, name=f"hidden_{i}", **initial
      )(y)
      if self.norm:
        y = batchnorm(name=f"batchnorm_{i}")(y, train)
      y = self.activate(y)
    return functools.partial(self.head_factory(), like_torch=self.initial_weights == "torch")(y)
