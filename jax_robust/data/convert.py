"""Opens any file or folder of labelled images as a source, or makes shards of it."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

from jax_robust.data import files, idx, listing, manifest, npy
from jax_robust.data.shard_writer import write_shards
from jax_robust.data.shards import ShardSet, open_shards
from jax_robust.data.sources import Source, Stream
from jax_robust.errors import DataFileError, check_count, shown


def open_source(path: str | os.PathLike, *, num_classes: int | None = None) -> Source:
  """Opens what lies at `path`: shards, an npz, a pack of JPEGs, or a folder for every class.

  Args:
    path: A file or folder; its content decides, not its name.
    num_classes: None takes the manifest's, as many as there are folders, or the largest label plus
      one.

  Raises:
    TypeError, ValueError: no path; a number of classes that is none.
    DataFileError: there is nothing, nothing known, or something damaged.
  """
  if num_classes is not None:
    check_count(num_classes=num_classes)
    num_classes = int(num_classes)
  open_fn = _OPENERS[_kind(path)]
  source = open_fn(path, num_classes=num_classes)
  if num_classes not in (None, source.num_classes):
    reason = f"is of {source.num_classes} classes, expected num_classes={num_classes}"
    raise DataFileError(path, reason, "Correct num_classes, or use another file.")
  return source


def open_split(folder: str | os.PathLike, split: str) -> Source | None:
  """Opens a split of a data set that is a folder, in the order of its files.

  Args:
    folder: With `SPLIT/` or `SPLIT.npz`, of what `open_source` takes, or with the files in which
      MNIST was released; None is returned where it holds none of these.
    split: "train" or "test".

  Raises:
    DataFileError: something is damaged.
  """
  folder, split = _checked_path(folder), str(_checked_path(split, "split"))
  for path in (pathlib.Path(folder, split), pathlib.Path(folder, f"{split}.npz")):
    if path.exists():
      return open_source(path)
  pair = idx.find_idx(folder, split)
  return idx.idx_source(*pair) if pair else None


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
