"""Classifiers with two exits: one that a config can name, and any other with its exit twice."""

import contextlib
import functools

import flax.linen as nn

from jax_robust import models
from jax_robust.models.classifier import Classifier
from jax_robust.nets.exits import exits_of


class TwoExits(Classifier, kw_only=True):
  """A linear exit on the pixels, and one behind a hidden layer."""

  norm: bool = False

  def setup(self):
    self.early = nn.Dense(self.num_classes)
    self.hidden = nn.Dense(16)
    self.late = nn.Dense(self.num_classes)

  def __call__(self, x, train: bool = False):
    state, early = self.run_block(x, 0)
    return early, self.run_block(state, 1)[1]

  def run_block(self, state, number: int, train: bool = False):
    if number:
      return state, self.late(self.activate(self.hidden(state)))
    y = self.preprocess(state).reshape(len(state), -1)
    return y, self.early(y)


SMALL = {
  "attacks": ("fgsm",), "aims": ("exits", "deployed"), "chunk_size": 8, "slowdowns": ("image",),
}  # fmt: skip
"""The block `early_exit` of a job of seconds."""


@contextlib.contextmanager
def known():
  """Puts the net into the table of models."""
  models.MODELS["two_exits"] = TwoExits
  try:
    yield
  finally:
    del models.MODELS["two_exits"]


def exit_twice(logits_fn):
  """The classifier with a second exit that is as the first, for attacks that need several."""

  @functools.wraps(logits_fn, updated=())
  def two_exits(*args):
    return (exits_of(logits_fn(*args))[-1],) * 2

  return two_exits


def on_two_exits(attack):
  """The attack, on `exit_twice` of whatever it is given."""

  @functools.wraps(getattr(attack, "func", attack))
  def run(logits_fn, *args, **options):
    return attack(exit_twice(logits_fn), *args, **options)

  return run
