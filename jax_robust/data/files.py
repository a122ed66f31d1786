"""Sources from common layouts of files: npz, HDF5, packs of JPEGs, a folder of images per class.

Each function takes the path and `num_classes`, None for the largest label plus one, or for as many
as there are folders, and keeps the order of the file. Each raises DataFileError for whatever is
wrong with the file; for a damaged image, when it is read.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jax_robust.data import classes, decoding, hdf5, listing, npy, resizing, scales
from jax_robust.data.sources import (
  MAX_CLASSES,
  Source,
  Stream,
  array_source,
  as_indices,
  image_problem,
  label_layout_problem,
  label_problem,
  names_problem,
  shape_problem,
)
from jax_robust.errors import DataFileError, near_miss

_LAYOUT = (
  "Expected image: uint8 [n, height, width, channels] and label: integers [n], "
  "as the released files have them."
)
_MANY = 1 << 16  # labels at a time
_LONGEST_NAME = 1000  # characters of a class's


class ArrayFile(NamedTuple):
  """How the arrays of one kind of file are read, by their names.

  Attributes:
    open: `open(path)`, a context of the opened file that the others take.
    names: `names(file)` of its arrays.
    header: `header(file, name)` says shape and dtype.
    rows: `rows(file, name, num_rows)` yields an array, so many rows at a time.
    stored: `stored(file, name)` is random access to it, None if it has to be unpacked.
  """

  open: Callable[..., contextlib.AbstractContextManager[Any]]
  names: Callable[[Any], list[str]]
  header: Callable[[Any, str], npy.Header]
  rows: Callable[[Any, str, int], Iterator[np.ndarray]]
  stored: Callable[[Any, str], npy.RowFile | None]


_NPZ = ArrayFile(
  npy.open_npz, npy.member_names, npy.member_header, npy.member_rows, npy.stored_rows
)
_HDF5 = ArrayFile(
  hdf5.open_hdf5, hdf5.member_names, hdf5.member_header, hdf5.member_rows, hdf5.stored_rows
)


def npz_source(path: str | os.PathLike, *, num_classes: int | None = None) -> Source:
  """Reads a released file: `image` uint8 [n, h, w, c] and `label` integers [n] in one npz.

  What `numpy.savez` wrote is read row by row from the disk. What `numpy.savez_compressed` wrote
  has no random access and is unpacked into RAM: make shards of it where that is too much
  (`data.convert.make_shards`). Either way the whole file is read once, to verify its checksums.

  Images that are floating or 16-bit are taken where each value is exactly a level of 8 bits
  (`data.scales.exact_uint8`), and refused otherwise. An array `class_names` of text, if there is
  one, names the classes.
  """
  return _array_source(_NPZ, path, num_classes)


def npz_stream(path: str | os.PathLike, *, num_classes: int | None = None) -> Stream:
  """Streams what `npz_source` reads in constant memory, compressed or not."""
  return _array_stream(_NPZ, path, num_classes)


def hdf5_source(path: str | os.PathLike, *, num_classes: int | None = None) -> Source:
  """Reads the arrays `image` and `label` of an HDF5 file, as `npz_source` does those of an npz.

  Images in chunks, compressed or not, have no fast random access and are unpacked into RAM. It
  takes h5py, which the extra `hdf5` brings.
  """
  return _array_source(_HDF5, path, num_classes)


def hdf5_stream(path: str | os.PathLike, *, num_classes: int | None = None) -> Stream:
  """Streams what `hdf5_source` reads in constant memory: a row of chunks, and a batch."""
  return _array_stream(_HDF5, path, num_classes)


def _array_source(kind: ArrayFile, path, num_classes) -> Source:
  """A source over `image` and `label` of a file of arrays."""
  path = str(path)
  with kind.open(path) as file:
    stream = _checked_stream(kind, file, path, num_classes)
    labels = np.concatenate([*kind.rows(file, "label", _MANY)])
    names, rows = stream.class_names, kind.stored(file, "image")
    if rows is None or rows.dtype != np.uint8:
      images, start = np.empty((len(labels), *stream.image_shape), np.uint8), 0
      for some in kind.rows(file, "image", 1024):
        images[start : start + len(some)] = _levels(some, path)
        start += len(some)
      return array_source(
        images, labels, num_classes=stream.num_classes, name=path, class_names=names
      )
    for _ in kind.rows(file, "image", 1024):
      pass  # a checksum, if there is one, is compared
  labels = labels.astype(np.int32)

  def read(indices):
    indices = as_indices(indices, len(labels), path)
    return rows.read(indices), labels[indices]

  return Source(
    path,
    len(labels),
    stream.image_shape,
    stream.num_classes,
    read,
    class_names=names,
    read_labels=labels.copy,
  )


def _array_stream(kind: ArrayFile, path, num_classes) -> Stream:
  """A stream over `image` and `label` of a file of arrays."""
  path = str(path)
  with kind.open(path) as file:
    return _checked_stream(kind, file, path, num_classes)


def _checked_stream(kind: ArrayFile, file, path, num_classes) -> Stream:
  """Checks the headers and all labels of a file of arrays and returns its stream."""
  _require_keys(kind.names(file), path, ("image", "label"))
  image, label = kind.header(file, "image"), kind.header(file, "label")
  problem = shape_problem(image.shape) or label_layout_problem(label, image.shape[0])
  if problem is None and image.dtype not in (np.uint8, np.uint16) and image.dtype.kind != "f":
    problem = image_problem(image)
  if problem is not None:
    raise DataFileError(path, problem, _LAYOUT)
  has_names = kind is _NPZ  # HDF5 keeps text as objects, which are not read
  if num_classes is None:
    num_named = len(npz_names(file, path)) if has_names else 0
    largest = max(int(rows.max()) for rows in kind.rows(file, "label", _MANY))
    num_classes = max(num_named, largest + 1)  # a part of a sorted set lacks classes
  start = 0
  for labels in kind.rows(file, "label", _MANY):
    _require(label_problem(labels, num_classes, start), path)
    start += len(labels)

  def batches(batch_size=1024):
    with kind.open(path) as file:
      members = [kind.rows(file, key, batch_size) for key in ("image", "label")]
      for images, labels in zip(*members, strict=True):
        yield _levels(images, path), labels.astype(np.int32)

  names = npz_names(file, path, num_classes) if has_names else ()
  if image.dtype != np.uint8:
    _levels(next(kind.rows(file, "image", 64)), path)  # refused now rather than later
  return Stream(path, image.shape[0], image.shape[1:], num_classes, batches, class_names=names)


def npz_names(archive, path, num_classes: int | None = None) -> tuple[str, ...]:
  """The names of the classes of an npz, if it has any; of as many classes, where that is known."""
  if "class_names" not in npy.member_names(archive):
    return ()
  head, names = npy.member_header(archive, "class_names"), []
  count = head.shape[0] if num_classes is None else num_classes
  reason = f"class_names are {head.dtype} {list(head.shape)}, expected text [{count}]"
  if count > MAX_CLASSES or head.dtype.itemsize > _LONGEST_NAME * 4:  # bytes of a character
    reason += f": at most {MAX_CLASSES} names of {_LONGEST_NAME} characters"
  elif head.dtype.kind == "U" and head.shape == (count,):
    names = npy.member_array(archive, "class_names").tolist()
    reason = names_problem(names)
  if reason:
    raise DataFileError(path, reason, "Correct or remove them.")
  return tuple(names)


def _levels(images, path) -> np.ndarray:
  """Images as uint8; what would be rounded is refused."""
  try:
    return scales.exact_uint8(images)
  except ValueError as error:
    raise DataFileError(path, str(error), _LAYOUT) from error


def jpeg_pack_source(
  path: str | os.PathLike, *, num_classes: int | None = None, image_size: int | None = None
) -> Source:
  """Reads a pack of JPEGs; an image is decoded when it is read, and brought to `image_size`.

  The npz holds `jpeg_bytes` uint8 [total], `offsets` int64 [n + 1] (image i is bytes offsets[i] to
  offsets[i + 1]) and `labels` integers [n]. The compressed bytes stay in RAM.
  """
  path = str(path)
  with npy.open_npz(path) as archive:
    _require_keys(npy.member_names(archive), path, ("jpeg_bytes", "offsets", "labels"))
    data, offsets, labels = (
      npy.member_array(archive, key) for key in ("jpeg_bytes", "offsets", "labels")
    )
  if data.dtype != np.uint8 or data.ndim != 1:
    _require(f"jpeg_bytes are {data.dtype} {list(data.shape)}, expected uint8 [total]", path)
  if offsets.ndim != 1 or not np.issubdtype(offsets.dtype, np.integer) or len(offsets) < 2:
    _require(f"offsets are {offsets.dtype} {list(offsets.shape)}, expected int64 [n + 1]", path)
  offsets = offsets.astype(np.int64)
  if offsets[0] != 0 or offsets[-1] != len(data) or (np.diff(offsets) <= 0).any():
    _require("offsets do not rise from 0 to the number of jpeg_bytes", path)
  _require(label_layout_problem(labels, len(offsets) - 1), path)
  data = data.tobytes()

  def decode(index):
    packed = data[offsets[index] : offsets[index + 1]]
    return decoding.decode(io.BytesIO(packed), f"{path}[{index}]")

  return _decoding_source(path, decode, labels, num_classes, image_size=image_size)


def png_folder_source(
  path: str | os.PathLike, *, num_classes: int | None = None, image_size: int | None = None
) -> Source:
  """Reads `path/<class>/<image>.png` (or .jpg); an image is decoded when it is read.

  With `image_size`, images of any sizes are brought to a square of that (`data.resizing.fit`).

  The folders' names are the names of the classes, which are numbered in the order of these: numbers
  by value, all else as text. With `num_classes`, folders whose names are all numbers are labels:
  then 7 is class 7 also where 3 is missing. Images follow one another by class, then by file name.
  All headers are looked at, in parallel. Hidden files and `Thumbs.db` and its like are left out,
  which is said; other files are refused. What the classes are called is not compared with anything
  here: `data.classes.agree` does.
  """
  path = os.path.abspath(os.fspath(path))
  folders = listing.class_folders(path)
  labels, paths = zip(*listing.class_images(folders, path), strict=True)
  labels, names = np.array(labels), [folder.name for folder in folders]
  if num_classes is not None and all(name.isdecimal() for name in names):
    labels = np.array([int(name) for name in names])[labels]  # Python's, if int64 is too small
    names = list(map(str, range(num_classes))) if num_classes <= MAX_CLASSES else []
  num_classes = len(names) if num_classes is None else num_classes
  shape = decoding.check_headers(paths, path, image_size)
  return _decoding_source(
    path,
    lambda index: decoding.decode(paths[index], paths[index]),
    labels,
    num_classes,
    shape=shape,
    image_size=image_size,
    class_names=names if len(names) == num_classes else (),
  )


def unlabelled_folder(
  path: str | os.PathLike, *, image_size: int | None = None
) -> tuple[list[str], Source]:
  """Reads all `.png` and `.jpg` images below a folder: their names inside it, and a source.

  With `image_size`, they are brought to a square of that, as those of `png_folder_source`.
  All labels of the source are 0. Hidden files are left out, and files of other kinds, which is
  said. All headers are looked at, in parallel.
  """
  root = os.path.abspath(path)
  paths = listing.images_below(root)
  shape = decoding.check_headers(paths, root, image_size)
  source = _decoding_source(
    root,
    lambda index: decoding.decode(paths[index], paths[index]),
    np.zeros(len(paths), np.int32),
    1,
    shape=shape,
    image_size=image_size,
  )
  return [classes.shown(os.path.relpath(file, root)) for file in paths], source


def _decoding_source(
  path, decode_fn, labels, num_classes, *, shape=None, class_names=(), image_size=None
) -> Source:
  """A source whose image i is `decode_fn(i)`, brought to a size; the first one gives the shape."""
  num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
  _require(label_problem(labels, num_classes), path)
  labels = labels.astype(np.int32)

  def image_at(index):
    image = decode_fn(index)
    return image if image_size is None else resizing.fit(image, image_size)

  shape = shape or image_at(0).shape

  def read(indices):
    indices = as_indices(indices, len(labels), path)
    images = np.empty((len(indices), *shape), np.uint8)
    for row, index in enumerate(indices):
      image = image_at(index)
      if image.shape != shape:
        reason = f"image {index} has shape {list(image.shape)}, the first one {list(shape)}"
        raise DataFileError(path, reason, decoding.one_shape(image.shape, shape))
      images[row] = image
    return images, labels[indices]

  return Source(
    path,
    len(labels),
    shape,
    num_classes,
    read,
    class_names=tuple(class_names),
    read_labels=labels.copy,
  )


def _require(problem, path):
  """Raises DataFileError if there is a problem, in words."""
  if problem:
    raise DataFileError(path, problem, "Correct the file, or num_classes if that is what is wrong.")


def _require_keys(names, path, keys):
  """Raises DataFileError, with the near miss, where arrays called `names` lack one of `keys`."""
  for key in keys:
    if key not in names:
      reason = f"holds no array {key!r}, only {sorted(names)}{near_miss(key, names)}"
      raise DataFileError(path, reason, f"Save it with the keys {', '.join(keys)}. {_LAYOUT}")
