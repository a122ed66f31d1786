"""`manifest.json` of a folder of shards: shapes, classes, files with checksums, origin, licence."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_robust.data import storage
from jax_robust.data.columns import PROBABILITIES
from jax_robust.data.sources import ImageShape
from jax_robust.errors import DataFileError

NAME = "manifest.json"
FORMAT = "jax_robust shards"
VERSION = 1
_SHA256 = "sha256"
_LATER = ("class_names", "columns")  # which manifests of earlier versions lack
_TAKEN = ("images", "labels")
_NAME_OF_A_COLUMN = re.compile("[a-z][a-z0-9_]{0,63}")

_REMEDY = "Make the shards again (data.convert.make_shards), or fetch the folder again."


@dataclasses.dataclass(frozen=True)
class Shard:
  """One shard: `count` samples in two .npy files of the folder, with their sha256."""

  count: int
  images: str
  images_sha256: str
  labels: str
  labels_sha256: str


@dataclasses.dataclass(frozen=True)
class Column:
  """A named column: an entry for each sample, in one more .npy file of every shard.

  Args:
    name: Lower-case letters, digits and `_`; it is part of the files' names.
    dtype: Of NumPy, such as `<f4`.
    shape: Of one entry.
    sha256: Of the file of each shard.
  """

  name: str
  dtype: str
  shape: tuple[int, ...]
  sha256: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Manifest:
  """The content of `manifest.json`.

  Args:
    image_shape: (height, width, channels) of every image.
    num_classes: Labels lie in `[0, num_classes)`.
    label_histogram: Samples of each class, all shards together.
    shards: The shards in order.
    generator: What made the images: a program, a model, a file.
    licence: Under which terms they may be used.
    seed: Seed of the order in which the samples were shuffled.
    created_by: The program that wrote the folder.
    class_names: What the classes are called, in the order of the labels; () if it is not known.
    columns: What else there is of each sample.
  """

  image_shape: ImageShape
  num_classes: int
  label_histogram: tuple[int, ...]
  shards: tuple[Shard, ...]
  generator: str
  licence: str
  seed: int
  created_by: str
  class_names: tuple[str, ...] = ()
  columns: tuple[Column, ...] = ()

  @property
  def counts(self) -> tuple[int, ...]:
    """Samples in each shard."""
    return tuple(shard.count for shard in self.shards)

  @property
  def num_examples(self) -> int:
    """Samples in all shards."""
    return sum(self.counts)


def file_names(shard: int, num_shards: int) -> tuple[str, str]:
  """Returns the names of a shard's files.

  >>> file_names(3, 16)
  ('shard-00003-of-00016.images.npy', 'shard-00003-of-00016.labels.npy')
  """
  return column_file("images", shard, num_shards), column_file("labels", shard, num_shards)


def column_file(name: str, shard: int, num_shards: int) -> str:
  """Returns the name of the file that holds a column of a shard."""
  return f"shard-{shard:05d}-of-{num_shards:05d}.{name}.npy"


def check_column(name: Any, dtype: Any, shape: Any) -> None:
  """Raises ValueError for a name that makes no file name of its own, and entries of no numbers."""
  if not isinstance(name, str) or not _NAME_OF_A_COLUMN.fullmatch(name) or name in _TAKEN:
    raise ValueError(
      f"column {name!r}: expected a name of lower-case letters, digits and _, other than {_TAKEN}"
    )
  if np.dtype(dtype).kind not in "iufb" or not all(type(n) is int and n > 0 for n in shape):
    raise ValueError(f"column {name!r} has entries {dtype} {list(shape)}, expected numbers")


def dump(manifest: Manifest) -> str:
  """Returns the text of `manifest.json`; equal contents give equal texts."""
  head = {"format": FORMAT, "version": VERSION, "num_examples": manifest.num_examples}
  # Without names and columns, the text is that of manifests before there were any.
  fields = {k: v for k, v in dataclasses.asdict(manifest).items() if k not in _LATER or v}
  content = head | fields
  # First, where no lost stretch of text makes it part of another value.
  return json.dumps({_SHA256: _digest(content), **content}, indent=2) + "\n"


def load(folder) -> Manifest:
  """Reads and checks the manifest of a folder of shards.

  Raises:
    DataFileError: it is missing, no manifest, of a newer version, or contradicts itself.
  """
  path = storage.join(folder, NAME)
  try:
    if not storage.exists(path):
      reason = "is missing: this is no folder of shards"
      raise DataFileError(path, reason, "Check the path. " + _REMEDY)
    with storage.open_file(path) as stream:
      data = json.loads(stream.read().decode("utf-8"))
  except DataFileError:
    raise
  except (OSError, ValueError, RecursionError) as error:
    raise DataFileError(path, f"cannot be read as JSON ({error})", _REMEDY) from error
  if not isinstance(data, dict) or data.get("format") != FORMAT:
    raise DataFileError(path, f"does not say 'format': {FORMAT!r}", _REMEDY)
  if data.get("version") != VERSION:
    reason = f"is of version {data.get('version')!r}, this program reads version {VERSION}"
    raise DataFileError(path, reason, "Update jax_robust.")
  try:
    manifest = _parse(data)
    _check(manifest, data["num_examples"])
    sha256 = data.pop(_SHA256, None)  # none: of an earlier version
    if sha256 is not None and sha256 != _digest(data):
      raise ValueError(f"it is not what its {_SHA256} says; after a change on purpose, delete that")
  except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
    raise DataFileError(path, f"contradicts its format ({str(error)[:300]})", _REMEDY) from error
  return manifest


def _digest(content: Mapping[str, Any]) -> str:
  """The sha256 of a manifest's content, whatever the order of its keys."""
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _parse(data: Mapping[str, Any]) -> Manifest:
  """Builds the manifest; a missing key or another type is a KeyError, TypeError or ValueError."""
  data = {**dict.fromkeys(_LATER, ()), **data}
  fields = {field.name: data[field.name] for field in dataclasses.fields(Manifest)}
  fields["shards"] = tuple(Shard(**shard) for shard in data["shards"])
  for key in ("image_shape", "label_histogram", "class_names"):
    fields[key] = tuple(data[key])
  fields["columns"] = tuple(
    Column(each["name"], each["dtype"], tuple(each["shape"]), tuple(each["sha256"]))
    for each in data["columns"]
  )
  return Manifest(**fields)


def _check(manifest: Manifest, num_examples: int) -> None:
  """Raises a ValueError for numbers that cannot be and for file names that leave the folder."""
  counts = manifest.counts
  numbers = [*manifest.image_shape, *manifest.label_histogram, *counts]
  numbers += [manifest.num_classes, manifest.seed]
  if not all(type(number) is int and number >= 0 for number in numbers):
    raise ValueError("a size, count or seed is no whole number")
  if len(manifest.image_shape) != 3 or 0 in manifest.image_shape:
    raise ValueError(f"image_shape is {list(manifest.image_shape)}")
  if not counts or 0 in counts:
    raise ValueError("it is empty, or one of its shards is")
  if sum(counts) != num_examples:
    raise ValueError(f"the shards hold {sum(counts)} samples, num_examples is {num_examples}")
  if len(manifest.label_histogram) != manifest.num_classes:
    raise ValueError("label_histogram has not num_classes entries")
  names = manifest.class_names
  if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
    raise ValueError("class_names are no names, or one stands there twice")
  if names and len(names) != manifest.num_classes:
    raise ValueError("class_names has not num_classes entries")
  for column in manifest.columns:
    check_column(column.name, column.dtype, column.shape)
    if column.name == PROBABILITIES and column.shape != (manifest.num_classes,):
      raise ValueError(f"probabilities have entries {list(column.shape)}, one a class is expected")
    if len(column.sha256) != len(counts):
      raise ValueError(f"column {column.name!r} has {len(column.sha256)} checksums")
  if len({column.name for column in manifest.columns}) != len(manifest.columns):
    raise ValueError("a column stands there twice")
  if sum(manifest.label_histogram) != num_examples:
    raise ValueError("label_histogram does not add up to num_examples")
  for index, shard in enumerate(manifest.shards):
    if (shard.images, shard.labels) != file_names(index, len(counts)):
      raise ValueError(f"shard {index} is called {shard.images!r}, {shard.labels!r}")
