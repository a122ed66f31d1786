"""Layouts of PyTorch state dicts: whose code wrote a file, and which net of ours computes the same.

Names and shapes tell most of a net, and not all: nets with the same weights differ in how they pad,
in their activation, in what they subtract from an image. What the code of a layout has fixed is
implied by it; what that code leaves open is asked for, and never guessed.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jax_robust.errors import check_name

FROM_WEIGHTS = "from_weights"
"""In place of a model's name: the net that the file's layout tells."""

METADATA = "jax_robust"
"""The key of a safetensors file's metadata under which our exports say what names can't tell."""

Arrays = Mapping[str, np.ndarray]

_PREFIXES = ("module.", "model.", "_orig_mod.")  # of DataParallel, of wrappers, of compiled modules
_NORMALISATION = re.compile(r"(?:\w+\.)?(?:(mean|mu|new_mean)|(std|sigma|new_std))")
_MOST_NAMED = 12  # names in a message


class Layout(NamedTuple):
  """How some PyTorch code names the weights of a net, and what it computes with them.

  Attributes:
    about: whose code, in words.
    names: a key of `convert.NAMES`.
    models: the nets of ours that it can be, keys of `models.MODELS`.
    marks: names that every file of this layout holds, as patterns of whole names.
    absent: a pattern of names that no file of it holds; "" for none.
    first, last: names of the first convolution and the last linear layer.
    read: `read(arrays) -> fields` of our net that names and shapes tell, `name` among them.
    implied: fields that the code has fixed.
    open: fields that differ between nets of these names and shapes, and their possible values.
    unused: a pattern of arrays that files hold and the code's forward pass never reads.
    normalises: whether the code takes the data set's constants; otherwise a file without them may
      mean anything.
  """

  about: str
  names: str
  models: tuple[str, ...]
  marks: tuple[str, ...]
  first: str
  last: str
  read: Callable[[Arrays], dict[str, Any]]
  implied: Mapping[str, Any] = {}
  open: Mapping[str, tuple[Any, ...]] = {}
  absent: str = ""
  unused: str = ""
  normalises: bool = False


class Found(NamedTuple):
  """What a state dict is.

  Attributes:
    layout: a key of `LAYOUTS`.
    fields: of our net, as far as file and layout tell them: `name`, sizes, what the layout implies,
      `mean` and `std` if the file holds them.
    open: fields that they do not tell, and the possible values; `mean` and `std` have none listed.
    arrays: the weights, without prefixes, normalisation and what the code never reads.
    num_classes, num_channels: outputs of the last layer, inputs of the first.
  """

  layout: str
  fields: dict[str, Any]
  open: dict[str, tuple[Any, ...]]
  arrays: dict[str, np.ndarray]
  num_classes: int
  num_channels: int


def _count(arrays: Arrays, pattern: str) -> int:
  """How many names match a pattern as a whole."""
  return sum(re.fullmatch(pattern, name) is not None for name in arrays)


def _read_trades(arrays: Arrays) -> dict[str, Any]:
  depth = 6 * _count(arrays, r"block1\.layer\.\d+\.conv1\.weight") + 4
  width = arrays["block1.layer.0.conv1.weight"].shape[0] // 16
  return {"name": "wide_resnet", "depth": depth, "width": width}


def _read_deepmind(arrays: Arrays) -> dict[str, Any]:
  depth = 6 * _count(arrays, r"layer\.0\.block\.\d+\.conv_0\.weight") + 4
  width = arrays["layer.0.block.0.conv_0.weight"].shape[0] // 16
  return {"name": "wide_resnet", "depth": depth, "width": width}


def _depth(arrays: Arrays, pattern: str, first: str, third: str = "") -> int:
  """18, 34 or 50, by the blocks of each group and whether they have a third convolution.

  Raises:
    ValueError: another number of blocks.
  """
  blocks = [0, 0, 0, 0]
  for name in arrays:
    if match := re.fullmatch(pattern, name):
      blocks[int(match[1]) - int(first)] += 1
  known = {(2, 2, 2, 2, False): 18, (3, 4, 6, 3, False): 34, (3, 4, 6, 3, True): 50}
  key = (*blocks, bool(third) and third in arrays)
  if key not in known:
    kind = "bottlenecks" if key[-1] else "blocks"
    raise ValueError(f"it has {tuple(blocks)} {kind} in its groups: only ResNet-18, 34 and 50 are")
  return known[key]


def _depth_of_resnet(arrays: Arrays) -> int:
  return _depth(arrays, r"layer([1-4])\.\d+\.conv1\.weight", "1", "layer1.0.conv3.weight")


def _read_deepmind_preact(arrays: Arrays) -> dict[str, Any]:
  depth = _depth(arrays, r"layer_([0-3])\.\d+\.conv_2d_1\.weight", "0")
  return {"name": f"preact_resnet{depth}", "width": arrays["conv_2d.weight"].shape[0]}


def _read_kuangliu(arrays: Arrays) -> dict[str, Any]:
  return {"name": f"resnet{_depth_of_resnet(arrays)}", "width": arrays["conv1.weight"].shape[0]}


def _read_kuangliu_preact(arrays: Arrays) -> dict[str, Any]:
  name = f"preact_resnet{_depth_of_resnet(arrays)}"
  final = "bn.weight" in arrays
  return {"name": name, "width": arrays["conv1.weight"].shape[0], "final_batchnorm": final}


def _read_torchvision(arrays: Arrays) -> dict[str, Any]:
  if (size := arrays["conv1.weight"].shape[-1]) != 7:
    raise ValueError(
      f"its first convolution is {size}x{size}, and whether stride 2 and max-pool follow can't be "
      "seen: name its layers as `convert.from_torch` takes them"
    )
  return _read_kuangliu(arrays)


def _read_cifar_resnet(arrays: Arrays) -> dict[str, Any]:
  return {"name": "cifar_resnet", "depth": 6 * _count(arrays, r"layer1\.\d+\.conv1\.weight") + 2}


_RELU: dict[str, Any] = {"activation": "relu"}
_SWISH_OR_RELU = {"activation": ("swish", "relu")}

LAYOUTS: dict[str, Layout] = {
  "trades": Layout(
    about="the WideResNet of TRADES, which many programs copied, RobustBench among them",
    names="trades_wide_resnet",
    models=("wide_resnet",),
    marks=(r"block1\.layer\.0\.conv1\.weight", r"block3\.layer\.0\.convShortcut\.weight"),
    first="conv1.weight",
    last="fc.weight",
    read=_read_trades,
    implied={"padding": "symmetric", **_RELU},
    unused=r"sub_block1\..*",
  ),
  "deepmind": Layout(
    about="DeepMind's WideResNet",
    names="wide_resnet",
    models=("wide_resnet",),
    marks=(r"init_conv\.weight", r"layer\.0\.block\.0\.conv_0\.weight"),
    first="init_conv.weight",
    last="logits.weight",
    read=_read_deepmind,
    implied={"padding": "same"},
    open=_SWISH_OR_RELU,
    normalises=True,
  ),
  "deepmind_preact": Layout(
    about="DeepMind's PreActResNet",
    names="preact_resnet18",
    models=("preact_resnet18", "preact_resnet34"),
    marks=(r"conv_2d\.weight", r"layer_0\.0\.conv_2d_1\.weight"),
    first="conv_2d.weight",
    last="logits.weight",
    read=_read_deepmind_preact,
    implied={"padding": "same", "shortcut": "3x3_raw", "final_batchnorm": True},
    open=_SWISH_OR_RELU,
    normalises=True,
  ),
  "kuangliu": Layout(
    about="ResNet for CIFAR with `shortcut` and `linear`, as in RobustBench's resnet.py",
    names="kuangliu_resnet",
    models=("resnet18", "resnet34", "resnet50"),
    marks=(r"bn1\.weight", r"layer4\.0\.shortcut\.1\.weight", r"linear\.weight"),
    first="conv1.weight",
    last="linear.weight",
    read=_read_kuangliu,
    implied={"stem": "cifar", **_RELU},
  ),
  "kuangliu_preact": Layout(
    about="PreActResNet for CIFAR with `shortcut` and `linear`, as in RobustBench's resnet.py",
    names="kuangliu_preact_resnet",
    models=("preact_resnet18", "preact_resnet34", "preact_resnet50"),
    marks=(r"layer1\.0\.bn1\.weight", r"layer4\.0\.shortcut\.0\.weight", r"linear\.weight"),
    absent=r"bn1\.weight|.*shortcut\.1\..*",
    first="conv1.weight",
    last="linear.weight",
    read=_read_kuangliu_preact,
    implied={"padding": "symmetric", **_RELU},
    open={"shortcut": ("1x1_raw", "1x1_activated")},
  ),
  "torchvision": Layout(
    about="ResNet of torchvision and timm",
    names="resnet50",
    models=("resnet18", "resnet34", "resnet50"),
    marks=(r"bn1\.weight", r"layer4\.0\.downsample\.1\.weight", r"fc\.weight"),
    first="conv1.weight",
    last="fc.weight",
    read=_read_torchvision,
    implied={"stem": "imagenet", **_RELU},
  ),
  "cifar_resnet": Layout(
    about="ResNet of 6n + 2 layers for CIFAR with torchvision's names",
    names="cifar_resnet",
    models=("cifar_resnet",),
    marks=(r"bn1\.weight", r"layer3\.0\.downsample\.1\.weight", r"fc\.weight"),
    absent=r"layer4\..*",
    first="conv1.weight",
    last="fc.weight",
    read=_read_cifar_resnet,
    implied=_RELU,
  ),
  "msdnet": Layout(
    about="MSDNet-PyTorch; the sizes of its blocks are the config's to say",
    names="msdnet",
    models=("msdnet",),
    marks=(r"blocks\.0\.0\.layers\.0\.net\.0\.weight", r"classifier\.0\.linear\.weight"),
    first="blocks.0.0.layers.0.net.0.weight",
    last="classifier.0.linear.weight",
    read=lambda arrays: {"name": "msdnet"},
    implied={"exits": "all", **_RELU},
  ),
}
"""The layouts that are known."""


def is_torch(arrays: Mapping[str, Any]) -> bool:
  """Whether names are those of a state dict, and not ours, `params/…`.

  >>> is_torch({"params/logits/bias": 0}), is_torch({"fc.bias": 0})
  (False, True)
  """
  return not any(name.startswith("params/") for name in arrays)


def identify(arrays: Arrays, *, layout: str = "", metadata: Mapping[str, str] = {}) -> Found:
  """Finds out what a state dict is, from its names and shapes.

  Args:
    arrays: by name, as the file has them.
    layout: a key of `LAYOUTS`, where it is known; "" to look for it.
    metadata: of the file; our own exports say there what names can't tell.

  Returns:
    The layout, the fields of our net, and those that are open.

  Raises:
    ValueError: no layout fits, or several, or not the one that is named; a mean without a standard
      deviation.
  """
  arrays, normalisation = _strip(arrays)
  said = _read_note(metadata)
  layout = layout or said.get("layout", "")
  layout = _check_fits(layout, arrays) if layout else _look_for(arrays)
  entry = LAYOUTS[layout]
  if entry.unused:
    arrays = {name: a for name, a in arrays.items() if not re.fullmatch(entry.unused, name)}
  for name in (entry.first, entry.last):
    if name not in arrays:
      raise ValueError(f"it has the layout {layout!r} ({entry.about}), but lacks {name}")
  try:
    fields = entry.read(arrays) | dict(entry.implied)
  except (KeyError, IndexError) as error:
    raise ValueError(f"it has the layout {layout!r}, but lacks {error}") from error
  known = {key: said[key] for key in (*entry.open, "mean", "std") if key in said} | normalisation
  open_ = {key: values for key, values in entry.open.items() if key not in known}
  if "mean" not in known and not entry.normalises:
    open_ |= {"mean": (), "std": ()}
  return Found(
    layout, fields | known, open_, arrays,
    num_classes=arrays[entry.last].shape[0], num_channels=arrays[entry.first].shape[1],
  )  # fmt: skip


def _strip(arrays: Arrays) -> tuple[dict[str, np.ndarray], dict[str, tuple[float, ...]]]:
  """Arrays without the prefixes that all of them have, and apart from them `mean` and `std`."""
  rest, found = dict(arrays), {}
  while True:
    for name in list(rest):
      if match := _NORMALISATION.fullmatch(name):
        key = "mean" if match[1] else "std"
        if key in found:
          raise ValueError(f"it holds two arrays that may be a {key} of the pixels: {name} is one")
        found[key] = _numbers(rest.pop(name))
    prefix = next((p for p in _PREFIXES if rest and all(n.startswith(p) for n in rest)), None)
    if prefix is None:
      break
    rest = {name.removeprefix(prefix): array for name, array in rest.items()}
  if len(found) == 1:
    raise ValueError(f"it holds the {next(iter(found))} of a normalisation without its counterpart")
  return rest, found


def _numbers(array: np.ndarray) -> tuple[float, ...]:
  """Constants per channel as the shortest decimals that are the same float32."""
  return tuple(float(str(np.float32(value))) for value in np.ravel(array))


def _read_note(metadata: Mapping[str, str]) -> dict[str, Any]:
  """What one of our exports says of itself; nothing of another file."""
  try:
    note = json.loads(metadata.get(METADATA, "{}"))
  except ValueError as error:
    raise ValueError(f"its metadata {METADATA!r} is damaged ({error})") from error
  if not isinstance(note, dict):
    raise ValueError(f"its metadata {METADATA!r} is damaged: expected an object")
  return {key: tuple(v) if isinstance(v, list) else v for key, v in note.items()}


def _lacking(layout: str, arrays: Arrays) -> list[str]:
  """What keeps arrays from having a layout: marks that are absent, names that should be."""
  entry = LAYOUTS[layout]
  lacking = [mark.replace("\\", "") for mark in entry.marks if not _count(arrays, mark)]
  if entry.absent and _count(arrays, entry.absent):
    lacking.append("to be without some of its names")
  return lacking


def _check_fits(layout: str, arrays: Arrays) -> str:
  """The layout that is named, if its marks are there."""
  check_name("init_layout", layout, LAYOUTS)
  if lacking := _lacking(layout, arrays):
    raise ValueError(
      f"it has not the layout {layout!r} ({LAYOUTS[layout].about}): that would need {lacking[0]}; "
      f"{_shown(arrays)}"
    )
  return layout


def _look_for(arrays: Arrays) -> str:
  """The only layout whose marks are there."""
  found = [layout for layout in LAYOUTS if not _lacking(layout, arrays)]
  if len(found) == 1:
    return found[0]
  if found:
    raise ValueError(f"it may have the layout {' or '.join(found)}: set init_layout to one of them")
  raise ValueError(
    f"no layout that is known has its names ({_shown(arrays)}); known are {', '.join(LAYOUTS)}. "
    "Other nets are read by jax_robust.models.convert.from_torch, with a mapping of names"
  )


def _shown(arrays: Arrays) -> str:
  names = list(arrays)[:_MOST_NAMED]
  return f"it holds {', '.join(names)}{', …' if len(arrays) > len(names) else ''}"


def layout_of(net: Any, name: str, *, layout: str = "") -> str:
  """The layout in which a net of ours can be written.

  Args:
    net: the module.
    name: of the model, a key of `models.MODELS`.
    layout: the wanted one; "" takes the first whose code computes what the net computes.

  Returns:
    A key of `LAYOUTS`.

  Raises:
    ValueError: none of them does, or not the wanted one; the message says in what they differ.
  """
  if layout:
    check_name("layout", layout, LAYOUTS)
  reasons = []
  for each in [layout] if layout else LAYOUTS:
    if (reason := _difference(LAYOUTS[each], net, name)) is None:
      return each
    reasons += [f"{each}: {reason}"] if reason else []
  wanted = f"the layout {layout}" if layout else "any PyTorch layout that is known"
  reason = "; ".join(reasons) or "none is of this net"
  raise ValueError(f"a {name} like this can't be written in {wanted}: {reason}")


def _difference(entry: Layout, net: Any, name: str) -> str | None:
  """In what the code of a layout differs from a net; "" for another net, None for nothing."""
  if name not in entry.models:
    return ""
  fixed = {**entry.implied, "bn_epsilon": 1e-5}
  for field, value in fixed.items():
    if not is_same(getattr(net, field), value):
      return f"its code has {field}={value!r}, this net {getattr(net, field)!r}"
  for field, values in entry.open.items():
    if not any(is_same(getattr(net, field), value) for value in values):
      return f"its code has {field} {' or '.join(map(repr, values))}, not {getattr(net, field)!r}"
  if net.pad_to is not None and not entry.normalises:
    return f"its code does not pad images, this net has pad_to={net.pad_to}"
  if name == "wide_resnet" and net.width == 1:
    return "its code has no projection in the first group at width=1, this net always has"
  return None


def is_same(first: Any, second: Any) -> bool:
  """Whether two values of a net's field mean the same, numbers to the precision of float32.

  >>> is_same("silu", "swish"), is_same((0.5, 0.5, 0.5), [0.5]), is_same(1, 2)
  (True, True, False)
  """
  if isinstance(first, str) or isinstance(second, str):
    return first == second or {first, second} == {"silu", "swish"}
  if isinstance(first, (tuple, list)) and isinstance(second, (tuple, list)):
    longest = max(len(first), len(second))
    first, second = (tuple(each) * (longest if len(each) == 1 else 1) for each in (first, second))
    return len(first) == len(second) and bool(np.allclose(first, second, rtol=1e-6, atol=1e-7))
  return first == second


def note(net: Any, layout: str) -> dict[str, str]:
  """The metadata of a state dict: what its names can't tell, as `identify` reads it.

  Args:
    net: the module.
    layout: a key of `LAYOUTS`.
  """
  fields = ("mean", "std", "padding", "shortcut", "stem", "activation", "pad_to")
  said = {field: getattr(net, field) for field in fields if hasattr(net, field)}
  return {METADATA: json.dumps({"layout": layout, **said})}
