"""MSDNet in PyTorch, laid out by our plan; needs torch, and of ours the plan alone.

Its parameters have the names that `models.convert` gives them. One piece of work is the forward
pass of all exits in evaluation mode, or an FGSM training step.
"""

import importlib.util
import pathlib
import sys
import types

import torch
import torch.nn.functional as F
from side_process import read_flags, tell, timed
from torch import nn

MODELS = pathlib.Path(__file__).resolve().parents[2] / "jax_robust" / "models"
GROWTH, FACTORS, BOTTLENECKS, CHANNELS, REDUCTION = 6, (1, 2, 4), (1, 2, 4), 16, 0.5


def load_plan() -> types.ModuleType:
  """The arithmetic of the layout, without the package around it, which imports JAX."""
  spec = importlib.util.spec_from_file_location("msdnet_plan", MODELS / "msdnet_plan.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


class Convs(nn.Module):
  """Convolutions with BatchNorm and ReLU after each."""

  def __init__(self, inputs, features, kernel_sizes, strides):
    super().__init__()
    parts = []
    for outputs, size, stride in zip(features, kernel_sizes, strides, strict=True):
      parts += [nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)]
      parts += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
      inputs = outputs
    self.net = nn.Sequential(*parts)

  def forward(self, x):
    return self.net(x)


class First(nn.Module):
  """From the image to every scale."""

  def __init__(self):
    super().__init__()
    widths = [3, *(CHANNELS * factor for factor in FACTORS)]
    self.layers = nn.ModuleList(
      Convs(widths[s], (widths[s + 1],), (3,), (min(2, s + 1),)) for s in range(len(FACTORS))
    )

  def forward(self, scales):
    x, found = scales[0], {}
    for scale, convs in enumerate(self.layers):
      found[scale] = x = convs(x)
    return found


class Layer(nn.Module):
  """Each scale that stays, with what is computed from it and from the finer one."""

  def __init__(self, plan, layer):
    super().__init__()
    self.finest = len(FACTORS) - layer.out_scales
    self.sources, self.layers = [], nn.ModuleList()
    for scale in range(self.finest, len(FACTORS)):
      made = plan.branches(layer, scale, GROWTH, FACTORS, BOTTLENECKS)
      self.sources.append({kind: branch.source for kind, branch in made.items()})
      self.layers.append(nn.ModuleDict({
        f"conv_{kind}": Convs(
          layer.channels * FACTORS[branch.source], (branch.bottleneck, branch.features), (1, 3),
          (1, branch.stride),
        )
        for kind, branch in made.items()
      }))  # fmt: skip

  def forward(self, scales):
    found = {}
    for place, (sources, convs) in enumerate(zip(self.sources, self.layers, strict=True)):
      scale = self.finest + place
      made = [convs[f"conv_{kind}"](scales[source]) for kind, source in sources.items()]
      found[scale] = torch.cat([scales[scale], *made], 1)
    return found


class Transition(nn.Module):
  """1x1 convolutions to fewer channels."""

  def __init__(self, layer):
    super().__init__()
    self.finest = len(FACTORS) - layer.out_scales
    self.m = nn.ModuleList(
      Convs((layer.channels + GROWTH) * factor, (layer.transition * factor,), (1,), (1,))
      for factor in FACTORS[self.finest :]
    )

  def forward(self, scales):
    return {self.finest + i: convs(scales[self.finest + i]) for i, convs in enumerate(self.m)}


class Head(nn.Module):
  """An exit on the coarsest scale."""

  def __init__(self, inputs, features, num_classes):
    super().__init__()
    self.m = nn.ModuleList(
      [Convs(inputs, (features,), (3,), (2,)), Convs(features, (features,), (3,), (2,))]
    )
    self.linear = nn.Linear(features, num_classes)

  def forward(self, x):
    for convs in self.m:
      x = convs(x)
    return self.linear(F.avg_pool2d(x, x.shape[-1]).flatten(1))


class MSDNet(nn.Module):
  """The net of `jax_robust.models.msdnet` in its default layout, of images in [0, 1]."""

  def __init__(self, num_classes=10, num_blocks=5):
    super().__init__()
    plan = load_plan()
    counts = plan.layers_per_block(num_blocks, "even", 4, 2)
    self.blocks, self.classifier = nn.ModuleList(), nn.ModuleList()
    for number, block in enumerate(plan.make_plan(counts, len(FACTORS), CHANNELS, GROWTH,
                                                  REDUCTION)):  # fmt: skip
      parts = [First()] if number == 0 else []
      for layer in block:
        parts += [Layer(plan, layer)] + ([Transition(layer)] if layer.transition else [])
      self.blocks.append(nn.ModuleList(parts))
      width = (block[-1].transition or block[-1].channels + GROWTH) * FACTORS[-1]
      self.classifier.append(Head(width, plan.HEAD_FEATURES, num_classes))

  def forward(self, x):
    scales, outputs = {0: x}, []
    for block, head in zip(self.blocks, self.classifier, strict=True):
      for part in block:
        scales = part(scales)
      outputs.append(head(scales[max(scales)]))
    return outputs


def make_training(net, image, label, eps=8 / 255):
  """`() -> loss`: random start, one sign step on the sum of the exits' losses, one of SGD."""
  optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

  def total(x):
    return sum(F.cross_entropy(logits, label) for logits in net(x))

  def step():
    net.train()
    net.requires_grad_(False)
    x = (image + eps * (2 * torch.rand_like(image) - 1)).clamp(0, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(total(x), x)
    x_adv = x.detach() + 1.25 * eps * gradient.sign()
    x_adv = torch.clamp(torch.minimum(torch.maximum(x_adv, image - eps), image + eps), 0, 1)
    net.requires_grad_(True)
    loss = total(x_adv)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()

  return step


def main():
  """Warms up, says so, then does one piece of work per line on stdin."""
  flags = read_flags(batch=64, work="forward", repeat=1, channels_last=False)
  torch.manual_seed(0)
  net, image = MSDNet(), torch.rand(flags.batch, 3, 32, 32)
  if flags.channels_last:
    net, image = (each.to(memory_format=torch.channels_last) for each in (net, image))
  training = make_training(net, image, torch.randint(0, 10, (flags.batch,)))

  def forward():
    net.eval()
    with torch.inference_mode():
      return sum(logits.sum().item() for logits in net(image))

  def work():
    return {"loss": forward() if flags.work == "forward" else training()}

  tell(**timed(work), what=f"torch {torch.__version__}, {torch.get_num_threads()} threads")
  for _ in sys.stdin:
    tell(**timed(work, flags.repeat))


if __name__ == "__main__":
  main()
