"""Folders of shards, read with random access in constant memory.

The samples lie in random order in plain .npy files, which a manifest lists:

    folder/manifest.json
    folder/shard-00000-of-00016.images.npy     uint8 [n, h, w, c]
    folder/shard-00000-of-00016.labels.npy     int32 [n]
    folder/shard-00000-of-00016.NAME.npy       numbers [n, …], of each named column
    …

`shard_writer.write_shards` makes such a folder, `open_shards` opens it.
"""

import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import threading
from collections.abc import Callable

import numpy as np

from jax_robust.data import manifest as manifest_lib
from jax_robust.data import npy
from jax_robust.data.manifest import Manifest
from jax_robust.data.sources import Samples, Source, as_indices, label_problem
from jax_robust.errors import DataFileError, check_name

VERIFY = ("read", "size", "sha256", "none")

_REMEDY = "The folder was damaged or only partly copied: make or fetch it again."


@dataclasses.dataclass(frozen=True)
class ShardSet(Source):
  """A `Source` over shards; sample i is the i-th when the shards are read one after another.

  Guarantees:
    `constant_memory`: nothing is kept between reads, only the manifest.
    `labels_in_range`: one outside `[0, num_classes)` is an error when it is read, whatever `verify`
      was.

  Args:
    counts: Samples of each shard.
    read_shard: `read_shard(shard, offsets int64 [n]) -> (images, labels)` of one shard.
    manifest: Label histogram, generator, licence and all else.
  """

  counts: tuple[int, ...]
  read_shard: Callable[[int, np.ndarray], Samples]
  manifest: Manifest


def open_shards(folder: str | os.PathLike, *, verify: str = "read") -> ShardSet:
  """Opens a folder of shards.

  Guarantees:
    `damage_is_found`: with "read" and "sha256", no sample is returned from a file that is not, byte
      for byte, the one that was written.

  Args:
    folder: The folder that holds `manifest.json`.
    verify: "size" compares file sizes, shapes and dtypes with the manifest, and all labels with its
      histogram; "read" also every file's checksum: the labels' and columns' now, the images' before
      a shard is first read from, which reads it once more (.2 s for a shard of 65,536 CIFAR
      images); "sha256" compares all checksums now; "none" only looks at the heads of the files.

  Raises:
    DataFileError: a file is missing, truncated, damaged, or not what the manifest says.
    ValueError: an unknown `verify`.
  """
  check_name("verify", verify, VERIFY)
  folder = pathlib.Path(folder)
  manifest = manifest_lib.load(folder)
  files = [_open_shard(folder, shard, manifest.image_shape) for shard in manifest.shards]
  columns = {each.name: _open_column(folder, manifest, each) for each in manifest.columns}
  if verify != "none":
    _check_sizes([*files, *columns.values()])
    _check_labels(folder, files, manifest)
  _check_checksums(folder, manifest, verify)
  unverified = set(range(len(files))) if verify == "read" else set()
  lock = threading.Lock()

  counts = manifest.counts
  starts = np.concatenate([[0], np.cumsum(counts)])

  def read_shard(shard, offsets):
    images, labels = files[shard]
    offsets = as_indices(offsets, counts[shard], images.path)
    if shard in unverified:
      with lock:
        if shard in unverified:
          _check_sha256(images.path, manifest.shards[shard].images_sha256)
          unverified.discard(shard)
    read_labels = labels.read(offsets)
    problem = label_problem(read_labels, manifest.num_classes)
    if problem:
      raise DataFileError(labels.path, problem, _REMEDY)
    return images.read(offsets), read_labels

  def read(indices):
    indices, shards = _locate(indices, starts, str(folder))
    images = np.empty((len(indices), *manifest.image_shape), np.uint8)
    labels = np.empty(len(indices), np.int32)
    for shard in np.unique(shards):
      rows = shards == shard
      images[rows], labels[rows] = read_shard(shard, indices[rows] - starts[shard])
    return images, labels

  return ShardSet(
    name=str(folder),
    num_examples=manifest.num_examples,
    image_shape=manifest.image_shape,
    num_classes=manifest.num_classes,
    read=read,
    counts=counts,
    read_shard=read_shard,
    manifest=manifest,
    class_names=manifest.class_names,
    read_labels=functools.partial(_read_labels, files),
    columns={
      name: functools.partial(_read_column, column, starts, str(folder))
      for name, column in columns.items()
    },
  )


def _locate(indices, starts, folder) -> tuple[np.ndarray, np.ndarray]:
  """Samples of the whole set, checked, and the shard of each; shard s begins with starts[s]."""
  indices = as_indices(indices, int(starts[-1]), folder)
  return indices, np.searchsorted(starts, indices, side="right") - 1


def _read_labels(files) -> np.ndarray:
  """The labels of all shards."""
  return np.concatenate([labels.read(np.arange(labels.shape[0])) for _, labels in files])


def _read_column(files, starts, folder, indices) -> np.ndarray:
  """Entries of a column, which has a file for each shard."""
  indices, shards = _locate(indices, starts, folder)
  entries = np.empty((len(indices), *files[0].shape[1:]), files[0].dtype)
  for shard in np.unique(shards):
    rows = shards == shard
    entries[rows] = files[shard].read(indices[rows] - starts[shard])
  return entries


def sha256(path) -> str:
  """Returns a file's sha256, in hexadecimal."""
  with open(path, "rb") as stream:
    return hashlib.file_digest(stream, "sha256").hexdigest()


def _open_shard(folder, shard, image_shape) -> tuple[npy.RowFile, npy.RowFile]:
  """Opens the two files of a shard and compares their heads with the manifest."""
  return (
    _open_file(folder / shard.images, (shard.count, *image_shape), np.uint8),
    _open_file(folder / shard.labels, (shard.count,), np.int32),
  )


def _open_column(folder, manifest, column) -> list[npy.RowFile]:
  """Opens the files of a named column and compares their heads with the manifest."""
  counts = manifest.counts
  return [
    _open_file(
      folder / manifest_lib.column_file(column.name, shard, len(counts)),
      (count, *column.shape),
      np.dtype(column.dtype),
    )
    for shard, count in enumerate(counts)
  ]


def _open_file(path, shape, dtype) -> npy.RowFile:
  """Opens a file and compares its head with the manifest's."""
  file = npy.row_file(path)
  if file.shape != shape or file.dtype != dtype:
    reason = (
      f"holds {file.dtype} {list(file.shape)}, but {manifest_lib.NAME} says "
      f"{np.dtype(dtype)} {list(shape)}"
    )
    raise DataFileError(file.path, reason, _REMEDY)
  return file


def _check_sizes(files) -> None:
  """Refuses a file that is shorter or longer than its head says."""
  for file in itertools.chain.from_iterable(files):
    expected, size = file.file_bytes, os.path.getsize(file.path)
    if size != expected:
      what = "is truncated" if size < expected else "is too long"
      raise DataFileError(file.path, f"{what}: {size} bytes, expected {expected}", _REMEDY)


def _check_labels(folder, files, manifest) -> None:
  """Refuses labels out of range, and labels that do not add up to the manifest's histogram."""
  histogram = np.zeros(manifest.num_classes, np.int64)
  for _, file in files:
    for start in range(0, file.shape[0], 1 << 16):
      labels = file.read(np.arange(start, min(start + (1 << 16), file.shape[0])))
      problem = label_problem(labels, manifest.num_classes, start)
      if problem:
        raise DataFileError(file.path, problem, _REMEDY)
      histogram += np.bincount(labels, minlength=manifest.num_classes)
  if tuple(histogram.tolist()) != manifest.label_histogram:
    reason = (
      f"its label_histogram is {list(manifest.label_histogram)}, "
      f"the labels in the shards make {histogram.tolist()}"
    )
    raise DataFileError(folder / manifest_lib.NAME, reason, _REMEDY)


def _check_checksums(folder: pathlib.Path, manifest: manifest_lib.Manifest, verify: str) -> None:
  """Raises DataFileError where a file that `verify` names is not the one that was written."""
  for shard in manifest.shards:
    if verify in ("read", "sha256"):
      _check_sha256(folder / shard.labels, shard.labels_sha256)
    if verify == "sha256":
      _check_sha256(folder / shard.images, shard.images_sha256)
  if verify in ("read", "sha256"):
    for column in manifest.columns:
      for shard, expected in enumerate(column.sha256):
        name = manifest_lib.column_file(column.name, shard, len(column.sha256))
        _check_sha256(folder / name, expected)


def _check_sha256(path, expected: str) -> None:
  """Refuses a file whose checksum is not the manifest's."""
  if (found := sha256(path)) != expected:
    reason = f"its sha256 is {found}, {manifest_lib.NAME} says {expected}"
    raise DataFileError(path, reason, _REMEDY)
