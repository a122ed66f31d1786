"""How an MSDNet is laid out, and what each of its exits costs, by arithmetic alone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

STEP_MODES = ("even", "lin_grow")

HEAD_FEATURES = 128
"""Channels of an exit's two convolutions, and inputs of its linear layer."""


class Layer(NamedTuple):
  """One layer of an MSDNet: what comes in, and what goes out.

  Attributes:
    channels: input channels per unit of a scale's growth factor.
    in_scales: how many scales come in, the coarsest always among them.
    out_scales: how many go out; where it is less, the finest is dropped.
    transition: channels per unit that the 1x1 convolutions after a dropped scale leave; None where
      none is dropped.
  """

  channels: int
  in_scales: int
  out_scales: int
  transition: int | None


class Cost(NamedTuple):
  """What an exit costs for one image.

  Attributes:
    flops: multiply-adds of convolutions and linear layers, biases, and one operation per element of
      an activation or an average, of everything that has run when this exit answers, earlier exits
      included: the count of the published programs.
    macs: multiply-adds of the convolutions and linear layers that this exit needs, without earlier
      exits.
  """

  flops: int
  macs: int


def layers_per_block(num_blocks: int, step_mode: str, base: int, step: int) -> tuple[int, ...]:
  """The number of layers in each block.

  >>> layers_per_block(5, "even", 4, 2), layers_per_block(5, "lin_grow", 1, 1)
  ((4, 2, 2, 2, 2), (1, 2, 3, 4, 5))
  """
  if step_mode == "even":
    return (base, *(step,) * (num_blocks - 1))
  return (base, *(step * i + 1 for i in range(1, num_blocks)))


def make_plan(
  counts: Sequence[int], num_scales: int, channels: int, growth: int, reduction: float
) -> tuple[tuple[Layer, ...], ...]:
  """Lays out the layers of each block.

  The layers fall into `num_scales` equal parts; at the end of each the finest scale is dropped, and
  the channels are multiplied by `reduction` and rounded down.

  Args:
    counts: layers per block.
    num_scales: at the first layer.
    channels: of the first convolution, per unit of a scale's growth factor.
    growth: channels that a layer adds per unit.
    reduction: the share of the channels that a transition keeps.

  Returns:
    For each block its layers.
  """
  interval = -(-sum(counts) // num_scales)
  blocks, number = [], 0
  for count in counts:
    block = []
    for _ in range(count):
      number += 1
      in_scales = num_scales - max(0, number - 2) // interval
      out_scales = num_scales - (number - 1) // interval
      grown = channels + growth
      transition = int(grown * reduction) if in_scales > out_scales else None
      block.append(Layer(channels, in_scales, out_scales, transition))
      channels = grown if transition is None else transition
    blocks.append(tuple(block))
  return tuple(blocks)


class Branch(NamedTuple):
  """A 1x1 convolution to `bottleneck` channels and a 3x3 one to `features`, from one scale."""

  source: int
  stride: int
  bottleneck: int
  features: int


def branches(
  layer: Layer, scale: int, growth: int, factors: Sequence[int], bottlenecks: Sequence[int]
) -> dict[str, Branch]:
  """What a layer computes at one scale, in the order in which it joins the scale's input.

  Args:
    layer: of the plan.
    scale: from 0, the finest of the net.
    growth, factors: channels that a layer adds to scale s: `growth * factors[s]`.
    bottlenecks: a branch's 1x1 convolution leaves at most this many times its output channels, by
      the scale that it reads.

  Returns:
    `down`, with stride 2 from the next finer scale, which the finest scale that comes in has not,
    and `normal`; they share the added channels.
  """
  finest_in = len(factors) - layer.in_scales
  kinds = {"down": (scale - 1, 2)} if scale > finest_in else {}
  kinds["normal"] = (scale, 1)
  features = growth * factors[scale] // len(kinds)
  return {
    kind: Branch(
      source, stride,
      min(layer.channels * factors[source], bottlenecks[source] * features), features,
    )
    for kind, (source, stride) in kinds.items()
  }  # fmt: skip


def count_costs(
  plan: Sequence[Sequence[Layer]],
  image_shape: Sequence[int],
  num_classes: int,
  channels: int,
  growth: int,
  factors: Sequence[int],
  bottlenecks: Sequence[int],
  *,
  only_last: bool = False,
) -> tuple[Cost, ...]:
  """What each exit costs.

  Args:
    plan: from `make_plan`.
    image_shape: `(h, w, c)`.
    num_classes, channels, growth, factors, bottlenecks: the net's.
    only_last: an exit's cost holds none of earlier exits, which the net does not have.

  Returns:
    For each exit its cost.
  """
  areas = [image_shape[0] * image_shape[1]]
  for _ in range(len(factors) + 1):
    areas.append(areas[-1] // 4)

  def convolution(kernel_size, fan_in, features, area):
    """Multiply-adds, and the elements that BatchNorm and activation then see."""
    return np.array([kernel_size**2 * fan_in * features * area, features * area])

  trunk, fan_in = np.zeros(2, int), image_shape[2]
  for scale, factor in enumerate(factors):
    trunk += convolution(3, fan_in, channels * factor, areas[scale])
    fan_in = channels * factor
  costs, exits = [], np.zeros(2, int)
  for block in plan:
    for layer in block:
      stays = range(len(factors) - layer.out_scales, len(factors))
      for scale in stays:
        for made in branches(layer, scale, growth, factors, bottlenecks).values():
          fan_in = layer.channels * factors[made.source]
          trunk += convolution(1, fan_in, made.bottleneck, areas[made.source])
          trunk += convolution(3, made.bottleneck, made.features, areas[scale])
        if layer.transition is not None:
          fan_in = (layer.channels + growth) * factors[scale]
          trunk += convolution(1, fan_in, layer.transition * factors[scale], areas[scale])
    last = block[-1]
    width = last.transition or last.channels + growth
    head = convolution(3, width * factors[-1], HEAD_FEATURES, areas[len(factors)])
    head += convolution(3, HEAD_FEATURES, HEAD_FEATURES, areas[len(factors) + 1])
    linear = HEAD_FEATURES * num_classes
    averages = HEAD_FEATURES * areas[len(factors) + 1]
    exits = (0 if only_last else exits) + head + np.array([linear, num_classes + averages])
    costs.append(Cost(int((trunk + exits).sum()), int(trunk[0] + head[0] + linear)))
  return tuple(costs)
