"""Folders of shards, read with random access in constant memory.

The samples lie in random order in plain .npy files, which a manifest lists:

    folder/manifest.json
    folder/shard-00000-of-00016.images.npy     uint8 [n, h, w, c]
    folder/shard-00000-of-00016.labels.npy     int32 [n]
    folder/shard-00000-of-00016.NAME.npy       numbers [n, …], of each named column
    …

`shard_writer.write_shards` makes such a folder, `open_shards` opens it.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jax_robust.data import manifest as manifest_lib
from jax_robust.data import storage
from jax_robust.data.manifest import Manifest
from jax_robust.data.shard_files import REMEDY, Fetched, ShardFile
from jax_robust.data.sources import Samples, Source, as_indices, label_problem
from jax_robust.errors import DataFileError, check_name, first_few

VERIFY = ("read", "size", "sha256", "none")

_NUM_THREADS = 16


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
    folder: The folder that holds `manifest.json`, local or in an object store that TensorFlow
      reads (`gs://bucket/set`). Of the latter each shard is fetched whole when it is first read
      from, and about the last 32 are kept in temporary files: local disk for 6.4 GB, at the default
      65,536 CIFAR images a shard.
    verify: "size" compares file sizes, shapes and dtypes with the manifest, and all labels with its
      histogram; "read" also every file's checksum: the labels' and columns' now, the images' before
      a shard is first read from, which reads it once more (.2 s for a shard of 65,536 CIFAR
      images); "sha256" compares all checksums now; "none" only looks at the heads of the files.

  Raises:
    DataFileError: files are missing, which are named, or one is truncated, damaged, or not what the
      manifest says; the path is in an object store, and TensorFlow is not installed.
    ValueError: an unknown `verify`.
  """
  check_name("verify", verify, VERIFY)
  manifest = manifest_lib.load(folder)
  _check_present(folder, manifest)
  files = _open_files(folder, manifest, verify)
  counts, name = manifest.counts, os.fspath(folder)
  starts = np.concatenate([[0], np.cumsum(counts)])

  def read_shard(shard, offsets):
    images, labels = files[shard].images, files[shard].labels
    offsets = as_indices(offsets, counts[shard], images.path)
    read_images, read_labels = images.read(offsets), labels.read(offsets)
    if problem := label_problem(read_labels, manifest.num_classes):
      raise DataFileError(labels.path, problem, REMEDY)
    return read_images, read_labels

  def read(indices):
    indices, shards = _locate(indices, starts, name)
    images = np.empty((len(indices), *manifest.image_shape), np.uint8)
    labels = np.empty(len(indices), np.int32)
    for shard in np.unique(shards):
      rows = shards == shard
      images[rows], labels[rows] = read_shard(shard, indices[rows] - starts[shard])
    return images, labels

  return ShardSet(
    name=name,
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
      column.name: functools.partial(
        _read_column, [each.columns[place] for each in files], starts, name
      )
      for place, column in enumerate(manifest.columns)
    },
  )


def _locate(indices, starts, folder) -> tuple[np.ndarray, np.ndarray]:
  """Samples of the whole set, checked, and the shard of each; shard s begins with starts[s]."""
  indices = as_indices(indices, int(starts[-1]), folder)
  return indices, np.searchsorted(starts, indices, side="right") - 1


def _read_labels(files) -> np.ndarray:
  """The labels of all shards."""
  return np.concatenate([each.labels.read(np.arange(each.labels.shape[0])) for each in files])


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


class _Shard(NamedTuple):
  """The files of a shard."""

  images: ShardFile
  labels: ShardFile
  columns: tuple[ShardFile, ...]


def _check_present(folder: str | os.PathLike, manifest: Manifest) -> None:
  """Raises DataFileError that names the files that are missing."""
  there = storage.file_names(folder)
  expected = [name for shard in manifest.shards for name in (shard.images, shard.labels)]
  expected += [
    manifest_lib.column_file(column.name, shard, len(manifest.shards))
    for column in manifest.columns
    for shard in range(len(manifest.shards))
  ]
  if missing := [name for name in expected if name not in there]:
    reason = f"lacks {len(missing)} of its {len(expected)} files: {first_few(missing)}"
    raise DataFileError(os.fspath(folder), reason, "Fetch those that are missing.")


def _open_files(folder, manifest: Manifest, verify: str) -> list[_Shard]:
  """Opens all files and looks at them as `verify` says, some shards at once."""
  kept = Fetched() if storage.is_remote(folder) else None
  num_shards = len(manifest.shards)

  def open_shard(number: int) -> tuple[_Shard, np.ndarray]:
    shard = manifest.shards[number]

    def open_file(name, shape, dtype, sha256):
      compared = verify in ("read", "sha256")
      path = storage.join(folder, name)
      return ShardFile(path, (shard.count, *shape), dtype, sha256, verify=compared, kept=kept)

    images = open_file(shard.images, manifest.image_shape, np.uint8, shard.images_sha256)
    labels = open_file(shard.labels, (), np.int32, shard.labels_sha256)
    columns = tuple(
      open_file(
        manifest_lib.column_file(each.name, number, num_shards),
        each.shape,
        np.dtype(each.dtype),
        each.sha256[number],
      )
      for each in manifest.columns
    )
    found = _Shard(images, labels, columns)
    return found, _look_at(found, manifest.num_classes, verify)

  with concurrent.futures.ThreadPoolExecutor(min(_NUM_THREADS, num_shards)) as pool:
    try:
      opened = list(pool.map(open_shard, range(num_shards)))
    finally:
      pool.shutdown(wait=True, cancel_futures=True)
  if verify != "none":
    _check_histogram(folder, manifest, np.sum([counts for _, counts in opened], axis=0))
  return [shard for shard, _ in opened]


def _look_at(shard: _Shard, num_classes: int, verify: str) -> np.ndarray:
  """Compares what `verify` names with the manifest; returns how many labels are of each class."""
  histogram = np.zeros(num_classes, np.int64)
  if verify == "none":
    return histogram
  for file in (shard.images, shard.labels, *shard.columns):
    file.check_size()
  start = 0
  for labels in shard.labels.blocks():
    if problem := label_problem(labels, num_classes, start):
      raise DataFileError(shard.labels.path, problem, REMEDY)
    histogram += np.bincount(labels, minlength=num_classes)
    start += len(labels)
  if verify in ("read", "sha256"):
    for file in shard.columns:
      file.verify()
  if verify == "sha256":
    shard.images.verify()
  return histogram


def _check_histogram(folder, manifest: Manifest, found: np.ndarray) -> None:
  """Refuses labels that do not add up to the manifest's histogram."""
  if tuple(found.tolist()) != manifest.label_histogram:
    reason = (
      f"its label_histogram is {list(manifest.label_histogram)}, "
      f"the labels in the shards make {found.tolist()}"
    )
    raise DataFileError(storage.join(folder, manifest_lib.NAME), reason, REMEDY)
