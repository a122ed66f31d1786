"""`MSDNet`, the multi-scale dense net with an exit after each of its blocks."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_robust.errors import check_count, check_name, check_share
from jax_robust.models import msdnet_plan
from jax_robust.models.classifier import Classifier
from jax_robust.models.layers import ACTIVATIONS, torch_init
from jax_robust.models.msdnet_plan import Cost, Layer
from jax_robust.models.resnet import FAN_OUT

INITS = ("torch", "he")
EXITS = ("all", "last")


class ConvBatchNorm(nn.Module):
  """Convolutions with BatchNorm and activation after each: `conv_{i}`, `batchnorm_{i}`.

  Attributes:
    features: output channels of each convolution.
    kernel_sizes: of each.
    strides: of each.
    conv: as `layers.conv`, for the net's dtype.
    initial_weights: `MSDNet`'s.
    batchnorm: makes a BatchNorm of a name.
    activation: a name in `layers.ACTIVATIONS`.
  """

  features: tuple[int, ...]
  kernel_sizes: tuple[int, ...]
  strides: tuple[int, ...]
  conv: Callable[..., nn.Conv]
  initial_weights: str
  batchnorm: Callable[..., nn.Module]
  activation: str

  def activate(self, x: Array) -> Array:
    """The activation, a method so that `representation` can find its calls."""
    return ACTIVATIONS[self.activation](x)

  @nn.compact
  def __call__(self, x, train):
    sizes = zip(self.features, self.kernel_sizes, self.strides, strict=True)
    for i, (features, kernel_size, stride) in enumerate(sizes):
      init = FAN_OUT
      if self.initial_weights == "torch":
        init = torch_init(kernel_size**2 * x.shape[-1])["kernel_init"]
      x = self.conv(
        features, kernel_size, stride=stride, padding=kernel_size // 2, kernel_init=init,
        name=f"conv_{i}",
      )(x)  # fmt: skip
      x = self.activate(self.batchnorm(name=f"batchnorm_{i}")(x, train))
    return x


class Block(nn.Module):
  """A block of the net: `first` in block 0, then `layer_{i}`, each with its `transition_{i + 1}`.

  Attributes:
    plan: the layers.
    number: of the block.
    growth, factors, bottlenecks, channels: `MSDNet`'s `growth`, `growth_factors`,
      `bottleneck_factors` and `channels`.
    convs: `ConvBatchNorm` with the net's constants.
  """

  plan: tuple[Layer, ...]
  number: int
  growth: int
  factors: tuple[int, ...]
  bottlenecks: tuple[int, ...]
  channels: int
  convs: Callable[..., nn.Module]

  @nn.compact
  def __call__(self, scales: dict[int, Array], train: bool) -> dict[int, Array]:
    """Scale by scale, 0 the finest; block 0 takes the image as scale 0."""
    place = 0
    if self.number == 0:
      scales, place = self.first(scales[0], train), 1
    for layer in self.plan:
      scales = self.layer(layer, scales, f"layer_{place}", train)
      place += 1
      if layer.transition is not None:
        scales = self.transition(layer.transition, scales, f"transition_{place}", train)
        place += 1
    return scales

  def first(self, x, train):
    """3x3 convolutions from the image to scale 0, and with stride 2 from each to the next."""
    scales = {}
    for scale, factor in enumerate(self.factors):
      sizes = (self.channels * factor,), (3,), (min(2, scale + 1),)
      scales[scale] = x = self.convs(*sizes, name=f"first_scale_{scale}")(x, train)
    return scales

  def layer(self, layer, scales, name, train):
    """Each scale that stays, with what the layer adds to it."""
    finest = len(self.factors) - layer.out_scales
    result = {}
    for scale in range(finest, len(self.factors)):
      parts = [scales[scale]]
      made = msdnet_plan.branches(layer, scale, self.growth, self.factors, self.bottlenecks)
      for kind, branch in made.items():
        sizes = (branch.bottleneck, branch.features), (1, 3), (1, branch.stride)
        convs = self.convs(*sizes, name=f"{name}_scale_{scale - finest}_{kind}")
        parts.append(convs(scales[branch.source], train))
      result[scale] = jnp.concatenate(parts, axis=-1)
    return result

  def transition(self, channels, scales, name, train):
    """1x1 convolutions to fewer channels."""
    finest, result = min(scales), {}
    for scale, x in scales.items():
      sizes = (channels * self.factors[scale],), (1,), (1,)
      result[scale] = self.convs(*sizes, name=f"{name}_scale_{scale - finest}")(x, train)
    return result


class Exit(nn.Module):
  """An exit: two 3x3 convolutions with stride 2, mean over space, `logits`.

  Attributes:
    convs: `ConvBatchNorm` with the net's constants.
    head: `Classifier.head_factory` of the net.
  """

  convs: Callable[..., nn.Module]
  head: Callable[[Array], Array]

  @nn.compact
  def __call__(self, x, train):
    convs = self.convs((msdnet_plan.HEAD_FEATURES,) * 2, (3, 3), (2, 2), name="convs")
    return self.head(convs(x, train))


class MSDNet(Classifier, kw_only=True):
  """MSDNet for 32x32 images: every layer works at several scales, every block ends in an exit.

  Layers are dense: each adds channels to all that came before. The finest scale is dropped twice on
  the way, after each third of the layers. Exits read the coarsest scale. All convolutions are
  followed by BatchNorm and activation.

  The net may be run block by block, so that the blocks after an exit that answers are left out:
  `net.apply(variables, x, 0, method="run_block")`, then with what that returned and 1, and so on.

  Submodules: `block_{b}` with `first_scale_{s}`, `layer_{i}_scale_{s}_{normal,down}` and
  `transition_{i}_scale_{s}`, i the place in the block and s counted from the finest scale that
  stays; `exit_{b}` with `convs` and `logits`.

  Guarantees:
    `parameter_counts`: by default 1,892,990 for 10 classes, 422,266 of them up to the first exit.
    `last_exit_is_the_same`: `exits='last'` has the parameters and the logits of the last exit.
    `blocks_are_the_whole`: block by block, the logits are those of one call.

  Attributes:
    num_blocks: number of blocks, and of exits but for `exits='last'`.
    step_mode: layers per block: 'even', `base` in the first, then `step` in each; or 'lin_grow',
      `base`, then `step * i + 1` in block i.
    base, step: see `step_mode`.
    channels: of the first convolution, per unit of a scale's growth factor.
    growth: channels that a layer adds, per unit.
    growth_factors: of the scales, the finest first; their number is that of the scales.
    bottleneck_factors: a 1x1 convolution leaves at most this many times the channels of the 3x3 one
      behind it, by the scale that it reads.
    reduction: share of the channels that is kept where a scale is dropped.
    exits: 'all'; or 'last', the same blocks with the last exit alone: the other exits have neither
      parameters nor costs.
    initial_weights: 'torch', PyTorch's default, with which the PyTorch program trains; or 'he', for
      convolutions N(0, 2 / (kernel area x output channels)), the Lua program's, and no biases.
    The others are `Classifier`'s; the running averages keep .9, as PyTorch's do.

  Raises:
    ValueError: a field that makes no net; (when called) images too small for the scales.

  Reference: Huang et al. 2018 (arXiv:1703.09844), in the sizes of its programs for CIFAR.
  """

  num_blocks: int = 5
  step_mode: str = "even"
  base: int = 4
  step: int = 2
  channels: int = 16
  growth: int = 6
  growth_factors: tuple[int, ...] = (1, 2, 4)
  bottleneck_factors: tuple[int, ...] = (1, 2, 4)
  reduction: float = 0.5
  exits: str = "all"
  initial_weights: str = "torch"
  bn_momentum: float = 0.9

  has_torch_init = True

  def __post_init__(self):
    check_name("step_mode", self.step_mode, msdnet_plan.STEP_MODES)
    check_name("initial_weights", self.initial_weights, INITS)
    check_name("exits", self.exits, EXITS)
    check_share(reduction=self.reduction)
    check_count(
      num_blocks=self.num_blocks, base=self.base, step=self.step, channels=self.channels,
      growth=self.growth,
    )  # fmt: skip
    if len(self.growth_factors) != len(self.bottleneck_factors):
      raise ValueError(
        f"growth_factors={self.growth_factors} and bottleneck_factors={self.bottleneck_factors} "
        "differ in length: one of each per scale"
      )
    if any(self.growth * factor % 2 for factor in self.growth_factors[1:]):
      raise ValueError(
        f"growth={self.growth} times growth_factors={self.growth_factors}: expected even numbers "
        "from the second scale on, where two branches share the channels"
      )
    super().__post_init__()

  @property
  def plan(self) -> tuple[tuple[Layer, ...], ...]:
    """The layers of each block."""
    counts = msdnet_plan.layers_per_block(self.num_blocks, self.step_mode, self.base, self.step)
    return msdnet_plan.make_plan(
      counts, len(self.growth_factors), self.channels, self.growth, self.reduction
    )

  def costs(self, image_shape: Sequence[int] = (32, 32, 3)) -> tuple[Cost, ...]:
    """What each exit costs for one image of this shape, without running anything.

    >>> [cost.flops for cost in MSDNet(num_classes=10).costs()]
    [15128842, 24318740, 32657438, 39839528, 47698994]
    """
    costs = msdnet_plan.count_costs(
      self.plan, image_shape, self.num_classes, self.channels, self.growth, self.growth_factors,
      self.bottleneck_factors, only_last=self.exits == "last",
    )  # fmt: skip
    return costs[-1:] if self.exits == "last" else costs

  def setup(self):
    convs = functools.partial(
      ConvBatchNorm, conv=self.conv_factory(), initial_weights=self.initial_weights,
      batchnorm=self.batchnorm_factory(), activation=self.activation,
    )  # fmt: skip
    common: dict[str, Any] = {"growth": self.growth, "factors": self.growth_factors}
    common |= {"bottlenecks": self.bottleneck_factors, "channels": self.channels}
    self.block = [
      Block(plan, number, convs=convs, **common) for number, plan in enumerate(self.plan)
    ]
    head = self.head_factory()
    if self.initial_weights == "he":
      head = functools.partial(head, bias_init=nn.initializers.zeros)
    self.exit = [Exit(convs, head) for _ in range(self.num_blocks)]

  def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> tuple[Array, ...]:
    """The logits of the exits, each `[b, k]`, the earliest first."""
    state, outputs = x, []
    for number in range(self.num_blocks):
      state, logits = self.run_block(state, number, train)
      if logits is not None:
        outputs.append(logits)
    return tuple(outputs)

  def run_block(
    self, state: Any, number: int, train: bool = False
  ) -> tuple[dict[int, Array], Array | None]:
    """One block and its exit.

    Args:
      state: images `[b, h, w, c]` for block 0, else what the block before returned.
      number: of the block, from 0.
      train: as of the whole net.

    Returns:
      The block's outputs by scale, what the next block takes, the coarsest being what the exit
      reads; and the exit's logits `[b, k]`, None of a block without one.
    """
    if number == 0:
      state = {0: self.preprocess(state)}
      side = min(state[0].shape[1:3])
      smallest = 2 ** (len(self.growth_factors) + 1)
      if side < smallest:
        raise ValueError(
          f"images of {side} pixels a side are too small for {len(self.growth_factors)} scales and "
          f"an exit: expected at least {smallest}; pad_to pads them"
        )
    state = self.block[number](state, train)
    if self.exits == "last" and number < self.num_blocks - 1:
      return state, None
    return state, self.exit[number](state[max(state)], train)
