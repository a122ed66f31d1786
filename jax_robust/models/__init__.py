"""Flax classifiers: `create(name, num_classes=...)` makes one of `MODELS`."""

import dataclasses
import difflib
from typing import Any

from jax_robust.models.classifier import Classifier
from jax_robust.models.layers import BatchNorm, check_name
from jax_robust.models.lenet import LeNet
from jax_robust.models.preact_resnet import PreActResNet18
from jax_robust.models.resnet import CifarResNet, ResNet50
from jax_robust.models.small import MLP, SmallCNN
from jax_robust.models.wide_resnet import WideResNet

MODELS: dict[str, type[Classifier]] = {
  "cifar_resnet": CifarResNet,
  "lenet": LeNet,
  "mlp": MLP,
  "preact_resnet18": PreActResNet18,
  "resnet50": ResNet50,
  "small_cnn": SmallCNN,
  "wide_resnet": WideResNet,
}

__all__ = [
  "MLP",
  "MODELS",
  "BatchNorm",
  "CifarResNet",
  "Classifier",
  "LeNet",
  "PreActResNet18",
  "ResNet50",
  "SmallCNN",
  "WideResNet",
  "create",
]


def create(name: str, *, num_classes: int, **kwargs: Any) -> Classifier:
  """Makes a net by name.

  Args:
    name: a key of `MODELS`.
    num_classes: number of logits.
    **kwargs: fields of that class; lists, as read from JSON, become tuples.

  Returns:
    The Linen module, without variables; `module.init(rng, x)` makes those.

  Raises:
    ValueError: if the name is unknown.
    TypeError: if a keyword is no field of that class.

  >>> create("wide_resnet", num_classes=10, depth=16, width=4).depth
  16
  """
  check_name("name", name, MODELS)
  module_class = MODELS[name]
  accepted = [f.name for f in dataclasses.fields(module_class) if f.name not in ("parent", "name")]
  for key in kwargs:
    if key not in accepted:
      near = difflib.get_close_matches(key, accepted, n=1)
      hint = f" Did you mean {near[0]!r}?" if near else ""
      raise TypeError(f"{name} has no field {key!r}; it accepts {', '.join(accepted)}.{hint}")
  fields = {key: tuple(v) if isinstance(v, list) else v for key, v in kwargs.items()}
  return module_class(num_classes=num_classes, **fields)
