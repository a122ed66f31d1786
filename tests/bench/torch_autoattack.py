"""The reference's standard AutoAttack on the oracle net; needs torch, numpy and `pyautoattack`.

The counterpart of `jax_autoattack.py`. Each attack is timed by itself on the images that those
before it left, as the program itself runs them.
"""

import time

import numpy as np
import torch
import torch.nn.functional as F
from pyautoattack import AutoAttack
from side_process import read_flags, tell
from torch import nn

STRIDES = (1, 2, 1, 2, 1)


class Net(nn.Module):
  """Five convolutions with BatchNorm, mean over space, linear; normalises its input itself."""

  def __init__(self, weights, mean, std):
    super().__init__()
    channels = [weights["convs.0.weight"].shape[1]]
    channels += [weights[f"convs.{i}.weight"].shape[0] for i in range(len(STRIDES))]
    self.convs = nn.ModuleList(
      nn.Conv2d(channels[i], channels[i + 1], 3, stride, 1, bias=False)
      for i, stride in enumerate(STRIDES)
    )
    self.bns = nn.ModuleList(nn.BatchNorm2d(size) for size in channels[1:])
    self.fc = nn.Linear(channels[-1], len(weights["fc.bias"]))
    state = {name: torch.tensor(value) for name, value in weights.items()}
    missing = self.load_state_dict(state, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    self.mean, self.std = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    self.images_seen = 0

  def forward(self, x):
    self.images_seen += len(x)
    x = (x - self.mean) / self.std
    for conv, bn in zip(self.convs, self.bns, strict=True):
      x = F.relu(bn(conv(x)))
    return self.fc(x.mean((2, 3)))


def main():
  flags = read_flags(file="", norm="Linf", images=200, batch=128, seed=0, cores=2)
  torch.set_num_threads(flags.cores)
  recorded = np.load(flags.file)
  prefix = "weights/"
  weights = {n.removeprefix(prefix): recorded[n] for n in recorded.files if n.startswith(prefix)}
  mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
  if "mean" in recorded.files:
    mean, std = recorded["mean"], recorded["std"]
  net = Net(weights, mean, std).eval()
  # Contiguous: the program takes views of gradients, and a gradient has the strides of its input.
  x = torch.tensor(recorded["images_uint8"][: flags.images]).permute(0, 3, 1, 2).contiguous() / 255
  labels = torch.tensor(recorded["labels"][: flags.images]).long()
  with torch.no_grad():
    robust = net(x).argmax(1) == labels
  adversary = AutoAttack(
    net, norm=flags.norm, eps=float(recorded[f"{flags.norm}/eps"]), seed=flags.seed, device="cpu",
  )  # fmt: skip
  found = {}
  for name in list(adversary.attacks_to_run):
    adversary.attacks_to_run = [name]
    standing = robust.nonzero().squeeze(1)
    net.images_seen, began = 0, time.monotonic()
    x_adv, _ = adversary.run_standard_evaluation(
      x[standing], labels[standing], batch_size=flags.batch
    )
    seconds = time.monotonic() - began
    passes = net.images_seen
    with torch.no_grad():
      robust[standing] = net(x_adv).argmax(1) == labels[standing]
    found[name] = {"seconds": seconds, "forward": passes, "robust": robust.tolist()}
  tell(what=f"torch {torch.__version__}, {flags.cores} threads", **found)


if __name__ == "__main__":
  main()
