"""A net: one dense layer on the pixels."""

import flax.linen as nn

from jax_robust import models


class Linear(nn.Module):
  num_classes: int
  mean: tuple = (0.0,)
  std: tuple = (1.0,)

  @nn.compact
  def __call__(self, x, train: bool = False):
    return nn.Dense(self.num_classes, name="logits")(x.reshape(len(x), -1))


models.MODELS["linear"] = Linear
