"""CERTIFY as the published programs sample it, in PyTorch; needs torch and numpy only.

The counterpart of `jax_certify.py`: one image at a time, repeated to the batch, noise of the batch,
arg max, and the votes counted on the host. With `--best` the votes are counted by NumPy and the
layout in memory is the faster of two.
"""

import itertools
import math
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from side_process import read_flags, tell, timed
from torch import nn

BATCHES = (100, 250, 500, 1000, 2000, 4000, 16000)
"""Those that are tried."""
MATRIX = 2048


class LeNet(nn.Module):
  """The net of `jax_robust.models.lenet`."""

  def __init__(self):
    super().__init__()
    self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
    self.fc1, self.fc2 = nn.Linear(800, 500), nn.Linear(500, 10)

  def forward(self, x):
    for conv in (self.conv1, self.conv2):
      x = F.max_pool2d(F.relu(conv(x)), 2)
    return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Block(nn.Module):
  """Two 3x3 convolutions with BatchNorm, and a projection where the shape changes."""

  def __init__(self, inputs, outputs, stride):
    super().__init__()
    self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
    self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
    self.downsample = None
    if stride != 1 or inputs != outputs:
      projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
      self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

  def forward(self, x):
    y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
    return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
  """The net of `jax_robust.models.resnet.CifarResNet`, which normalises its input itself."""

  def __init__(self, depth):
    super().__init__()
    self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
    self.layers, inputs = [], 16
    for group in range(3):
      width, blocks = 16 << group, []
      for number in range((depth - 2) // 6):
        blocks.append(Block(inputs, width, 2 if group and not number else 1))
        inputs = width
      self.layers.append(nn.Sequential(*blocks))
      setattr(self, f"layer{group + 1}", self.layers[-1])
    self.fc = nn.Linear(64, 10)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    for name, values in (("mean", mean), ("std", std)):
      self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

  def forward(self, x):
    x = F.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
    for layer in self.layers:
      x = layer(x)
    return self.fc(x.mean((2, 3)))


def load(path, depth):
  """The net, and images `[n, c, h, w]` in [0, 1]."""
  recorded, prefix = np.load(path), "weights/"
  net = ResNet(depth) if depth else LeNet()
  state = {n.removeprefix(prefix): recorded[n] for n in recorded.files if n.startswith(prefix)}
  missing = net.load_state_dict({n: torch.tensor(a) for n, a in state.items()}, strict=False)
  assert not missing.unexpected_keys
  assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys), missing
  return net.eval(), torch.tensor(recorded["images"]).permute(0, 3, 1, 2).contiguous()


def count_one_by_one(predictions, num_classes):
  """Votes by class, counted as published: a Python loop over the predictions."""
  counts = np.zeros(num_classes, dtype=int)
  for prediction in predictions:
    counts[prediction] += 1
  return counts


def count_together(predictions, num_classes):
  """Votes by class, counted by NumPy."""
  return np.bincount(predictions, minlength=num_classes)


def sample(net, x, num_draws, *, batch_size, sigma, count):
  """Votes by class of noisy copies of one image."""
  counts = np.zeros(10, dtype=int)
  with torch.no_grad():
    while num_draws > 0:
      size = min(batch_size, num_draws)
      num_draws -= size
      batch = x.repeat((size, 1, 1, 1))
      noise = torch.randn_like(batch) * sigma
      counts += count(net(batch + noise).argmax(1).cpu().numpy(), 10)
  return counts


def flops_of(net, x):
  """Floating-point operations of the convolutions and linear layers for one image."""
  total = []

  def note(layer, _, output):
    total.append(2 * output[0].numel() * layer.weight[0].numel())

  layers = [layer for layer in net.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
  hooks = [layer.register_forward_hook(note) for layer in layers]
  with torch.no_grad():
    net(x)
  for hook in hooks:
    hook.remove()
  return sum(total)


def matmul_rate(device):
  """Floating-point operations a second of a large matrix product, the best of three."""
  a = torch.randn(MATRIX, MATRIX, device=device)
  best = math.inf
  for _ in range(3):
    start = time.perf_counter()
    float((a @ a)[0, 0])
    best = min(best, time.perf_counter() - start)
  return 2 * MATRIX**3 / best


def tune(net, x, formats, *, num_draws, sigma, count):
  """The memory format and the batch size that are fastest on a few draws."""

  def seconds(memory, size):
    laid_out, took = (net.to(memory_format=memory), x.to(memory_format=memory)), []
    for _ in range(3):
      start = time.perf_counter()
      sample(*laid_out, num_draws, batch_size=size, sigma=sigma, count=count)
      took.append(time.perf_counter() - start)
    return min(took)

  sizes = [size for size in BATCHES if size <= num_draws]
  memory = min(formats, key=lambda memory: seconds(memory, sizes[len(sizes) // 2]))
  return memory, min(sizes, key=lambda size: seconds(memory, size))


def main():
  """Tunes the batch, says so, then certifies a few images for every line on stdin."""
  flags = read_flags(
    file="", depth=0, images=1, n=100_000, batch=0, tune=4000, sigma=0.5, best=False,
    tf32=1,  # as PyTorch's convolutions on a GPU do
  )  # fmt: skip
  torch.manual_seed(0)
  torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = True, bool(flags.tf32)
  device = "cuda" if torch.cuda.is_available() else "cpu"
  net, images = load(flags.file, flags.depth)
  net, images = net.to(device), images.to(device)
  with torch.no_grad():
    logits = net(images).cpu().tolist()
  flops = flops_of(net, images[:1])
  count = count_together if flags.best else count_one_by_one
  formats = (torch.contiguous_format, torch.channels_last)[: 1 + flags.best]
  rest = {"sigma": flags.sigma, "count": count}
  memory, batch = tune(net, images[:1], formats, num_draws=flags.tune, **rest)
  rest["batch_size"] = flags.batch or batch
  net, images = net.to(memory_format=memory), images.to(memory_format=memory)
  what = f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads"
  layout = "channels last" if memory == torch.channels_last else "contiguous"
  places = itertools.cycle(range(len(images)))

  def work():
    shares = []
    for place in itertools.islice(places, flags.images):
      x = images[place : place + 1]
      selected = sample(net, x, 100, **rest).argmax()
      shares.append(sample(net, x, flags.n, **rest)[selected] / flags.n)
    return {"shares": shares}

  rate = matmul_rate(device)
  tell(what=f"{what}, {layout}", batch=rest["batch_size"], logits=logits, flops=flops, matmul=rate)
  for _ in sys.stdin:
    tell(**timed(work), matmul=matmul_rate(device))


if __name__ == "__main__":
  main()
