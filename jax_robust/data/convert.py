"""Opens any file or folder of labelled images as a source, or makes shards of it."""

import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from jax_robust.data import (
  decoding,
  draws,
  files,
  hdf5,
  idx,
  listing,
  manifest,
  npy,
  parts,
  resizing,
  storage,
)
from jax_robust.data.shard_writer import write_shards
from jax_robust.data.shards import ShardSet, open_shards
from jax_robust.data.sources import ImageShape, Source, Stream
from jax_robust.errors import DataFileError, check_count, shown


def open_source(
  path: str | os.PathLike, *, num_classes: int | None = None, image_size: int | None = None
) -> Source:
  """Opens what lies at `path`: shards, an npz or HDF5 file, JPEGs, a folder for every class, parts.

  Args:
    path: A file or folder; its content decides, not its name. Several files are one set where they
      are numbered parts in a folder of their own, or are matched by a pattern
      (`20m_part*.npz`, `data.parts`). In an object store, `gs://bucket/set`, only shards are read.
    num_classes: None takes the manifest's, as many as there are folders, or the largest label plus
      one.
    image_size: Height and width that images of any sizes are brought to, in pixels; None takes
      them as they are, all of one size. See `data.resizing.fit`.

  Raises:
    TypeError, ValueError: no path; a number of classes that is none.
    DataFileError: there is nothing, nothing known, something damaged, or HDF5 without h5py.
  """
  if num_classes is not None:
    check_count(num_classes=num_classes)
    num_classes = int(num_classes)
  kind = _kind(path)
  sizes = {"image_size": image_size} if kind in _OF_ANY_SIZE else {}
  source = _OPENERS[kind](path, num_classes=num_classes, **sizes)
  if num_classes not in (None, source.num_classes):
    reason = f"is of {source.num_classes} classes, expected num_classes={num_classes}"
    raise DataFileError(path, reason, "Correct num_classes, or use another file.")
  return source if image_size is None else resizing.sized(source, image_size)


def open_split(
  folder: str | os.PathLike,
  split: str,
  *,
  image_size: int | None = None,
  test_share: float = 0.0,
) -> Source | None:
  """Opens a split of a data set that is a folder, in the order of its files.

  Args:
    folder: With `SPLIT/` or `SPLIT.npz`, of what `open_source` takes, or with the files in which
      MNIST was released; None is returned where it holds none of these.
    split: "train" or "test".
    image_size: As in `open_source`.
    test_share: Of a folder, or a file, that has no test split: the share of its images, or of those
      of `train`, that is kept for it, drawn by class; 0 keeps none.

  Raises:
    DataFileError: something is damaged.
    ValueError: the share leaves too few images.
  """
  folder, split = _checked_path(folder), str(_checked_path(split, "split"))
  train = find_split(folder, "train")
  if test_share and split in ("train", "test") and not _has_test(folder):
    whole = open_source(train or folder, image_size=image_size)
    parts = draws.hold_out(whole, round(test_share * whole.num_examples))
    return parts[("train", "test").index(split)]
  path = find_split(folder, split)
  if path is not None:
    return open_source(path, image_size=image_size)
  pair = idx.find_idx(folder, split)
  source = idx.idx_source(*pair) if pair else None
  return source and (source if image_size is None else resizing.sized(source, image_size))


def find_split(folder: str | os.PathLike, split: str) -> pathlib.Path | None:
  """The folder or file of a split, of what `open_source` takes; None if there is none."""
  paths = (pathlib.Path(folder, split), pathlib.Path(folder, f"{split}.npz"))
  return next((path for path in paths if path.exists()), None)


def _has_test(folder: pathlib.Path) -> bool:
  """Whether a data set has images for testing: MNIST's files and TFDS's sets have."""
  return bool(
    find_split(folder, "test") or idx.find_idx(folder, "test") or any(folder.glob("features.json"))
  )


class Survey(NamedTuple):
  """What a look at a set tells.

  Attributes:
    num_examples: images to train on.
    image_shape: (height, width, channels) of the first one.
  """

  num_examples: int
  image_shape: ImageShape


def survey(folder: str | os.PathLike) -> Survey:
  """How many images a set has to train on, and how large the first one is, without reading all.

  Args:
    folder: As in `open_split`, or what `open_source` takes.

  Raises:
    DataFileError: there is nothing, nothing known, or something damaged.
  """
  path = find_split(folder, "train") or _checked_path(folder)
  if _kind(path) == "folders":
    place = str(path)
    files_there = [file for _, file in listing.class_images(listing.class_folders(place), place)]
    return Survey(len(files_there), decoding.header(files_there[0], files_there[0]))
  source = open_source(path)
  return Survey(source.num_examples, source.image_shape)


def split_class_names(folder: str | os.PathLike, split: str) -> tuple[str, ...]:
  """What the classes of a split of a folder are called, without reading images; () if unknown."""
  path = _checked_path(folder) / _checked_path(split, "split")
  if not path.is_dir():
    return ()
  if _kind(path) == "shards":
    return manifest.load(path).class_names
  return tuple(folder.name for folder in listing.class_folders(path))


def make_shards(
  source: str | os.PathLike | Source | Stream,
  folder: str | os.PathLike,
  *,
  num_classes: int | None = None,
  num_shards: int | None = None,
  shard_size: int | None = None,
  generator: str | None = None,
  licence: str = "not stated",
  seed: int = 0,
  progress_fn: Callable[[int, int], None] | None = None,
) -> ShardSet:
  """Makes shards of a file, a folder, or a source; in constant memory, and in random order.

  Args:
    source: What `open_source` takes (npz and HDF5 files are streamed, never loaded), or a `Source`
      or `Stream`, such as `data.tfds.tfds_stream(...)`.
    folder, num_classes, num_shards, shard_size, licence, seed, progress_fn: As in `write_shards`,
      which also says what is guaranteed, returned and raised.
    generator: What made the images; None takes the source's file name.
  """
  _checked_path(folder)
  if not isinstance(source, (Source, Stream)):
    source = _stream(source, num_classes)
  return write_shards(
    folder,
    source,
    generator=pathlib.PurePath(source.name).name if generator is None else generator,
    licence=licence,
    seed=seed,
    num_classes=num_classes,
    num_shards=num_shards,
    shard_size=shard_size,
    progress_fn=progress_fn,
  )


def _checked_path(path: Any, name: str = "folder") -> pathlib.Path:
  """A path; raises for what is none, and for "", which would be the folder that one is in."""
  if not isinstance(path, (str, os.PathLike)) or not str(path):
    remedy = "; of arrays, data.sources.array_source(images, labels)" if name == "path" else ""
    raise TypeError(f"{name}={shown(path)}: expected the path of a file or folder{remedy}")
  return pathlib.Path(path)


def is_shards(path: str | os.PathLike) -> bool:
  """Whether a path leads to a folder of shards, local or in an object store."""
  return storage.exists(storage.join(path, manifest.NAME))


def _stream(path: str | os.PathLike, num_classes: int | None) -> Source | Stream:
  """What lies at a path, read in constant memory where its kind has a way to."""
  kind = _kind(path)
  if kind == "parts":
    streams = [_stream(each, num_classes) for each in _part_files(path)]
    return parts.joined_stream(path, streams)
  return _STREAMS.get(kind, open_source)(path, num_classes=num_classes)


def _open_parts(path: str | os.PathLike, *, num_classes: int | None) -> Source:
  """The files of a set in parts, as one source."""
  sources = [open_source(each, num_classes=num_classes) for each in _part_files(path)]
  return parts.joined_source(path, sources)


def _part_files(path: str | os.PathLike) -> list[str]:
  """The files of a set in parts, each of a kind that holds images and labels."""
  found = parts.part_files(path)
  for each in found:
    if _kind(each) not in _OF_A_PART:
      remedy = "Let the pattern match files with images and labels."
      raise DataFileError(each, "is a folder", remedy)
  return found


_OPENERS: dict[str, Callable[..., Source]] = {
  "shards": lambda path, *, num_classes: open_shards(path),  # whose manifest has the classes
  "folders": files.png_folder_source,
  "jpeg pack": files.jpeg_pack_source,
  "npz": files.npz_source,
  "hdf5": files.hdf5_source,
  "parts": _open_parts,
}

_STREAMS: dict[str, Callable[..., Stream]] = {
  "npz": files.npz_stream,
  "hdf5": files.hdf5_stream,
}
"""Kinds that are larger than memory at times, and how to read them from the first sample on."""

_OF_A_PART = ("jpeg pack", "npz", "hdf5")

_OF_ANY_SIZE = ("folders", "jpeg pack")
"""Those whose images may have different sizes before they are brought to one."""


def _kind(path) -> str:
  """The key of `_OPENERS` for what lies at `path`."""
  if storage.is_remote(path):
    if is_shards(path):
      return "shards"
    reason = "is no folder of shards, the one thing that is read from an object store"
    raise DataFileError(path, reason, "Check the path, or copy the files to a local disk.")
  path = _checked_path(path, "path")
  if parts.is_pattern(path):
    return "parts"
  if not path.exists():
    raise DataFileError(path, "there is no such file or folder", "Check the path.")
  if path.is_dir():
    # A folder of shards that lost its manifest must not be taken for a folder of classes.
    if is_shards(path) or any(path.glob("shard-*-of-*.npy")):
      return "shards"
    return "parts" if parts.in_folder(path) and not listing.has_folders(path) else "folders"
  if hdf5.is_hdf5(path):
    return "hdf5"
  with npy.open_npz(path) as archive:
    return "jpeg pack" if "jpeg_bytes" in npy.member_names(archive) else "npz"
