"""Flax nets by name: `create(name, **fields)` makes one of `MODELS`."""

import dataclasses
from typing import Any

from jax_robust.errors import brought_by, check_flag, check_name, check_options

with brought_by("train"):
  import flax.linen as nn

from jax_robust.models.classifier import Classifier
from jax_robust.models.layers import BatchNorm
from jax_robust.models.lenet import LeNet
from jax_robust.models.msdnet import MSDNet
from jax_robust.models.preact_resnet import PreActResNet18, PreActResNet34, PreActResNet50
from jax_robust.models.resnet import CifarResNet, ResNet18, ResNet34, ResNet50
from jax_robust.models.small import MLP, SmallCNN
from jax_robust.models.unet import UNet
from jax_robust.models.wide_resnet import WideResNet

MODELS: dict[str, type[nn.Module]] = {
  "cifar_resnet": CifarResNet,
  "lenet": LeNet,
  "mlp": MLP,
  "msdnet": MSDNet,
  "preact_resnet18": PreActResNet18,
  "preact_resnet34": PreActResNet34,
  "preact_resnet50": PreActResNet50,
  "resnet18": ResNet18,
  "resnet34": ResNet34,
  "resnet50": ResNet50,
  "small_cnn": SmallCNN,
  "unet": UNet,
  "wide_resnet": WideResNet,
}
"""The nets by name. Any Linen module may be put here; one with a field `num_classes` is taken for a
classifier (`is_classifier`), and then needs the fields `mean` and `std` too."""

__all__ = [
  "MLP",
  "MODELS",
  "BatchNorm",
  "CifarResNet",
  "Classifier",
  "LeNet",
  "MSDNet",
  "PreActResNet18",
  "PreActResNet34",
  "PreActResNet50",
  "ResNet18",
  "ResNet34",
  "ResNet50",
  "SmallCNN",
  "UNet",
  "WideResNet",
  "create",
  "is_classifier",
]


def create(name: str, **options: Any) -> nn.Module:
  """Makes a net by name.

  Args:
    name: a key of `MODELS`.
    **options: fields of that class, such as `num_classes`, which every classifier needs; lists, as
      read from JSON, become tuples.

  Returns:
    The Linen module, without variables; `module.init(rng, x)` makes those.

  Raises:
    ValueError: the name is unknown.
    TypeError: a keyword is no field of that class, or one is missing; a flag that is no bool.

  >>> create("wide_resnet", num_classes=10, depth=16, width=4).depth
  16
  """
  check_name("name", name, MODELS)
  check_options(name, options, _fields(MODELS[name]), error=TypeError)
  flags = {field.name for field in dataclasses.fields(MODELS[name]) if field.type in (bool, "bool")}
  check_flag(**{key: value for key, value in options.items() if key in flags})
  return MODELS[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})


def is_classifier(net: str | nn.Module | type[nn.Module]) -> bool:
  """Whether a net, given by name, as a module or as its class, has a field `num_classes`.

  >>> is_classifier("lenet"), is_classifier(nn.Dense(3))
  (True, False)
  """
  if isinstance(net, str):
    check_name("name", net, MODELS)
    net = MODELS[net]
  return "num_classes" in _fields(net)


def _fields(net) -> list[str]:
  """The fields that a caller may set: `parent` and `name` are Flax's own."""
  return [f.name for f in dataclasses.fields(net) if f.name not in ("parent", "name")]
