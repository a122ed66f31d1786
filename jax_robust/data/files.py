"""Sources from common layouts of files: npz, packs of JPEGs, a folder of images for each class.

Each function takes the path and `num_classes`, None for the largest label plus one, and keeps the
order of the file. Each raises DataFileError for whatever is wrong with the file; for a damaged
image, when it is read.
"""

import io
import os
import pathlib

import numpy as np

from jax_robust.data import npy
from jax_robust.data.sources import (
  Source,
  Stream,
  array_source,
  as_indices,
  label_layout_problem,
  label_problem,
  layout_problem,
)
from jax_robust.errors import DataFileError, near_miss

_SUFFIXES = (".png", ".jpg", ".jpeg")
_LAYOUT = (
  "Expected image: uint8 [n, height, width, channels] and label: integers [n], "
  "as the released files have them."
)


def npz_source(path: str | os.PathLike, *, num_classes: int | None = None) -> Source:
  """Reads a released file: `image` uint8 [n, h, w, c] and `label` integers [n] in one npz.

  What `numpy.savez` wrote is read row by row from the disk. What `numpy.savez_compressed` wrote
  has no random access and is unpacked into RAM: make shards of it where that is too much
  (`data.convert.make_shards`). Either way the whole file is read once, to verify its checksums.
  """
  path = str(path)
  with npy.open_npz(path) as archive:
    stream = _npz_stream(archive, path, num_classes)
    labels = npy.member_array(archive, "label")
    rows = npy.stored_rows(archive, "image")
    if rows is None:
      images = npy.member_array(archive, "image")
      return array_source(images, labels, num_classes=stream.num_classes, name=path)
    for _ in npy.member_rows(archive, "image", 1024):
      pass
  labels = labels.astype(np.int32)

  def read(indices):
    indices = as_indices(indices, len(labels), path)
    return rows.read(indices), labels[indices]

  return Source(path, len(labels), stream.image_shape, stream.num_classes, read)


def npz_stream(path: str | os.PathLike, *, num_classes: int | None = None) -> Stream:
  """Streams what `npz_source` reads in constant memory, compressed or not."""
  path = str(path)
  with npy.open_npz(path) as archive:
    return _npz_stream(archive, path, num_classes)


def _npz_stream(archive, path, num_classes) -> Stream:
  """Checks the headers and all labels of an npz and returns its stream."""
  _require_keys(archive, path, ("image", "label"))
  image, label = npy.member_header(archive, "image"), npy.member_header(archive, "label")
  if problem := layout_problem(image, label):
    raise DataFileError(path, problem, _LAYOUT)
  if num_classes is None:
    num_classes = 1 + max(int(rows.max()) for rows in npy.member_rows(archive, "label", 1 << 16))
  start = 0
  for labels in npy.member_rows(archive, "label", 1 << 16):
    _require(label_problem(labels, num_classes, start), path)
    start += len(labels)

  def batches(batch_size=1024):
    with npy.open_npz(path) as archive:
      members = [npy.member_rows(archive, key, batch_size) for key in ("image", "label")]
      for images, labels in zip(*members, strict=True):
        yield images, labels.astype(np.int32)

  return Stream(path, image.shape[0], image.shape[1:], num_classes, batches)


def jpeg_pack_source(path: str | os.PathLike, *, num_classes: int | None = None) -> Source:
  """Reads a pack of JPEGs; an image is decoded when it is read.

  The npz holds `jpeg_bytes` uint8 [total], `offsets` int64 [n + 1] (image i is bytes offsets[i] to
  offsets[i + 1]) and `labels` integers [n]. The compressed bytes stay in RAM.
  """
  path = str(path)
  with npy.open_npz(path) as archive:
    _require_keys(archive, path, ("jpeg_bytes", "offsets", "labels"))
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
    return _decode(io.BytesIO(packed), f"{path}[{index}]")

  return _decoding_source(path, decode, labels, num_classes)


def png_folder_source(path: str | os.PathLike, *, num_classes: int | None = None) -> Source:
  """Reads `path/<class>/<image>.png` (or .jpg); an image is decoded when it is read.

  Where every folder's name is an integer, it is the label; else the labels number the folders in
  the order of their names. Images follow one another by class, then by file name; hidden files are
  left out, other files are refused.
  """
  path = str(path)
  remedy = "Expected a folder for every class with .png or .jpg images of one size."
  folders = sorted(f for f in pathlib.Path(path).iterdir() if f.is_dir() and f.name[0] != ".")
  numeric = bool(folders) and all(f.name.isdecimal() for f in folders)
  files, labels = [], []
  for label, folder in sorted((int(f.name), f) for f in folders) if numeric else enumerate(folders):
    for file in sorted(f for f in folder.iterdir() if f.name[0] != "."):
      if file.suffix.lower() not in _SUFFIXES:
        raise DataFileError(file, f"is not one of {', '.join(_SUFFIXES)}", remedy)
      files.append(str(file))
      labels.append(label)
  if not files:
    raise DataFileError(path, "is empty: it holds no folder of images", remedy)
  return _decoding_source(
    path, lambda index: _decode(files[index], files[index]), np.array(labels), num_classes
  )


def unlabelled_folder(path: str | os.PathLike) -> tuple[list[str], Source]:
  """Reads all `.png` and `.jpg` images below a folder: their names inside it, and a source.

  All labels of the source are 0. Hidden files and files of other kinds are left out.
  """
  root = pathlib.Path(path)
  names = sorted(
    str(file.relative_to(root))
    for file in root.rglob("*")
    if file.suffix.lower() in _SUFFIXES and file.name[0] != "." and file.is_file()
  )
  if not names:
    raise DataFileError(path, "holds no .png or .jpg image", "Name the folder of the images.")
  files = [str(root / name) for name in names]
  labels = np.zeros(len(files), np.int32)
  return names, _decoding_source(str(path), lambda i: _decode(files[i], files[i]), labels, 1)


def _decoding_source(path, decode_fn, labels, num_classes) -> Source:
  """A source whose image i is `decode_fn(i)`; the first one gives the shape."""
  num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
  _require(label_problem(labels, num_classes), path)
  labels = labels.astype(np.int32)
  shape = decode_fn(0).shape

  def read(indices):
    indices = as_indices(indices, len(labels), path)
    images = np.empty((len(indices), *shape), np.uint8)
    for row, index in enumerate(indices):
      image = decode_fn(index)
      if image.shape != shape:
        reason = f"image {index} has shape {list(image.shape)}, the first one {list(shape)}"
        raise DataFileError(path, reason, "All images of a set must have one size and kind.")
      images[row] = image
    return images, labels[indices]

  return Source(path, len(labels), shape, num_classes, read)


def _decode(file, where) -> np.ndarray:
  """Decodes an image file to uint8 [h, w, 1 or 3]."""
  from PIL import Image

  try:
    with Image.open(file, formats=("PNG", "JPEG")) as image:
      image.load()
  except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
    raise DataFileError(where, f"cannot be decoded ({error})", "Make or fetch it again.") from error
  if image.mode in ("P", "1") and "transparency" not in image.info:
    image = image.convert("L" if image.mode == "1" else "RGB")
  if image.mode not in ("L", "RGB"):
    reason = f"is of mode {image.mode}, expected 8-bit grey (L) or RGB"
    raise DataFileError(where, reason, "Convert it: PIL.Image.open(path).convert('RGB').")
  array = np.asarray(image)
  return array[..., None] if array.ndim == 2 else array


def _require(problem, path):
  """Raises DataFileError if there is a problem, in words."""
  if problem:
    raise DataFileError(path, problem, "Correct the file, or num_classes if that is what is wrong.")


def _require_keys(archive, path, keys):
  """Raises DataFileError, with the near miss, for an npz without one of the arrays `keys`."""
  names = npy.member_names(archive)
  for key in keys:
    if key not in names:
      reason = f"holds no array {key!r}, only {sorted(names)}{near_miss(key, names)}"
      raise DataFileError(path, reason, f"Save it with the keys {', '.join(keys)}. {_LAYOUT}")
