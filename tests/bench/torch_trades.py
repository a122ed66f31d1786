"""A released-TRADES training step of PreActResNet-18 in PyTorch; needs torch and numpy only.

The counterpart of `jax_trades.py`. The clean pass is shared between attack and loss, weights are
frozen during the attack, and running statistics move in the adversarial pass only, as there.
"""

import sys

import torch
import torch.nn.functional as F
from side_process import read_flags, tell, timed
from torch import nn


class BatchNorm(nn.Module):
  """Batch statistics always; the running ones move only when asked."""

  def __init__(self, channels):
    super().__init__()
    self.weight = nn.Parameter(torch.ones(channels))
    self.bias = nn.Parameter(torch.zeros(channels))
    self.register_buffer("mean", torch.zeros(channels))
    self.register_buffer("var", torch.ones(channels))

  def forward(self, x, update):
    running = (self.mean, self.var) if update else (None, None)
    return F.batch_norm(x, *running, self.weight, self.bias, True, 0.01, 1e-5)


def conv(inputs, outputs, stride=1):
  """3x3, no bias."""
  return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


class Block(nn.Module):
  """BN, swish, 3x3, BN, swish, 3x3; the projection is 3x3 and takes the raw input."""

  def __init__(self, inputs, outputs, stride):
    super().__init__()
    self.norm_0, self.conv_0 = BatchNorm(inputs), conv(inputs, outputs, stride)
    self.norm_1, self.conv_1 = BatchNorm(outputs), conv(outputs, outputs)
    self.shortcut = conv(inputs, outputs, stride) if stride != 1 else nn.Identity()

  def forward(self, x, update):
    y = self.conv_0(F.silu(self.norm_0(x, update)))
    y = self.conv_1(F.silu(self.norm_1(y, update)))
    return self.shortcut(x) + y


class PreActResNet18(nn.Module):
  """The net of `jax_robust.models.preact_resnet`."""

  def __init__(self, width):
    super().__init__()
    self.first = conv(3, width)
    sizes = [(width * 2 ** max(g - (b == 0), 0), width * 2**g, 2 if g and b == 0 else 1)
             for g in range(4) for b in range(2)]  # fmt: skip
    self.blocks = nn.ModuleList(Block(*size) for size in sizes)
    self.norm, self.logits = BatchNorm(8 * width), nn.Linear(8 * width, 10)

  def forward(self, x, update=False):
    y = self.first((x - 0.5) / 0.25)
    for block in self.blocks:
      y = block(y, update)
    return self.logits(F.silu(self.norm(y, update)).mean((2, 3)))


def attack(model, x, target, num_steps, eps=8 / 255):
  """Adam (.1, then .01) on the input, projected onto ball and box."""
  x_adv = torch.clamp(x + eps * (2 * torch.rand_like(x) - 1), 0, 1)
  first, second = torch.zeros_like(x), torch.zeros_like(x)
  for count in range(num_steps):
    x_adv.requires_grad_()
    loss = F.cross_entropy(model(x_adv), target, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x_adv)
    with torch.no_grad():
      first.lerp_(gradient, 0.1)
      second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
      size = (0.1 if count < 5 else 0.01) / (1 - 0.9 ** (count + 1))
      move = first / (torch.sqrt(second / (1 - 0.999 ** (count + 1))) + 1e-9)
      x_adv = x_adv.detach() + size * move
      x_adv = torch.clamp(torch.minimum(torch.maximum(x_adv, x - eps), x + eps), 0, 1)
  return x_adv


def make_step(net, num_steps, *, compiled):
  """Returns `step(image uint8, label) -> loss`."""
  model = torch.compile(net) if compiled else net
  params = list(net.parameters())
  decayed = [p for p in params if p.ndim > 1] + [net.logits.bias]
  kept = [p for p in params if p.ndim == 1 and p is not net.logits.bias]
  groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": kept, "weight_decay": 0.0}]
  optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
  average = [p.detach().clone() for p in params]

  def step(image, label):
    x = image.float() / 255
    clean = model(x)
    net.requires_grad_(False)
    x_adv = attack(model, x, clean.detach().softmax(1), num_steps)
    net.requires_grad_(True)
    adversarial = model(x_adv, True)
    kl = F.kl_div(adversarial.log_softmax(1), clean.softmax(1), reduction="batchmean")
    loss = F.cross_entropy(clean, label) + 6 * kl
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
      torch._foreach_lerp_(average, params, 0.005)
    return loss.item()

  return step


def main():
  """Warms up, says so, then does one step per line on stdin."""
  flags = read_flags(batch=64, width=64, num_steps=10, compiled=False, channels_last=False)
  torch.manual_seed(0)
  net = PreActResNet18(flags.width)
  image = torch.randint(0, 256, (flags.batch, 3, 32, 32), dtype=torch.uint8)
  if flags.channels_last:
    net, image = (t.to(memory_format=torch.channels_last) for t in (net, image))
  label = torch.randint(0, 10, (flags.batch,))
  step = make_step(net, flags.num_steps, compiled=flags.compiled)

  def work():
    return {"loss": step(image, label)}

  tell(**timed(work), what=f"torch {torch.__version__}, {torch.get_num_threads()} threads")
  for _ in sys.stdin:
    tell(**timed(work))


if __name__ == "__main__":
  main()
