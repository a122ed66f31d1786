"""HDF5 files, such as those of large generated sets: their arrays, in blocks, by name.

Only numbers that lie in the file itself are read. HDF5 has no checksums unless its writer asked for
them (`fletcher32=True` of h5py): damage inside uncompressed images can't be found here, and
compressed ones are found damaged where they no longer unpack.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from jax_robust.data import npy
from jax_robust.errors import DataFileError, brought_by

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_FIRST_BLOCKS = (0, 512, 1024, 2048, 4096)
"""Where the signature may stand: at the beginning, or behind a block that another program wrote."""

_DAMAGED = "The file is damaged or its transfer was cut off: fetch or make it again."
_OWN = (
  "Write it again with its images and labels in the file itself, as h5py's create_dataset does."
)


def is_hdf5(path: str | os.PathLike) -> bool:
  """Whether a file is HDF5, by its content."""
  with npy.open_file(path) as stream:
    for place in _FIRST_BLOCKS:
      stream.seek(place)
      if stream.read(len(_SIGNATURE)) == _SIGNATURE:
        return True
  return False


@contextlib.contextmanager
def open_hdf5(path: str | os.PathLike) -> Iterator[Any]:
  """Opens an HDF5 file; whatever is wrong with it, when it is read too, is a DataFileError.

  So is it where h5py is not installed; the message says how it is.
  """
  try:
    with brought_by("hdf5"):
      import h5py
  except ImportError as error:
    raise DataFileError(path, f"is an HDF5 file ({error.msg})", "Install what reads it.") from error
  npy.open_file(path).close()
  try:
    with h5py.File(path, "r", locking=False) as file:
      yield file
  except (OSError, RuntimeError, KeyError) as error:
    raise DataFileError(path, f"is damaged ({error})", _DAMAGED) from error


def member_names(file: Any) -> list[str]:
  """The names of what lies in a file."""
  return list(file)


def member_header(file: Any, key: str) -> npy.Header:
  """Shape and dtype of an array, which must be one of numbers, kept in the file itself."""
  dataset = _open(file, key)
  return npy.Header(dataset.shape, dataset.dtype, 0)


def member_rows(file: Any, key: str, num_rows: int) -> Iterator[np.ndarray]:
  """Yields an array, `num_rows` at a time; each of its chunks is unpacked once."""
  dataset = _open(file, key)
  for start in range(0, len(dataset), num_rows):
    yield dataset[start : start + num_rows]


def stored_rows(file: Any, key: str) -> npy.RowFile | None:
  """Random access to an array that lies in one piece and uncompressed in its file, else None."""
  dataset = _open(file, key)
  offset = dataset.id.get_offset()
  if dataset.chunks is not None or offset is None:
    return None
  return npy.RowFile(os.fspath(file.filename), offset, dataset.shape, dataset.dtype)


def _open(file: Any, key: str) -> Any:
  """Opens an array, with a cache for a row of its chunks.

  Raises:
    DataFileError: there is none of numbers, or it lies in other files, which need not be the
      user's to read.
  """
  import h5py

  where = f"{file.filename}[{key}]"
  if isinstance(file.get(key, getlink=True), h5py.ExternalLink):
    raise DataFileError(where, "lies in another file", _OWN)
  dataset = file[key]
  if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
    raise DataFileError(where, "is no array", _OWN)
  if dataset.is_virtual or dataset.external:
    raise DataFileError(where, "keeps its content in other files", _OWN)
  if dataset.dtype.kind not in "iufb":
    raise DataFileError(where, f"is of {dataset.dtype}, expected numbers", _OWN)
  if dataset.shape and 0 not in dataset.shape:
    npy.check_expansion(where, dataset.nbytes, dataset.id.get_storage_size())
  if not dataset.chunks:
    return dataset
  row_bytes = dataset.nbytes // max(1, len(dataset))
  access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
  access.set_chunk_cache(_NUM_SLOTS, max(1 << 20, dataset.chunks[0] * row_bytes), 1.0)
  return h5py.Dataset(h5py.h5d.open(file.id, key.encode(), access))


_NUM_SLOTS = 10_007  # of the cache's table: a prime number, many more than a row has chunks
