"""Writes shards: one pass over the samples, each to a random place, then one rename."""

import dataclasses
import errno
import importlib.metadata
import itertools
import operator
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jax_robust.atomic import unless_unsupported
from jax_robust.data import columns as columns_lib
from jax_robust.data import manifest as manifest_lib
from jax_robust.data import publishing, storage
from jax_robust.data.manifest import Column, Manifest, Shard
from jax_robust.data.shards import ShardSet, open_shards, sha256
from jax_robust.data.sources import Columns, Samples, Source, Stream, label_problem, layout_problem
from jax_robust.errors import DataFileError, check_count

_DEFAULT_SHARD_SIZE = 65_536


def write_shards(
  folder: str | os.PathLike,
  samples: Source | Stream | Iterable[Samples],
  *,
  generator: str,
  licence: str,
  seed: int,
  num_classes: int | None = None,
  num_examples: int | None = None,
  num_shards: int | None = None,
  shard_size: int | None = None,
  class_names: Sequence[str] | None = None,
  columns: Mapping[str, Any] | None = None,
  progress_fn: Callable[[int, int], None] | None = None,
) -> ShardSet:
  """Writes samples as shards, in random order.

  Guarantees:
    `shuffled`: sample i goes to place p(i), p a random permutation of the whole set drawn from
      `seed`, so that samples that came sorted by class are spread over all shards.
    `deterministic`: the same samples and arguments give the same bytes.
    `atomic`: `folder` appears complete or not at all; whatever fails, the partial folder is removed
      (a kill −9 leaves it behind, as `.<folder>.partial-…`).
    `keeps_other_content`: an existing folder is never replaced; if it holds the very same shards,
      it is left as it is and opened.
    `constant_memory`: a batch at a time, and 8 bytes for every sample (its place and its label);
      of columns, a shard at a time.

  Args:
    folder: Where to; missing parents are made.
    samples: A `Source`, a `Stream`, or an iterable of (images uint8 [n, h, w, c], labels [n]), with
      `num_examples` and `num_classes` given.
    generator: What made the images, for the manifest.
    licence: Under which terms they may be used, for the manifest.
    seed: Seed of the order, not negative.
    num_classes, num_examples: None takes what `samples` says.
    num_shards: How many shards, of equal size to within one sample; None: as `shard_size` has it.
    shard_size: Samples in a shard at most; the default is 65,536.
    class_names: What the classes are called, for the manifest; None takes what `samples` says.
    columns: What else is known of each sample, by name: arrays `[num_examples, …]` in the order of
      the samples, such as the `confidence` of a net. None takes what `samples` has.
    progress_fn: Called with (samples written, samples in all) after every batch.

  Returns:
    The shards, opened.

  Raises:
    DataFileError: if `folder` holds anything else.
    ValueError: for arguments or samples that do not fit.
    OSError: if they cannot be written, the disk being full for example.
  """
  if storage.is_remote(folder):
    raise ValueError(
      f"folder={os.fspath(folder)!r}: expected a folder on a local disk, to be copied to an object "
      "store when it is complete"
    )
  folder, name = pathlib.Path(folder).absolute(), getattr(samples, "name", "samples")
  num_examples = _whole("num_examples", num_examples, samples)
  num_classes = _whole("num_classes", num_classes, samples)
  counts = shard_counts(num_examples, num_shards=num_shards, shard_size=shard_size)
  class_names = getattr(samples, "class_names", ()) if class_names is None else class_names
  class_names = class_names if len(class_names) == num_classes else ()
  check_count(0, seed=seed)
  for key, text in (("generator", generator), ("licence", licence)):
    if not isinstance(text, str):
      raise ValueError(f"{key}={text!r}: expected text, for the manifest")
  recipe = {"generator": generator, "licence": licence, "seed": int(seed)}
  columns = _columns(samples, columns, num_examples, num_classes)
  _refuse_other_content(folder, counts=counts, num_classes=num_classes, **recipe)
  batches = samples.batches() if hasattr(samples, "batches") else samples
  batches = _checked(batches, name, num_examples, num_classes)
  with publishing.partial_folder(folder) as partial:
    labels, places, image_shape = _write_images(partial, batches, counts, seed, progress_fn)
    shards = _write_labels(partial, labels, counts)
    manifest = Manifest(
      image_shape=image_shape,
      num_classes=num_classes,
      label_histogram=_histogram(labels, num_classes),
      shards=tuple(shards),
      **recipe,
      created_by=f"jax_robust {_version()}",
      class_names=tuple(class_names),
      columns=tuple(_write_column(partial, *each, places, counts) for each in columns.items()),
    )
    (partial / manifest_lib.NAME).write_text(manifest_lib.dump(manifest), encoding="utf-8")
    if not _holds(folder, manifest):
      publishing.publish(partial, folder)
  return open_shards(folder)


def _is_whole(value: object) -> bool:
  """Whether a value is a whole number of Python or NumPy, of any sign."""
  return isinstance(value, (int, float, np.integer, np.floating)) and value == np.rint(value)


def shard_counts(
  num_examples: int, *, num_shards: int | None = None, shard_size: int | None = None
) -> tuple[int, ...]:
  """Returns the samples of each shard, equal to within one.

  >>> shard_counts(10, num_shards=4)
  (2, 3, 2, 3)
  >>> shard_counts(10, shard_size=5)
  (5, 5)
  """
  if num_shards is not None and shard_size is not None:
    raise ValueError(f"num_shards={num_shards}, shard_size={shard_size}: expected one of the two")
  if num_shards is not None and (isinstance(num_shards, bool) or not _is_whole(num_shards)):
    raise ValueError(f"num_shards={num_shards!r}: expected a whole number, 1 to {num_examples}")
  if num_shards is None:
    shard_size = _DEFAULT_SHARD_SIZE if shard_size is None else shard_size
    check_count(shard_size=shard_size)
    num_shards = -(-num_examples // shard_size)
  if not 1 <= num_shards <= num_examples:
    raise ValueError(f"num_shards={num_shards}: expected 1 to num_examples={num_examples}")
  num_shards = int(num_shards)
  edges = [shard * num_examples // num_shards for shard in range(num_shards + 1)]
  return tuple(stop - start for start, stop in itertools.pairwise(edges))


def random_places(num_examples: int, seed: int) -> np.ndarray:
  """Where `write_shards` puts each sample: integers [n], counted through all shards.

  >>> sorted(random_places(4, seed=0).tolist())
  [0, 1, 2, 3]
  """
  places = np.arange(num_examples, dtype=np.min_scalar_type(num_examples))
  np.random.default_rng(seed).shuffle(places)
  return places


def _whole(argument, value, samples) -> int:
  """Returns an argument, or what the samples say of it."""
  value = getattr(samples, argument, None) if value is None else value
  if value is None:
    raise ValueError(f"{argument}=None: expected a number, since the samples have none")
  check_count(**{argument: value})
  return operator.index(value)


def _checked(batches, name, num_examples, num_classes) -> Iterator[Samples]:
  """Passes batches on, labels as int32; one that does not fit is a ValueError."""
  start, shape = 0, None
  for images, labels in batches:
    images, labels = np.asarray(images), np.asarray(labels)
    if not len(images):
      continue
    problem = layout_problem(images, labels) or label_problem(labels, num_classes, start)
    shape = shape or images.shape[1:]
    if problem is None and images.shape[1:] != shape:
      problem = f"images of shape {list(images.shape[1:])} follow images of {list(shape)}"
    start += len(images)
    if problem is None and start > num_examples:
      problem = f"there are more than num_examples={num_examples} samples"
    if problem is not None:
      raise ValueError(f"{name}: {problem}")
    yield images, labels.astype(np.int32)
  if start != num_examples:
    raise ValueError(f"{name}: there are {start} samples, num_examples={num_examples}")


def _write_images(folder, batches, counts, seed, progress_fn):
  """Writes every image to its place; returns the labels in their new order, places and shape."""
  num_examples, starts = sum(counts), np.concatenate([[0], np.cumsum(counts)])
  done, image_shape, offsets = 0, (), []
  labels = places = np.empty(0, np.int32)
  for images, batch_labels in batches:
    if not offsets:  # only now: the first batch has the images' shape; a full disk shows first
      image_shape = images.shape[1:]
      offsets = _allocate(folder, counts, image_shape)
      labels = np.empty(num_examples, np.int32)
      places = random_places(num_examples, seed)
    chosen = places[done : done + len(images)].astype(np.int64)
    labels[chosen] = batch_labels
    shards = np.searchsorted(starts, chosen, side="right") - 1
    for shard in np.unique(shards):
      rows = np.flatnonzero(shards == shard)
      path = folder / manifest_lib.file_names(shard, len(counts))[0]
      _write_rows(path, offsets[shard], images, rows, chosen[rows] - starts[shard])
    done += len(images)
    if progress_fn is not None:
      progress_fn(done, num_examples)
  return labels, places, image_shape


def _write_rows(path, offset, images, rows, places) -> None:
  """Writes `images[rows]` to the given places of a shard."""
  images = np.ascontiguousarray(images)
  fd = os.open(path, os.O_WRONLY)
  try:
    for row, place in zip(rows.tolist(), places.tolist(), strict=True):
      data, position = memoryview(images[row]).cast("B"), offset + place * images[row].nbytes
      while data:
        count = os.pwrite(fd, data, position)
        data, position = data[count:], position + count
  finally:
    os.close(fd)


def _allocate(folder, counts, image_shape) -> list[int]:
  """Makes the images' files at full size: a full disk shows now. Returns their heads' lengths."""
  num_bytes = sum(counts) * (int(np.prod(image_shape)) + 4)
  free = shutil.disk_usage(folder).free
  if num_bytes > free:
    raise OSError(errno.ENOSPC, f"the shards take {num_bytes:,} bytes, {free:,} are free")
  offsets = []
  for shard, count in enumerate(counts):
    with open(folder / manifest_lib.file_names(shard, len(counts))[0], "wb") as stream:
      array = {"descr": "|u1", "fortran_order": False, "shape": (count, *image_shape)}
      np.lib.format.write_array_header_1_0(stream, array)
      stream.flush()
      offsets.append(stream.tell())
      size = offsets[-1] + count * int(np.prod(image_shape))
      if hasattr(os, "posix_fallocate"):  # not on macOS, where the pwrite will tell
        with unless_unsupported():
          os.posix_fallocate(stream.fileno(), 0, size)
      stream.truncate(size)
  return offsets


def _write_labels(folder, labels, counts) -> list[Shard]:
  """Writes the labels' files and returns the manifest's list of shards, with checksums."""
  shards, start = [], 0
  for shard, count in enumerate(counts):
    images_name, labels_name = manifest_lib.file_names(shard, len(counts))
    np.save(folder / labels_name, labels[start : start + count], allow_pickle=False)
    start += count
    sums = sha256(folder / images_name), sha256(folder / labels_name)
    shards.append(Shard(count, images_name, sums[0], labels_name, sums[1]))
  return shards


def _columns(samples, given, num_examples, num_classes) -> Columns:
  """The readers of all columns, checked as far as they can be unread."""
  if given is None:
    readers = dict(getattr(samples, "columns", {}))
  else:
    readers = columns_lib.column_readers(given, num_examples, num_classes)
  for name, read in sorted(readers.items()):
    entry = read(np.arange(1))
    manifest_lib.check_column(name, entry.dtype, entry.shape[1:])
  return readers


def _write_column(folder, name, read, places, counts) -> Column:
  """Writes the files of a column, its entries beside their images."""
  samples, sums, start = np.argsort(places, kind="stable"), [], 0
  entry = read(np.arange(1))
  dtype = entry.dtype.newbyteorder("<")
  for shard, count in enumerate(counts):
    path = folder / manifest_lib.column_file(name, shard, len(counts))
    np.save(path, read(samples[start : start + count]).astype(dtype), allow_pickle=False)
    sums.append(sha256(path))
    start += count
  return Column(name, dtype.str, entry.shape[1:], tuple(sums))


def _histogram(labels, num_classes) -> tuple[int, ...]:
  """Counts the labels, some at a time, since bincount copies them to int64."""
  parts = (labels[start : start + (1 << 16)] for start in range(0, len(labels), 1 << 16))
  counts = (np.bincount(part, minlength=num_classes) for part in parts)
  return tuple(sum(counts, np.zeros(num_classes, np.int64)).tolist())


def _refuse_other_content(folder, **recipe) -> None:
  """Refuses, before any work is done, a folder with anything but shards of the same recipe."""
  if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
    return
  if not (folder / manifest_lib.NAME).is_file():
    raise DataFileError(folder, "is there already and holds other content", publishing.REMEDY)
  old = manifest_lib.load(folder)
  for key, value in recipe.items():
    if getattr(old, key) != value:
      reason = f"is there already and holds shards of {key}={getattr(old, key)!r}, not {value!r}"
      raise DataFileError(folder, reason, publishing.REMEDY)


def _holds(folder, manifest) -> bool:
  """Says whether `folder` holds these very samples; other shards are refused."""
  if not (folder / manifest_lib.NAME).is_file():
    return False
  old = manifest_lib.load(folder)
  # Shards of an earlier version lack the names of the classes, and are the same.
  names = old.class_names or manifest.class_names
  if dataclasses.replace(old, created_by=manifest.created_by, class_names=names) != manifest:
    raise DataFileError(folder, "is there already and holds other samples", publishing.REMEDY)
  return True


def _version() -> str:
  """Returns this package's version."""
  try:
    return importlib.metadata.version("jax_robust")
  except importlib.metadata.PackageNotFoundError:
    return "(not installed)"
