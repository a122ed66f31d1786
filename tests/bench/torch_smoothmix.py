"""A SmoothMix training step of LeNet in PyTorch; needs torch and numpy only.

The counterpart of `jax_smoothmix.py`. As published, the noises are passed through the net one after
the other during the attack, all together afterwards; with `--together` also during the attack.
"""

import sys

import torch
import torch.nn.functional as F
from side_process import read_flags, tell, timed
from torch_certify import LeNet

WARMUP = 1 / 10  # the factor of the first epoch


def soft_prediction(net, x, noises, together):
  """The mean over the noises of the net's probabilities."""
  if together:
    probs = net((x[None] + noises).flatten(0, 1)).softmax(1)
    return probs.reshape(len(noises), len(x), -1).mean(0)
  return sum(net(x + noise).softmax(1) for noise in noises) / len(noises)


def attack(net, x, labels, noises, *, alpha, num_steps, together):
  """Unrestricted steps along the unit gradient of the soft prediction's loss."""
  for _ in range(num_steps):
    x = x.detach().requires_grad_()
    probs = soft_prediction(net, x, noises, together).gather(1, labels[:, None])
    (gradient,) = torch.autograd.grad(-probs.clamp(min=1e-20).log().sum(), x)
    norm = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    x = (x + alpha * gradient / (norm + 1e-8)).clamp(0, 1)
  return x.detach()


def loss_fn(net, x, x_adv, labels, noises, *, eta):
  """Cross-entropy of the noisy images, and the mixed images' divergence from mixed predictions."""
  m, b = len(noises), len(x)
  logits = net((x[None] + noises).flatten(0, 1))
  cross_entropy = F.cross_entropy(logits, labels.repeat(m))
  soft = logits.softmax(1).reshape(m, b, -1).mean(0)
  share = torch.rand(b, device=x.device) / 2
  mixed = torch.lerp(x, x_adv, share.view(-1, 1, 1, 1))
  target = torch.lerp(soft, torch.full_like(soft, 1 / soft.shape[1]), share[:, None])
  log_probs = net((mixed[None] + noises).flatten(0, 1)).log_softmax(1)
  divergence = F.kl_div(log_probs, target.repeat(m, 1), reduction="none").sum(1)
  is_correct = (soft.argmax(1) == labels).float().repeat(m)
  return cross_entropy + eta * WARMUP * (is_correct * divergence).mean()


def main():
  """Warms up, says so, then does a few steps per line on stdin."""
  flags = read_flags(batch=64, noises=4, num_steps=1, repeat=20, together=False)
  torch.manual_seed(0)
  torch.backends.cudnn.benchmark = True
  device = "cuda" if torch.cuda.is_available() else "cpu"
  net = LeNet().to(device)
  optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
  image = torch.randint(0, 256, (flags.batch, 1, 28, 28), dtype=torch.uint8, device=device)
  labels = torch.randint(0, 10, (flags.batch,), device=device)

  def step():
    x = image.float() / 255
    noises = torch.randn(flags.noises, *x.shape, device=device)
    net.eval()
    net.requires_grad_(False)
    rest = {"num_steps": flags.num_steps, "together": flags.together}
    x_adv = attack(net, x, labels, noises, alpha=8 / flags.num_steps, **rest)
    net.requires_grad_(True)
    net.train()
    loss = loss_fn(net, x, x_adv, labels, noises, eta=1.0)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return {"loss": loss.item()}

  what = f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads"
  tell(**timed(step), what=what)
  for _ in sys.stdin:
    tell(**timed(step, flags.repeat))


if __name__ == "__main__":
  main()
