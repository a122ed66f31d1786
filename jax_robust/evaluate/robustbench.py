"""An AutoAttack evaluation in the fields of RobustBench, and whether it compares with them."""

from collections.abc import Mapping
from typing import Any

NUM_IMAGES = 10_000

RADII: dict[str, dict[str, float]] = {
  "cifar10": {"linf": 8 / 255, "l2": 0.5},
  "cifar100": {"linf": 8 / 255},
}
"""The leaderboards for whole test sets. That for ImageNet takes 5,000 images of a fixed list."""

_ARCHITECTURES = {
  "wide_resnet": "WideResNet-{depth}-{width}",
  "preact_resnet": "PreActResNet-{depth}",
  "cifar_resnet": "ResNet-{depth}",
  "resnet": "ResNet-{depth}",
}


def architecture(model: Mapping[str, Any]) -> str:
  """What RobustBench calls a net; the name as it is where it has no such.

  >>> architecture({"name": "wide_resnet", "depth": 34, "width": 10})
  'WideResNet-34-10'
  >>> architecture({"name": "preact_resnet18"}), architecture({"name": "lenet"})
  ('PreActResNet-18', 'lenet')
  """
  name = model["name"]
  stem = name.rstrip("0123456789")
  if stem not in _ARCHITECTURES:
    return name
  return _ARCHITECTURES[stem].format(**{"depth": name.removeprefix(stem), **model})


def folder(result: Mapping[str, Any]) -> str:
  """Where RobustBench keeps results for this data set and norm.

  >>> folder({"data": "cifar10", "norm": "linf"})
  'model_info/cifar10/Linf'
  """
  return f"model_info/{result['data']}/{result['norm'].capitalize()}"


def entry(
  result: Mapping[str, Any], model: Mapping[str, Any], *, trained_here: bool, generated: bool
) -> dict[str, Any]:
  """The fields of a file of RobustBench's `model_info`; None for those that only an author knows.

  Accuracies are percentages as text, with two decimals, and eps is a fraction of 255 where it is a
  whole one, as there.

  Args:
    result: of the job `autoattack` at one eps.
    model: the config's block, with every field that the architecture is named by.
    trained_here: whether the weights are of a run that started afresh: what they were trained on is
      known, and nothing else was.
    generated: whether generated images were among it, which count as no additional data there, but
      stand in the footnote.
  """
  footnote = "It uses generated images in training." if trained_here and generated else None
  return {
    "link": None,
    "name": None,
    "authors": None,
    "additional_data": False if trained_here else None,
    "number_forward_passes": 1,
    "dataset": result["data"],
    "venue": None,
    "architecture": architecture(model),
    "eps": fraction(result["eps"]),
    "clean_acc": f"{100 * result['clean']:.2f}",
    "reported": None,
    "autoattack_acc": f"{100 * result['robust']:.2f}",
    "footnote": footnote,
    "unreliable": bool(result["warnings"]),
  }


def comparable(result: Mapping[str, Any]) -> str:
  """'yes', or 'no, because …': whether a number may stand beside those of the leaderboard.

  These are of the standard version, at one radius, for all test images, in float32. In which order
  images come does not matter where all are evaluated; our flags depend on no order anyway.

  Args:
    result: of the job `autoattack` at one eps.

  >>> comparable({"data": "mnist"})
  "no, because it has no leaderboard for 'mnist' on a whole test set"
  """
  reasons = list(_differences(result))
  return f"no, because {'; and '.join(reasons)}" if reasons else "yes"


def _differences(result: Mapping[str, Any]):
  """In what an evaluation is not the leaderboard's."""
  radii = RADII.get(result["data"])
  if radii is None:
    yield f"it has no leaderboard for {result['data']!r} on a whole test set"
    return
  if result["norm"] not in radii:
    yield f"it has no leaderboard for {result['data']} in {result['norm']}"
  elif abs(result["eps"] - radii[result["norm"]]) > 1e-6:
    yield f"eps is {fraction(result['eps'])}, there {fraction(radii[result['norm']])}"
  if result["version"] != "standard":
    yield f"the version is {result['version']}, there standard"
  if result["split"] != "test":
    yield f"the split is {result['split']!r}, there the test set"
  elif result["num_examples"] != NUM_IMAGES or not result["complete"]:
    yield (
      f"{result['num_examples']:,} images were evaluated, there all {NUM_IMAGES:,}, or the first "
      "of them in torchvision's order"
    )
  if result["precision"] not in ("highest", "float32"):
    yield f"the precision is {result['precision']!r}, there float32"
  if result["warnings"]:
    yield "the evaluation warns of itself (see `warnings`)"


def fraction(eps: float) -> str:
  """A radius as RobustBench writes it.

  >>> fraction(8 / 255), fraction(0.5)
  ('8/255', '0.5')
  """
  whole = round(255 * eps)
  return f"{whole}/255" if whole and abs(255 * eps - whole) < 1e-4 else f"{eps:.6g}"
