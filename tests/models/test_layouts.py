"""Layouts of PyTorch state dicts: what names and shapes tell, what they don't, and round trips."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close

from jax_robust import models
from jax_robust.models import convert, layouts
from jax_robust.models.normalization import constants

TRADES = {"depth": 10, "width": 2, "padding": "symmetric", "activation": "relu"}
PREACT = {"padding": "symmetric", "activation": "relu", "shortcut": "1x1_activated", "width": 2}
MSDNET = {
  "num_blocks": 2, "base": 1, "step": 1, "channels": 2, "growth": 2, "growth_factors": (1, 2),
  "bottleneck_factors": (1, 2),
}  # fmt: skip

# Layout: a net of ours, its fields, and names with shapes that the layout's own code gives it.
NETS = {
  "trades": (
    "wide_resnet",
    TRADES,
    {
      "conv1.weight": (16, 3, 3, 3),
      "block1.layer.0.bn1.running_var": (16,),
      "block1.layer.0.convShortcut.weight": (32, 16, 1, 1),
      "block2.layer.0.conv1.weight": (64, 32, 3, 3),
      "block3.layer.0.conv2.weight": (128, 128, 3, 3),
      "bn1.bias": (128,),
      "fc.weight": (10, 128),
    },
  ),
  "deepmind": (
    "wide_resnet",
    {"depth": 10, "width": 2},
    {
      "init_conv.weight": (16, 3, 3, 3),
      "layer.1.block.0.batchnorm_1.running_mean": (64,),
      "layer.2.block.0.shortcut.weight": (128, 64, 1, 1),
      "batchnorm.weight": (128,),
      "logits.bias": (10,),
    },
  ),
  "deepmind_preact": (
    "preact_resnet18",
    {"width": 2},
    {
      "conv_2d.weight": (2, 3, 3, 3),
      "layer_0.1.conv_2d_2.weight": (2, 2, 3, 3),
      "layer_3.0.shortcut.weight": (16, 8, 3, 3),
      "batchnorm.running_mean": (16,),
      "logits.weight": (10, 16),
    },
  ),
  "kuangliu": (
    "resnet50",
    {"stem": "cifar", "width": 2},
    {
      "conv1.weight": (2, 3, 3, 3),
      "layer1.0.conv3.weight": (8, 2, 1, 1),
      "layer4.0.shortcut.0.weight": (64, 32, 1, 1),
      "layer4.0.shortcut.1.running_var": (64,),
      "layer2.3.bn3.weight": (16,),
      "linear.weight": (10, 64),
    },
  ),
  "kuangliu_preact": (
    "preact_resnet34",
    PREACT,
    {
      "conv1.weight": (2, 3, 3, 3),
      "layer1.2.bn2.weight": (2,),
      "layer3.5.conv1.weight": (8, 8, 3, 3),
      "layer2.0.shortcut.0.weight": (4, 2, 1, 1),
      "bn.weight": (16,),
      "linear.bias": (10,),
    },
  ),
  "torchvision": (
    "resnet18",
    {"stem": "imagenet", "width": 2},
    {
      "conv1.weight": (2, 3, 7, 7),
      "bn1.running_mean": (2,),
      "layer2.0.downsample.0.weight": (4, 2, 1, 1),
      "layer2.0.downsample.1.weight": (4,),
      "layer4.1.conv2.weight": (16, 16, 3, 3),
      "fc.weight": (10, 16),
    },
  ),
  "cifar_resnet": (
    "cifar_resnet",
    {"depth": 8},
    {
      "conv1.weight": (16, 3, 3, 3),
      "layer3.0.downsample.0.weight": (64, 32, 1, 1),
      "layer1.0.bn2.bias": (16,),
      "fc.bias": (10,),
    },
  ),
  "msdnet": (
    "msdnet",
    MSDNET,
    {
      "blocks.0.0.layers.0.net.0.weight": (2, 3, 3, 3),
      "classifier.0.m.1.net.0.weight": (128, 128, 3, 3),
      "classifier.1.linear.weight": (10, 128),
    },
  ),
}


def test_every_layout_has_a_row():
  assert NETS.keys() == layouts.LAYOUTS.keys()


def make(layout):
  name, fields, _ = NETS[layout]
  return name, models.create(name, num_classes=10, **fields)


@pytest.fixture(scope="module")
def written(draw_variables):
  """`written(layout)`: the net of a row, its variables, and its state dict."""

  def write(layout):
    _, net = make(layout)
    variables = draw_variables(net, (32, 32, 3))
    return net, variables, convert.to_torch(variables, names=layouts.LAYOUTS[layout].names)

  return write


@pytest.mark.parametrize("layout", NETS)
def test_a_net_goes_out_and_in_again(layout, written):
  """Its names and shapes are those of the layout's code, and tell which net of ours it is."""
  name, net = make(layout)
  _, variables, arrays = written(layout)
  for key, shape in NETS[layout][2].items():
    assert arrays[key].shape == shape, key
  assert layouts.layout_of(net, name, layout=layout) == layout
  found = layouts.identify(arrays, metadata=layouts.note(net, layout))
  assert (found.layout, found.num_classes, found.num_channels) == (layout, 10, 3)
  sizes = MSDNET if layout == "msdnet" else {}
  fields = {k: v for k, v in found.fields.items() if k != "name"}
  assert found.open == {} and found.fields["name"] == name
  again = models.create(name, num_classes=10, **fields, **sizes)
  same = {field: getattr(net, field) for field in fields}
  assert all(layouts.is_same(getattr(again, field), value) for field, value in same.items())
  shapes = jax.eval_shape(lambda: variables)
  back = convert.from_torch(found.arrays, shapes, names=layouts.LAYOUTS[layout].names)
  jax.tree.map(np.testing.assert_array_equal, back, variables)


@pytest.mark.fast
def test_what_names_do_not_tell_is_open():
  arrays = written_names("deepmind")
  assert layouts.identify(arrays).open == {"activation": ("swish", "relu")}
  found = layouts.identify(written_names("kuangliu_preact"))
  assert found.open == {"shortcut": ("1x1_raw", "1x1_activated"), "mean": (), "std": ()}
  assert layouts.identify(written_names("trades")).open == {"mean": (), "std": ()}


@functools.cache
def written_names(layout):
  """Zeros under the names of a row's net."""
  _, net = make(layout)
  shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
  return convert.to_torch(zeros, names=layouts.LAYOUTS[layout].names)


MEAN, STD = (np.array(each, np.float32).reshape(1, 3, 1, 1) for each in constants("cifar10"))

WRAPPED = {
  "buffers": ("", {"mu": MEAN, "sigma": STD}),
  "several devices": ("module.", {"module.mean": MEAN[0], "module.std": STD[0]}),
  "a layer beside it": ("model.", {"normalize.mean": MEAN, "normalize.std": STD}),
  "both": ("module.model.", {"module.normalize.mean": MEAN, "module.normalize.std": STD}),
  "compiled": ("_orig_mod.", {"_orig_mod.mu": MEAN[0, :, 0, 0], "_orig_mod.sigma": STD}),
}


@pytest.mark.fast
@pytest.mark.parametrize("case", WRAPPED)
def test_prefixes_go_and_the_normalisation_is_kept(case):
  prefix, buffers = WRAPPED[case]
  plain = written_names("trades")
  found = layouts.identify({f"{prefix}{name}": a for name, a in plain.items()} | buffers)
  assert found.arrays.keys() == plain.keys() and found.open == {}
  assert (found.fields["mean"], found.fields["std"]) == constants("cifar10")


@pytest.mark.fast
def test_what_the_code_never_reads_goes():
  plain = written_names("trades")
  unused = {f"sub_block1.layer.0.{name}": np.ones(2) for name in ("bn1.weight", "conv1.weight")}
  counts = {"bn1.num_batches_tracked": np.array(7)}
  assert layouts.identify(plain | unused | counts).arrays.keys() == {*plain, *counts}


def without(name):
  return lambda arrays: {key: a for key, a in arrays.items() if key != name}


BAD = {
  "nobody's": (
    lambda a: {"features.0.weight": np.ones((2, 3)), "classifier.bias": np.ones(3)},
    "",
    r"no layout that is known has its names \(it holds features.0.weight, classifier.bias\)",
  ),
  "empty": (lambda a: {}, "", "no layout that is known"),
  "misspelt": (lambda a: a, "trade", r"init_layout='trade': did you mean 'trades'\?"),
  "another": (
    lambda a: a,
    "deepmind",
    r"has not the layout 'deepmind' .*would need init_conv.weight; it holds bn1",
  ),
  "two": (lambda a: a | written_names("deepmind"), "", "may have the layout trades or deepmind"),
  "mean alone": (lambda a: a | {"mu": MEAN}, "", "the mean of a normalisation without its"),
  "two means": (
    lambda a: a | {"mu": MEAN, "mean": MEAN, "std": STD},
    "",
    "two arrays that may be a mean of the pixels",
  ),
  "no head": (without("fc.weight"), "", r"layout 'trades' .*but lacks fc.weight"),
  "depth": (
    lambda a: {k: v for k, v in written_names("torchvision").items() if "layer2.1" not in k},
    "",
    r"it has \(2, 1, 2, 2\) blocks in its groups: only ResNet-18, 34 and 50 are",
  ),
  "stem": (
    lambda a: written_names("torchvision") | {"conv1.weight": np.ones((2, 3, 3, 3))},
    "",
    "first convolution is 3x3, and whether stride 2 and max-pool follow can't be seen",
  ),
}


@pytest.mark.fast
@pytest.mark.parametrize("case", BAD)
def test_what_is_no_layout_is_refused(case):
  change, layout, message = BAD[case]
  with pytest.raises(ValueError, match=message):
    layouts.identify(change(written_names("trades")), layout=layout)


@pytest.mark.fast
def test_damaged_metadata_is_refused():
  for text in ("{", "[1]"):
    with pytest.raises(ValueError, match="metadata 'jax_robust' is damaged"):
      layouts.identify(written_names("trades"), metadata={"jax_robust": text})


NOT_WRITTEN = {
  "lenet": ("lenet", {}, "", "any PyTorch layout that is known: none is of this net"),
  "asymmetric": ("wide_resnet", {"width": 2}, "trades", "padding='symmetric', this net 'same'"),
  "swish": (
    "preact_resnet18",
    {"padding": "symmetric", "shortcut": "1x1_raw"},
    "",
    "kuangliu_preact: its code has activation='relu', this net 'swish'",
  ),
  "narrow": ("wide_resnet", {"width": 1}, "deepmind", "no projection in the first group"),
  "epsilon": ("resnet18", {"bn_epsilon": 1e-3}, "kuangliu", "bn_epsilon=1e-05, this net 0.001"),
  "padded": ("cifar_resnet", {"depth": 8, "pad_to": 40}, "", "does not pad images"),
  "one exit": ("msdnet", {**MSDNET, "exits": "last"}, "", "exits='all', this net 'last'"),
  "another's": ("resnet18", {}, "trades", "the layout trades: none is of this net"),
  "misspelt": ("resnet18", {}, "kuanglio", r"did you mean 'kuangliu'\?"),
}


@pytest.mark.fast
@pytest.mark.parametrize("case", NOT_WRITTEN)
def test_nets_that_no_code_of_a_layout_computes_are_refused(case):
  name, fields, layout, message = NOT_WRITTEN[case]
  with pytest.raises(ValueError, match=message):
    layouts.layout_of(models.create(name, num_classes=10, **fields), name, layout=layout)


@pytest.mark.fast
def test_the_first_layout_that_fits_is_taken():
  for layout in NETS:
    name, net = make(layout)
    assert layouts.layout_of(net, name) == layout
  note = json.loads(layouts.note(net, layout)[layouts.METADATA])
  assert note["layout"] == "msdnet" and note["mean"] == [0.0]


@pytest.mark.parametrize(
  "field, first, second",
  [("padding", "same", "symmetric"), ("shortcut", "1x1_raw", "1x1_activated")],
)
def test_options_that_weights_do_not_tell_change_the_logits(field, first, second, draw_variables):
  """By more than any tolerance of a check."""
  x = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
  logits = []
  for value in (first, second):
    fields = {"shortcut": "1x1_raw", "convolution": "xla", field: value}
    net = models.create("preact_resnet18", num_classes=3, width=2, **fields)
    logits.append(jax.jit(net.apply)(draw_variables(net, x.shape[1:]), x))
  assert np.abs(logits[0] - logits[1]).max() > 0.01 * np.abs(logits[0]).max()


def test_symmetric_padding_is_that_of_pytorch():
  """At stride 2, a pixel before and none after: the first window is centred on the first pixel."""
  x = jnp.arange(16.0).reshape(1, 4, 4, 1)
  kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1)
  variables = {"params": {"kernel": kernel}}
  symmetric = models.layers.conv(1, 3, stride=2, padding="SYMMETRIC", name="c")
  same = models.layers.conv(1, 3, stride=2, name="c")
  assert symmetric.apply(variables, x)[0, :, :, 0].tolist() == [[0, 2], [8, 10]]
  assert same.apply(variables, x)[0, :, :, 0].tolist() == [[5, 7], [13, 15]]


def test_recorded_msdnet_is_identified(oracles):
  path = oracles / "models" / "msdnet_even5.npz"
  found = layouts.identify(convert.load_arrays(path, prefix="weights/"))
  assert (found.layout, found.fields["name"], found.num_classes) == ("msdnet", "msdnet", 10)


def test_recorded_wide_resnet_is_identified(oracles, shapes_of):
  """The file says depth, width and padding; with swish, the logits are the recorded ones."""
  path = oracles / "models" / "wide_resnet_16_2_swish.npz"
  recorded = np.load(path, allow_pickle=False)
  found = layouts.identify(convert.load_arrays(path, prefix="weights/"))
  assert found.fields == {"name": "wide_resnet", "depth": 16, "width": 2, "padding": "same"}
  mean, std = constants("cifar10")
  fields = {**found.fields, "mean": mean, "std": std, "activation": "swish"}
  net = models.create(fields.pop("name"), num_classes=found.num_classes, **fields)
  variables = convert.from_torch(found.arrays, shapes_of(net), names="wide_resnet")
  x = jnp.asarray(recorded["images_uint8"][:2], jnp.float32) / 255
  assert_close(jax.jit(net.apply)(variables, x), recorded["logits"][:2], 1e-4)
