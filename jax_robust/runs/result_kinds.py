"""The kinds of results: what each file of a workdir's `results/*.json` holds, as one table.

A type is `int`, `number`, `text`, `flag`, `interval` (two numbers, low and high), `object`
(anything by name), `any`, or the name of a part; or made of these: `list of T`, `map of T` (by
name), `T or null`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Field(NamedTuple):
  """What stands under one name.

  Attributes:
    type: as the head of this module describes it.
    meaning: what it is.
    unit: of the number or numbers; '' where they have none.
    optional: whether only some results have it.
  """

  type: str
  meaning: str
  unit: str = ""
  optional: bool = False


class Kind(NamedTuple):
  """A kind of result, or a part that several have.

  Attributes:
    meaning: what it is, in one line.
    fields: by name. `*` in a name stands for what a config may choose; names without one go first,
      then those with more letters.
    version: raised where a reader of the older files would misread the newer ones.
  """

  meaning: str
  fields: Mapping[str, Field]
  version: int = 1


_SHARE = "share of images"

COMMON = {
  "kind": Field("text", "which of these tables the file keeps to"),
  "version": Field("int", "of the kind; files of before there were versions have none"),
  "command": Field("text", "as it was typed; empty where a program called the job", optional=True),
  "versions": Field("versions", "what it ran with"),
}
"""What every result has, added where it is written."""

_IMAGES = {
  "split": Field("text", "the split that the images are of, in the notation of TFDS"),
  "images_sha256": Field("text", "digest of the images"),
  "labels_sha256": Field("text", "digest of their labels"),
}
_CLASS_NAMES = Field("list of text", "of the classes, where they have some", optional=True)
_PRECISION = Field("text", "of matrix products")
_SEED = Field("int", "of the randomness")
_WEIGHTS = Field("text", "digest of the weights")
_EPS = Field("number", "radius of the attack", "of the norm, pixels from 0 to 1")
_COMPLETE = Field("flag", "whether all images that were asked for are in it")
_NUM_LOST = "adversarial points without a finite score, which count as no attack"
_ATTACKED = Field("object", "the attack's name and options, as the config has them", optional=True)

_SUMMARY = {
  "*_interval": Field("interval", "95 % interval of the field of that name, over images"),
  "*": Field("number", "mean over images of what the config measures by that name", _SHARE),
}

PARTS = {
  "versions": Kind(
    "What a result depends on besides the config.",
    {
      "packages": Field("map of text", "versions by name"),
      "python": Field("text", "version of Python"),
      "platform": Field("text", "operating system and machine"),
      "backend": Field("text", "of JAX"),
      "devices": Field("list of text", "kind of each device"),
      "hardware": Field("text", "processor with its cores, or accelerators", optional=True),
      "processes": Field("int", "that worked together"),
      "date": Field("text", "when it was written, UTC"),
    },
  ),
  "point": Kind(
    "A point of a curve over radii.",
    {
      "eps": _EPS,
      "robust": Field("number", "accuracy under attack; at 0 without one", _SHARE),
      "interval": Field("interval", "95 % interval of it, over images", _SHARE),
    },
  ),
  "certified": Kind(
    "Certified accuracy at a radius.",
    {
      "radius": Field("number", "l2 radius", "pixels from 0 to 1"),
      "value": Field("number", "certified at this radius and right", _SHARE),
      "interval": Field("interval", "95 % band, over images", _SHARE),
    },
  ),
  "average": Kind(
    "The average certified radius (ACR).",
    {
      "value": Field("number", "mean of radius times correct", "l2, pixels from 0 to 1"),
      "standard_error": Field("number", "of the mean", "l2, pixels from 0 to 1"),
      "low": Field("number", "of the 95 % interval"),
      "high": Field("number", "of the 95 % interval"),
      "num_images": Field("int", "that it is over", optional=True),
    },
  ),
  "weights": Kind(
    "Where weights are from.",
    {
      "step": Field("int or null", "of the training", "batches"),
      "checkpoint": Field("text", "'best', 'latest', 'accepted', or init_from"),
      "sha256": _WEIGHTS,
      "*": Field("any", "what else the checkpoint says"),
    },
  ),
  "share": Kind(
    "A share of images.",
    {
      "value": Field("number", "the share", _SHARE),
      "interval": Field("interval", "95 % interval of it", _SHARE),
    },
  ),
  "mean": Kind(
    "A mean over seeds, or a number of one cell.",
    {
      "value": Field("number", "the mean"),
      "low": Field("number", "of the 95 % interval: Student's over seeds, of one over its images"),
      "high": Field("number", "of the 95 % interval"),
      "sd": Field("number or null", "standard deviation over seeds; null of one"),
      "values": Field("list of number", "one a seed"),
    },
  ),
  "row": Kind(
    "A row of a sweep: cells that differ in what means are taken over.",
    {
      "changes": Field("map of text", "what the row's cells have in common, as it was typed"),
      "cells": Field("int", "how many are finished", "cells"),
      "failed": Field("map of text", "errors by cell"),
      "means": Field("map of mean", "by what was measured"),
    },
  ),
  "evaluation": Kind(
    "AutoAttack at one radius.",
    {
      "version": Field("any", "'standard', 'plus', 'rand', 'aa+mt', or a list of attacks"),
      "norm": Field("text", "'linf', 'l2' or 'l1'"),
      "eps": _EPS,
      "seed": _SEED,
      "chunk_size": Field("int", "images of a piece", "images"),
      "data": Field("text", "name of the data set"),
      "weights_sha256": _WEIGHTS,
      "precision": _PRECISION,
      **_IMAGES,
      "num_examples": Field("int", "images that were evaluated", "images"),
      "complete": _COMPLETE,
      "clean": Field("number", "accuracy without an attack", _SHARE),
      "clean_interval": Field("interval", "95 % interval of it", _SHARE),
      "robust": Field("number", "accuracy under all attacks", _SHARE),
      "robust_interval": Field("interval", "95 % interval of it", _SHARE),
      "robust_after": Field("map of number", "accuracy after each attack, in their order", _SHARE),
      "max_distance": Field("number", "largest distance of an adversarial image", "of the norm"),
      "forward_per_image": Field("number", "mean over images", "forward passes"),
      "backward_per_image": Field("number", "mean over images", "backward passes"),
      "rejected": Field("int", "points that an attack claimed and that were not confirmed"),
      "warnings": Field("list of text", "why the number may be too high"),
      "flags": Field("map of list of int", "of each image: id, label, predictions, what held"),
    },
  ),
}
"""What types of fields may name."""

KINDS = {
  "train": Kind(
    "How a training ended.",
    {
      "step": Field("int", "the last one", "batches"),
      "preempted": Field("flag", "false: a training that was told to stop writes no result"),
      "best": Field("object", "step, metric and value of the best checkpoint"),
      "overfitting": Field("object", "what the detector saw, where there is one", optional=True),
    },
  ),
  "evaluate": Kind(
    "What `config.evals` measures on test images, and a curve over radii.",
    {
      "evals": Field("list of text", "the names of what was measured, each a field of its own"),
      "num_examples": Field("int", "images that were measured", "images"),
      "num_lost": Field("map of int", f"{_NUM_LOST}, by measure"),
      "per_class": Field("object", "the means over each class, and its count of images"),
      "eps": Field("number", "radius of the attack", _EPS.unit, optional=True),
      "norm": Field("text", "of the attack: 'linf', 'l2' or 'l1'", optional=True),
      "attack": _ATTACKED,
      "curve": Field("list of point", "accuracy by radius", optional=True),
      "exit": Field("any", "which exit answers: a number, 'last', 'mean' or 'mean:K'"),
      "precision": _PRECISION,
      **_IMAGES,
      "weights": Field("weights", "what was measured"),
      "class_names": _CLASS_NAMES,
      **_SUMMARY,
    },
  ),
  "autoattack": Kind(
    "AutoAttack, or a version of it, at one radius or several.",
    {
      "clean": Field("number", "accuracy without an attack", _SHARE),
      "clean_interval": Field("interval", "95 % interval of it", _SHARE),
      "robust": Field("number", "accuracy under all attacks at the main radius", _SHARE),
      "robust_interval": Field("interval", "95 % interval of it", _SHARE),
      "eps": _EPS,
      "curve": Field("list of point", "accuracy by radius"),
      "evaluations": Field("list of evaluation", "each radius by itself"),
      "class_names": _CLASS_NAMES,
    },
  ),
  "robustbench": Kind(
    "An AutoAttack evaluation as RobustBench would list it.",
    {
      "comparable with the leaderboard": Field("text", "'yes', or 'no, because …'"),
      "folder": Field("text", "where that project keeps such files"),
      "entry": Field("object", "the fields of such a file; null for what only an author knows"),
    },
  ),
  "certify": Kind(
    "A certification by randomized smoothing, of one net at one sigma.",
    {
      "net": Field("text", "name of the net"),
      "sigma": Field("number", "standard deviation of the noise", "pixels from 0 to 1"),
      "trained_sigma": Field("number or null", "of the noise in training, if known"),
      "n0": Field("int", "draws by which the class is chosen", "draws"),
      "n": Field("int", "draws by which it is certified", "draws"),
      "alpha": Field("number", "probability with which a certificate may be wrong"),
      "noise": Field("text", "'gaussian', or 'sound'"),
      "radii": Field("list of number", "that were decided, if any", "l2, pixels from 0 to 1"),
      "tolerance": Field("number", "to which radii are known; 0: as well as the draws allow"),
      "start": Field("int", "number of the first image"),
      "stop": Field("int", "number behind the last one; 0 for the end"),
      "skip": Field("int", "every so many-th image"),
      "max": Field("int", "most images; 0 for no limit"),
      "draw": Field("text", "how images were drawn, where some were", optional=True),
      "draw_seed": Field("int", "of that draw", optional=True),
      "seed": _SEED,
      "precision": _PRECISION,
      "data": Field("text", "name of the data set"),
      "num_images": Field("int", "images that were certified", "images"),
      "num_classes": Field("int", "of the net", "classes"),
      **_IMAGES,
      "weights_sha256": _WEIGHTS,
      "complete": _COMPLETE,
      "average_certified_radius": Field("average", "the ACR"),
      "certified_accuracy": Field("list of certified", "by radius"),
      "abstained": Field("int", "images without a certificate", "images"),
      "draws_per_image": Field("number", "mean over images", "draws"),
      "seconds_per_image": Field("number", "mean over images", "seconds"),
      "decisions": Field("object", "of `radii`: shares certified, draws", optional=True),
      "calibration_error": Field("number", "expected error of the votes' shares", optional=True),
    },
  ),
  "predict": Kind(
    "What a smoothed model says of a folder of images; `predict.csv` has a line for each.",
    {
      "sigma": Field("number", "standard deviation of the noise", "pixels from 0 to 1"),
      "n": Field("int", "draws for each image", "draws"),
      "alpha": Field("number", "probability with which a prediction may be wrong"),
      "noise": Field("text", "'gaussian', or 'sound'"),
      "seed": _SEED,
      "precision": _PRECISION,
      "weights_sha256": _WEIGHTS,
      "names_sha256": Field("text", "digest of the images' names"),
      "num_images": Field("int", "images", "images"),
      "abstained": Field("int", "images of which it can't tell", "images"),
    },
  ),
  "analysis": Kind(
    "Certification logs side by side.",
    {"average_certified_radius": Field("map of average", "the ACR, by log")},
  ),
  "early_exit": Kind(
    "A multi-exit net: each exit, ensembles, budgets, and the net as it is deployed.",
    {
      "weights": Field("weights", "what was measured"),
      "num_exits": Field("int", "of the net", "exits"),
      "costs": Field("map of list of number", "of each exit, by unit"),
      "exits": Field("list of object", "cost and accuracy of each"),
      "ensembles": Field("list of object", "cost and accuracy of each mean of exits"),
      "budgets": Field("list of object", "thresholds and accuracy by budget"),
      "deployed": Field("object", "thresholds, their rule and digest, accuracy, cost, seconds"),
      "slowdown": Field("object", "what attacks on the cost did"),
      "attack": _ATTACKED,
      "aim": Field("any", "what the attack was aimed at", optional=True),
      "num_lost": Field("int", _NUM_LOST, optional=True),
      "precision": _PRECISION,
      "num_examples": Field("int", "images that were measured", "images"),
      **_IMAGES,
    },
  ),
  "exit_attacks": Kind(
    "A multi-exit net attacked at every aim, each point scored under every rule.",
    {
      "eps": _EPS,
      "norm": Field("text", "'linf'"),
      "seed": _SEED,
      "thresholds": Field("list of number", "of the deployed rule"),
      "rules": Field("list of text", "which exit answers"),
      "data": Field("text", "name of the data set"),
      "num_examples": Field("int", "images to which all attacks came", "images"),
      "complete": _COMPLETE,
      "weights_sha256": _WEIGHTS,
      "precision": _PRECISION,
      **_IMAGES,
      "clean": Field("map of share", "accuracy without an attack, by rule"),
      "robust": Field("map of share", "accuracy under all attacks, by rule"),
      "attacks": Field("map of map of number", "accuracy by attack and rule", _SHARE),
      "aims": Field("map of map of number", "accuracy by aim and rule", _SHARE),
      "points": Field("map of map of number", "accuracy by attack, aim and rule", _SHARE),
      "apart": Field("map of map of number", "of attacks that keep to no eps", _SHARE),
      "checks": Field("map of map of number", "at twice the radius", _SHARE),
      "flags": Field("list of object", "signs that gradients are masked, with the numbers"),
      "attempts": Field("list of object", "the budget of each attack"),
      "num_lost": Field("map of int", f"{_NUM_LOST}, by attack"),
      "apart_distance": Field("number", "median distance of attacks that keep to no eps", "l2"),
    },
  ),
  "compare": Kind(
    "Several trainings side by side; the fields of `evaluate` are those of the first.",
    {"runs": Field("map of object", "the fields of `evaluate`, by run"), "*": Field("any", "")},
  ),
  "curves": Kind(
    "Which trainings the picture of the same name shows.",
    {
      "runs": Field("map of text", "folders by name"),
      "alarms": Field("map of list of object", "rows of alarms of overfitting, by run"),
    },
  ),
  "cell": Kind(
    "A finished cell of a sweep.",
    {
      "belongs_to": Field("text", "digest of all that its numbers depend on"),
      "numbers": Field("map of list of number", "value, low and high, by what was measured"),
      "failed": Field("text", "the error that ended its training, or nothing"),
    },
  ),
  "sweep": Kind(
    "A grid of trainings.",
    {
      "grid": Field("text", "as it was typed"),
      "over": Field("text", "the key over which means are taken"),
      "complete": Field("flag", "whether all cells are finished"),
      "missing": Field("list of text", "cells that are not"),
      "rows": Field("list of row", "of the table"),
    },
  ),
  "generate": Kind(
    "A constructed set: what it was made of, and what came of it.",
    {
      "generator": Field("text", "what made it"),
      "licence": Field("text", "of the images"),
      "seed": _SEED,
      "num_shards": Field("int or null", "files; null: as many as it takes"),
      "num_examples": Field("int", "images", "images"),
      "num_classes": Field("int", "classes"),
      "options": Field("object", "of the method"),
      "precision": _PRECISION,
      "weights_sha256": Field("list of text", "digest of the weights of each net"),
      "class_names": _CLASS_NAMES,
      "images_sha256": _IMAGES["images_sha256"],
      "labels_sha256": _IMAGES["labels_sha256"],
      **_SUMMARY,
    },
  ),
  "study": Kind(
    "A published experiment, made again.",
    {
      "study": Field("text", "its name"),
      "claim": Field("text", "what was published, in a sentence"),
      "answer": Field("text", "'held here', 'not held here', or 'not decidable at this size'"),
      "num_seeds": Field("int", "trainings behind each of our numbers", "seeds"),
      "ours": Field("object", "our numbers"),
      "published": Field("object", "theirs, under the same names"),
      "date": Field("text", "when it ended"),
      "seconds": Field("number", "that the last start took", "seconds"),
      "hardware": Field("text", "processor with its cores, or accelerators"),
    },
  ),
  "test_images": Kind(
    "Which test images were drawn, where not all were measured.",
    {
      "draw": Field("text", "how"),
      "seed": _SEED,
      "ids": Field("list of int", "their numbers in the split"),
      "of": Field("int", "images of the split", "images"),
    },
  ),
  "report": Kind(
    "The table of a report.",
    {
      "table": Field(
        "map of list of any", "columns of one length, by name; null where there is nothing"
      ),
      "problems": Field("map of list of text", "what could not be read, by folder"),
    },
  ),
}
"""What each kind holds besides `COMMON`."""


def stamped(kind: str, result: Mapping[str, Any]) -> dict[str, Any]:
  """The result with its kind and version, which is 1 of a kind that is not in the table.

  Raises:
    ValueError: it has a field of that name already.
  """
  version = KINDS[kind].version if kind in KINDS else 1
  if taken := sorted({"kind", "version"} & result.keys()):
    raise ValueError(f"a result of kind {kind!r} has a field {taken[0]!r} of its own: rename it")
  return {"kind": kind, "version": version, **result}


def kind_of(name: str, result: Mapping[str, Any]) -> tuple[str, int]:
  """Kind and version of a file that was read.

  One of before there were versions is of version 0, and of the kind that its name says.

  >>> kind_of("certify_lenet_sigma0.5", {}), kind_of("x", {"kind": "train", "version": 1})
  (('certify', 0), ('train', 1))
  """
  kind, version = result.get("kind"), result.get("version")
  if isinstance(kind, str) and isinstance(version, int):
    return kind, version
  return ("certify" if name.startswith("certify_") else name), 0


def problems(result: Mapping[str, Any], kind: str = "", *, some_missing: bool = False) -> list[str]:
  """In what a result is not as the table says, a line each; none for a kind that is not in it.

  Args:
    result: as it was read, or is written.
    kind: of the result; its own by default.
    some_missing: whether fields may be, as in a result of an earlier version.

  >>> problems({"kind": "cell", "belongs_to": 3}, some_missing=True)
  ['belongs_to is 3: expected text']
  """
  kind = kind or str(result.get("kind"))
  if kind not in KINDS:
    return []
  fields = {**COMMON, **KINDS[kind].fields}
  return list(_problems(result, fields, "", all_there=not some_missing))


def _problems(
  value: Mapping[str, Any], fields: Mapping[str, Field], where: str, *, all_there: bool
):
  """What is not as the fields say, in an object."""
  if all_there:
    for name, field in fields.items():
      if name not in value and not field.optional and "*" not in name:
        yield f"{where}{name} is missing"
  for name, inner in value.items():
    field = fields.get(name) or _pattern(name, fields)
    if field is None:
      yield f"{where}{name} is no field of it"
    else:
      yield from _mistyped(inner, field.type, f"{where}{name}", all_there=all_there)


def _pattern(name: str, fields: Mapping[str, Field]) -> Field | None:
  """The field with the longest name with `*` that stands for this one."""
  found = [each for each in fields if "*" in each and name.endswith(each.removeprefix("*"))]
  return fields[max(found, key=len)] if found else None


_PLAIN = {
  "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
  "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
  "text": lambda v: isinstance(v, str),
  "flag": lambda v: isinstance(v, bool),
  "object": lambda v: isinstance(v, Mapping),
  "any": lambda v: True,
}


def _mistyped(value: Any, kind: str, where: str, *, all_there: bool):
  """What is not of a type, in a value."""
  if kind.endswith(" or null"):
    kind = kind.removesuffix(" or null")
    if value is None:
      return
  outer, _, inner = kind.partition(" of ")
  if kind in _PLAIN:
    right = _PLAIN[kind](value)
  elif kind == "interval":
    right = (
      isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_PLAIN["number"], value))
    )
  else:
    right = isinstance(value, (list, tuple) if outer == "list" else Mapping)
  if not right:
    yield f"{where} is {str(value)[:60]}: expected {kind}"
  elif kind in PARTS:
    yield from _problems(value, PARTS[kind].fields, f"{where}.", all_there=all_there)
  elif inner:
    each = value.items() if isinstance(value, Mapping) else enumerate(value)
    for name, item in each:
      yield from _mistyped(item, inner, f"{where}.{name}", all_there=all_there)
