"""Making nets by name."""

import doctest
import importlib

import flax.linen as nn
import pytest

from jax_robust import models

pytestmark = pytest.mark.fast

CLASSIFIERS = [*filter(models.is_classifier, models.MODELS)]


class Denoiser(nn.Module):
  """A net that is no classifier: other fields, other inputs, no classes, no normalisation."""

  widths: tuple[int, ...] = (4,)

  @nn.compact
  def __call__(self, x, sigma, train=False):
    return nn.Dense(x.shape[-1])(x) * sigma


def test_fields_arrive_and_lists_become_tuples():
  net = models.create("small_cnn", num_classes=7, channels=[4, 8], strides=[1, 2], mean=[0.5])
  assert isinstance(net, models.SmallCNN)
  assert (net.num_classes, net.channels, net.mean) == (7, (4, 8), (0.5,))
  assert hash(net) == hash(net.copy())


def test_a_net_need_not_be_a_classifier(monkeypatch):
  monkeypatch.setitem(models.MODELS, "denoiser", Denoiser)
  net = models.create("denoiser", widths=[8, 8])
  assert isinstance(net, Denoiser) and net.widths == (8, 8)
  for each in ("denoiser", Denoiser, net):
    assert not models.is_classifier(each)
  with pytest.raises(TypeError, match=r"unknown key 'denoiser.num_classes': expected .*'widths'"):
    models.create("denoiser", num_classes=10)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_are_told_by_their_field(name):
  net = models.create(name, num_classes=3)
  assert models.is_classifier(name) and models.is_classifier(net)
  assert net.mean == (0.0,) and net.std == (1.0,)
  with pytest.raises(TypeError, match="num_classes"):
    models.create(name)


def test_misspelt_name():
  for ask in (lambda name: models.create(name, num_classes=10), models.is_classifier):
    with pytest.raises(ValueError, match=r"name='wide_resent': did you mean 'wide_resnet'\?"):
      ask("wide_resent")


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_misspelt_field(name):
  message = rf"unknown key '{name}.bn_groupsize': did you mean 'bn_group_size'\?"
  with pytest.raises(TypeError, match=message):
    models.create(name, num_classes=10, bn_groupsize=32)


def test_internal_fields_are_not_offered():
  with pytest.raises(TypeError, match="unknown key 'mlp.parent': expected one of 'activation'"):
    models.create("mlp", num_classes=10, parent=None)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize(
  ("field", "wrong", "near"), [("activation", "rleu", "relu"), ("convolution", "xal", "xla")]
)
def test_misspelt_choice(name, field, wrong, near):
  with pytest.raises(ValueError, match=rf"{field}='{wrong}': did you mean '{near}'\?"):
    models.create(name, num_classes=10, **{field: wrong})


@pytest.mark.parametrize(
  "module",
  [
    "",
    ".convert",
    ".convolution",
    ".layers",
    ".msdnet",
    ".msdnet_plan",
    ".normalization",
    ".small",
    ".wide_resnet",
  ],
)
def test_doctests(module):
  result = doctest.testmod(importlib.import_module(f"jax_robust.models{module}"))
  assert result.attempted > 0
  assert result.failed == 0
