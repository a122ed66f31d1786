"""Opens any file or folder of labelled images as a source, or makes shards of it."""

import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from jax_robust.data import decoding, draws, files, idx, listing, manifest, npy, resizing
from jax_robust.data.shard_writer import write_shards
from jax_robust.data.shards import ShardSet, open_shards
from jax_robust.data.sources import ImageShape, Source, Stream
from jax_robust.errors import DataFileError, check_count, shown


def open_source(
  path: str | os.PathLike, *, num_classes: int | None = None, image_size: int | None = None
) -> Source:
  """Opens what lies at `path`: shards, an npz, a pack of JPEGs, or a folder for every class.

  Args:
    path: A file or folder; its content decides, not its name.
    num_classes: None takes the manifest's, as many as there are folders, or the largest label plus
      one.
    image_size: Height and width that images of any sizes are brought to, in pixels; None takes
      them as they are, all of one size. See `data.resizing.fit`.

  Raises:
    TypeError, ValueError: no path; a number of classes that is none.
    DataFileError: there is nothing, nothing known, or something damaged.
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
    source: What `open_source` takes (an npz is streamed, never loaded), or a `Source` or `Stream`,
      such as `data.tfds.tfds_stream(...)`.
    folder, num_classes, num_shards, shard_size, licence, seed, progress_fn: As in `write_shards`,
      which also says what is guaranteed, returned and raised.
    generator: What made the images; None takes the source's file name.
  """
  folder = _checked_path(folder)
  if not isinstance(source, (Source, Stream)):
    open_fn = files.npz_stream if _kind(source) == "npz" else open_source
    source = open_fn(source, num_classes=num_classes)
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


_OPENERS: dict[str, Callable[..., Source]] = {
  "shards": lambda path, *, num_classes: open_shards(path),  # whose manifest has the classes
  "folders": files.png_folder_source,
  "jpeg pack": files.jpeg_pack_source,
  "npz": files.npz_source,
}


_OF_ANY_SIZE = ("folders", "jpeg pack")
"""Those whose images may have different sizes before they are brought to one."""


def _kind(path) -> str:
  """The key of `_OPENERS` for what lies at `path`."""
  path = _checked_path(path, "path")
  if not path.exists():
    raise DataFileError(path, "there is no such file or folder", "Check the path.")
  if path.is_dir():
    # A folder of shards that lost its manifest must not be taken for a folder of classes.
    is_shards = (path / manifest.NAME).exists() or any(path.glob("shard-*-of-*.npy"))
    return "shards" if is_shards else "folders"
  with npy.open_npz(path) as archive:
    return "jpeg pack" if "jpeg_bytes" in npy.member_names(archive) else "npz"
