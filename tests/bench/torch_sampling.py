"""Heun's sampler with a small diffusion net in PyTorch; needs torch, and nothing of ours.

Its parameters have the names of `models.UNet`, so that the test can copy them.
"""

import itertools
import math
import sys

import torch
import torch.nn.functional as F
from side_process import read_flags, tell, timed
from torch import nn


def groups(channels):
  """At most 32 groups of at least four channels."""
  return max(n for n in (1, 2, 4, 8, 16, 32) if n == 1 or channels % (4 * n) == 0)


def norm(channels):
  return nn.GroupNorm(groups(channels), channels, eps=1e-5)


class Halve(nn.Conv2d):
  """A convolution with stride 2, padded below and to the right."""

  def __init__(self, channels):
    super().__init__(channels, channels, 3, stride=2)

  def forward(self, x):
    return super().forward(F.pad(x, (0, 1, 0, 1)))


class Block(nn.Module):
  """Twice GroupNorm, SiLU and convolution, then perhaps self-attention."""

  def __init__(self, inputs, channels, told, attention):
    super().__init__()
    self.norm_0, self.conv_0 = norm(inputs), nn.Conv2d(inputs, channels, 3, padding=1)
    self.told = nn.Linear(told, channels)
    self.norm_1, self.conv_1 = norm(channels), nn.Conv2d(channels, channels, 3, padding=1)
    self.shortcut = nn.Conv2d(inputs, channels, 1) if inputs != channels else nn.Identity()
    self.attention = attention
    if attention:
      self.norm_2 = norm(channels)
      self.attention_in = nn.Linear(channels, 3 * channels)
      self.attention_out = nn.Linear(channels, channels)

  def forward(self, x, told):
    y = self.conv_0(F.silu(self.norm_0(x))) + self.told(told)[:, :, None, None]
    x = self.shortcut(x) + self.conv_1(F.silu(self.norm_1(y)))
    if not self.attention:
      return x
    pixels = self.norm_2(x).flatten(2).transpose(1, 2)
    query, key, value = self.attention_in(pixels).chunk(3, dim=-1)
    found = F.scaled_dot_product_attention(query, key, value)
    return x + self.attention_out(found).transpose(1, 2).reshape(x.shape)


class Net(nn.Module):
  """The denoiser with EDM's preconditioning, for images in [0, 1], with patches of 2 x 2."""

  def __init__(self, width=32, channels=1, num_labels=10):
    super().__init__()
    told, wide, pixels = 4 * width, 2 * width, 4 * channels
    self.width, self.num_labels = width, num_labels
    self.level_0, self.level_1 = nn.Linear(width, told), nn.Linear(told, told)
    self.label = nn.Linear(num_labels, told, bias=False)
    self.init_conv = nn.Conv2d(pixels, width, 3, padding=1)
    self.down_0_0 = Block(width, width, told, False)
    self.down_0 = Halve(width)
    self.down_1_0 = Block(width, wide, told, True)
    self.middle_0, self.middle_1 = Block(wide, wide, told, True), Block(wide, wide, told, False)
    self.up_1_0 = Block(wide + wide, wide, told, True)
    self.up_1_1 = Block(wide + width, wide, told, True)
    self.up_1 = nn.Conv2d(wide, wide, 3, padding=1)
    self.up_0_0 = Block(wide + width, width, told, False)
    self.up_0_1 = Block(width + width, width, told, False)
    self.norm, self.output = norm(width), nn.Conv2d(width, pixels, 3, padding=1)

  def forward(self, x, sigma, label):
    s = sigma / 0.5
    total = s**2 + 0.25
    skip, out, into = 0.25 / total, s * 0.5 / total.sqrt(), total.rsqrt()
    skip, out, into = (each[:, None, None, None] for each in (skip, out, into))
    u = (x - 0.5) / 0.5
    f = self.body(self.to_patches(into * u), self.embed(s.log() / 4 * 250, label))
    return 0.5 + 0.5 * (skip * u + out * F.pixel_shuffle(self.turn(f), 2))

  @staticmethod
  def turn(f):
    """From channels in the order of ours (row, column, colour) to that of `pixel_shuffle`."""
    b, c, h, w = f.shape
    return f.reshape(b, 4, c // 4, h, w).transpose(1, 2).reshape(b, c, h, w)

  @staticmethod
  def to_patches(u):
    """The pixels of each 2 x 2 square as channels, in the order of ours."""
    patches = F.pixel_unshuffle(u, 2)
    b, c, h, w = patches.shape
    return patches.reshape(b, c // 4, 4, h, w).transpose(1, 2).reshape(b, c, h, w)

  def embed(self, level, label):
    steps = torch.arange(self.width // 2) / (self.width // 2 - 1)
    angles = level[:, None] * torch.exp(-math.log(1e4) * steps)
    told = self.level_0(torch.cat([angles.cos(), angles.sin()], dim=-1))
    told = told + self.label(F.one_hot(label, self.num_labels).to(told))
    return F.silu(self.level_1(F.silu(told)))

  def body(self, x, told):
    skips = [self.init_conv(x)]
    skips.append(self.down_0_0(skips[-1], told))
    skips.append(self.down_0(skips[-1]))
    skips.append(self.down_1_0(skips[-1], told))
    x = self.middle_1(self.middle_0(skips[-1], told), told)
    for block in (self.up_1_0, self.up_1_1):
      x = block(torch.cat([x, skips.pop()], dim=1), told)
    x = self.up_1(F.interpolate(x, scale_factor=2, mode="nearest"))
    for block in (self.up_0_0, self.up_0_1):
      x = block(torch.cat([x, skips.pop()], dim=1), told)
    return self.output(F.silu(self.norm(x)))


def edm_sigmas(num_steps):
  """Noise levels of EDM's sampler in units of the image, the last one 0."""
  first, last = 80.0 ** (1 / 7), 0.002 ** (1 / 7)
  levels = (first + torch.arange(num_steps) / (num_steps - 1) * (last - first)) ** 7
  return torch.cat([0.5 * levels, torch.zeros(1)]).tolist()


def sample(net, noise, label, num_steps):
  """Images from standard normal noise [b, c, h, w], by Heun's method."""
  levels = edm_sigmas(num_steps)
  x = 0.5 + levels[0] * noise

  def denoise(x, sigma):
    return net(x, torch.full((len(x),), sigma), label)

  for sigma, then in itertools.pairwise(levels):
    slope = (x - denoise(x, sigma)) / sigma
    there = x + (then - sigma) * slope
    if then:
      there = x + (then - sigma) * (slope + (there - denoise(there, then)) / then) / 2
    x = there
  return x


def main():
  """One batch of samples per line on stdin."""
  flags = read_flags(batch=100, steps=18, width=32, channels_last=False)
  net = Net(flags.width).eval()
  label = torch.arange(flags.batch) % 10
  if flags.channels_last:
    net = net.to(memory_format=torch.channels_last)

  @torch.inference_mode()
  def work():
    noise = torch.randn(flags.batch, 1, 28, 28)
    if flags.channels_last:
      noise = noise.to(memory_format=torch.channels_last)
    return {"mean": float(sample(net, noise, label, flags.steps).mean())}

  tell(**timed(work), what=f"torch {torch.__version__}, {torch.get_num_threads()} threads")
  for _ in sys.stdin:
    tell(**timed(work))


if __name__ == "__main__":
  main()
