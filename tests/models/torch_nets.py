"""Nets of RobustBench, torchvision and timm, made by their own code; needs PyTorch and these.

python torch_nets.py write NET FILE   random weights and statistics as FILE.safetensors, and
                                      images, logits and float64 input gradients as FILE.npz
python torch_nets.py read NET FILE    loads FILE.safetensors strictly, and writes the logits of
                                      the images in FILE.npz as FILE_torch.npz
"""

import importlib.util
import pathlib
import sys

import numpy as np
import torch
from safetensors.torch import load_file, save_file


def architecture(name):
  """A file of RobustBench's model zoo by itself: the package imports a dozen others."""
  spec = importlib.util.find_spec("robustbench")
  folder = pathlib.Path(next(iter(spec.submodule_search_locations))) / "model_zoo/architectures"
  spec = importlib.util.spec_from_file_location(f"architecture_{name}", folder / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def trades(**options):
  return architecture("wide_resnet").WideResNet(depth=10, widen_factor=2, **options)


def normalised(net):
  """A net behind RobustBench's layer that normalises, in a wrapper for several devices."""
  net = architecture("utils_architectures").normalize_model(net, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
  wrapper = torch.nn.Module()
  wrapper.module, wrapper.forward = net, net.forward
  return wrapper


def deepmind(name, activation, **options):
  module = architecture("dm_wide_resnet")
  activation = module.Swish if activation == "swish" else torch.nn.ReLU
  return getattr(module, name)(activation_fn=activation, **options)


def kuangliu(name):
  return getattr(architecture("resnet"), name)()


def preact(block, num_blocks, **options):
  module = architecture("resnet")
  block = getattr(module, block)
  if block is module.PreActBottleneck:  # which does not know the option
    made = block

    def block(in_planes, planes, stride, out_shortcut):
      return made(in_planes, planes, stride)

    block.expansion = made.expansion
  return module.PreActResNet(block, num_blocks, **options)


def torchvision(name):
  import torchvision

  return getattr(torchvision.models, name)()


def timm(name):
  import timm

  return timm.create_model(name)


NETS = {
  "trades": trades,
  "trades, sub_block1": lambda: trades(sub_block1=True),
  "trades, normalised": lambda: normalised(trades()),
  "deepmind, swish": lambda: deepmind("DMWideResNet", "swish", depth=10, width=2),
  "deepmind, relu": lambda: deepmind("DMWideResNet", "relu", depth=10, width=2),
  "deepmind preact 18": lambda: deepmind("DMPreActResNet", "swish"),
  "deepmind preact 34": lambda: deepmind("DMPreActResNet", "relu", depth=34),
  "kuangliu 18": lambda: kuangliu("ResNet18"),
  "kuangliu 34": lambda: kuangliu("ResNet34"),
  "kuangliu 50": lambda: kuangliu("ResNet50"),
  "preact 18, raw": lambda: preact("PreActBlock", (2, 2, 2, 2)),
  "preact 18, activated": lambda: preact("PreActBlockV2", (2, 2, 2, 2), bn_before_fc=True),
  "preact 34, activated": lambda: preact("PreActBlock", (3, 4, 6, 3), out_shortcut=True),
  "preact 50": lambda: preact("PreActBottleneck", (3, 4, 6, 3)),
  "torchvision 18": lambda: torchvision("resnet18"),
  "torchvision 34": lambda: torchvision("resnet34"),
  "torchvision 50": lambda: torchvision("resnet50"),
  "timm 50": lambda: timm("resnet50"),
}


def randomise(net):
  """Weights and statistics as after a training: no BatchNorm that does nothing."""
  for module in net.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
      module.weight.data.uniform_(0.5, 1.5)
      module.bias.data.normal_(0, 0.2)
      module.running_mean.normal_(0, 0.2)
      module.running_var.uniform_(0.5, 1.5)
    elif isinstance(module, torch.nn.Linear):
      module.bias.data.normal_()


def write(net, path):
  randomise(net)
  save_file({k: v.contiguous() for k, v in net.state_dict().items()}, f"{path}.safetensors")
  x = torch.rand(4, 3, 32, 32)
  with torch.no_grad():
    logits = net(x).numpy()
  # In float64: where a ReLU's input is zero to rounding, float32 may give one of two gradients.
  exact = x.double().requires_grad_()
  (gradient,) = torch.autograd.grad(net.double()(exact)[:, 3].sum(), exact)
  np.savez(f"{path}.npz", images=x.numpy(), logits=logits, gradient=gradient.numpy())


def read(net, path):
  net.load_state_dict(load_file(f"{path}.safetensors"), strict=True)
  images = torch.tensor(np.load(f"{path}.npz")["images"]).permute(0, 3, 1, 2)
  with torch.no_grad():
    np.savez(f"{path}_torch.npz", logits=net(images).numpy())


if __name__ == "__main__":
  torch.manual_seed(0)
  torch.set_num_threads(1)
  mode, name, path = sys.argv[1:]
  {"write": write, "read": read}[mode](NETS[name]().eval(), path)
