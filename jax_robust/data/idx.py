"""Sources from the IDX files in which MNIST was released: arrays of bytes, gzipped or not."""

import gzip
import io
import math
import os
import pathlib
import zlib

import numpy as np

from jax_robust.data import npy
from jax_robust.data.sources import Source, array_source, image_problem, label_problem
from jax_robust.errors import DataFileError

_PREFIXES = {"train": "train", "test": "t10k"}
_BYTES = 8  # the header's number for arrays of unsigned bytes


def find_idx(folder: str | os.PathLike, split: str) -> tuple[pathlib.Path, pathlib.Path] | None:
  """The files of a split's images and labels, `t10k-images-idx3-ubyte.gz` say; None without any."""
  prefix = _PREFIXES.get(split, split)
  pair = []
  for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
    names = [f"{prefix}-{kind}{suffix}" for suffix in (".gz", "")]
    found = [path for path in (pathlib.Path(folder, name) for name in names) if path.is_file()]
    pair.extend(found[:1])
  return (pair[0], pair[1]) if len(pair) == 2 else None


def idx_source(
  images_path: str | os.PathLike, labels_path: str | os.PathLike, *, num_classes: int | None = None
) -> Source:
  """Reads images `[n, h, w]` of bytes and their labels `[n]` into RAM, in the released order.

  That order is the one by which others number the images; TFDS stores them in another.

  Args:
    images_path, labels_path: the files.
    num_classes: None takes the largest label plus one.

  Returns:
    The source, with one channel.

  Raises:
    DataFileError: a file is damaged, or is no such file; images and labels differ in number.
  """
  images, labels = _read(images_path, ndim=3), _read(labels_path, ndim=1)
  if len(images) != len(labels):
    raise DataFileError(
      labels_path, f"has {len(labels)} labels for {len(images)} images", "Fetch both files again."
    )
  images = images[..., None]
  problem = image_problem(images)
  if num_classes is not None:
    problem = problem or label_problem(labels, num_classes)
  if problem is not None:
    raise DataFileError(images_path, problem, "Correct num_classes, or fetch both files again.")
  return array_source(images, labels, num_classes=num_classes, name=str(images_path))


def _read(path: str | os.PathLike, *, ndim: int) -> np.ndarray:
  """The array of bytes in one file."""
  with npy.open_file(path) as stream:
    data = stream.read()
  start = 4 + 4 * ndim
  if data[:2] == b"\x1f\x8b":
    try:
      with gzip.open(io.BytesIO(data)) as unpacked:
        head = unpacked.read(start)
        # One byte more than the header promises, lest what is too long pass for whole.
        size = math.prod(np.frombuffer(head[4:], ">u4").tolist()) if len(head) == start else 0
        npy.check_expansion(path, size, len(data))
        data = head + unpacked.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
      raise DataFileError(path, f"cannot be unpacked: {error}", "Fetch it again.") from error
  if data[:4] != bytes([0, 0, _BYTES, ndim]) or len(data) < start:
    reason = f"starts with {data[:4].hex(' ') or 'nothing'}, not with 00 00 08 {ndim:02x}"
    raise DataFileError(path, reason, f"Expected an array of bytes with {ndim} axes.")
  shape = tuple(np.frombuffer(data[4:start], ">u4").tolist())
  if len(data) - start != math.prod(shape):
    reason = f"holds {len(data) - start} bytes of {math.prod(shape)} that its header promises"
    raise DataFileError(path, reason, "Fetch it again.")
  return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
