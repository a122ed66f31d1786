"""Making nets by name."""

import doctest
import importlib

import pytest

from jax_robust import models


def test_fields_arrive_and_lists_become_tuples():
  net = models.create("small_cnn", num_classes=7, channels=[4, 8], strides=[1, 2], mean=[0.5])
  assert isinstance(net, models.SmallCNN)
  assert (net.num_classes, net.channels, net.mean) == (7, (4, 8), (0.5,))
  assert hash(net) == hash(net.copy())


def test_misspelt_name():
  with pytest.raises(ValueError, match=r"name='wide_resent'.*Did you mean 'wide_resnet'\?"):
    models.create("wide_resent", num_classes=10)


@pytest.mark.parametrize("name", models.MODELS)
def test_misspelt_field(name):
  message = rf"{name} has no field 'bn_groupsize'; it accepts .*std.*Did you mean 'bn_group_size'\?"
  with pytest.raises(TypeError, match=message):
    models.create(name, num_classes=10, bn_groupsize=32)


def test_internal_fields_are_not_offered():
  with pytest.raises(TypeError, match="has no field 'parent'"):
    models.create("mlp", num_classes=10, parent=None)


@pytest.mark.parametrize("name", models.MODELS)
def test_misspelt_activation(name):
  with pytest.raises(ValueError, match=r"activation='rleu'.*Did you mean 'relu'\?"):
    models.create(name, num_classes=10, activation="rleu")


@pytest.mark.parametrize(
  "module", ["", ".convert", ".layers", ".normalization", ".small", ".wide_resnet"]
)
def test_doctests(module):
  result = doctest.testmod(importlib.import_module(f"jax_robust.models{module}"))
  assert result.attempted > 0
  assert result.failed == 0
