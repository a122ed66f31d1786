"""Reads .npy arrays, alone or inside an npz, row by row; nothing is ever unpickled.

`numpy.load` maps or loads whole arrays; here a row is one `pread` (nothing stays in memory, and a
file that shrinks while a job runs is an error, not a SIGBUS), and a member of an npz is streamed.
"""

import collections
import contextlib
import functools
import io
import math
import os
import stat
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np

from jax_robust.errors import DataFileError

_PICKLE_REMEDY = (
  "Nothing is ever unpickled here, since unpickling runs whatever code the file holds; ask for "
  "the data as numpy.savez(path, image=uint8 [n, h, w, c], label=integers [n])."
)
_DAMAGED_REMEDY = "The file is damaged or its transfer was cut off: fetch or make it again."
_MOST_UNPACKED, _MOST_EXPANSION = 64 << 20, 200
_LONGEST_HEAD = 1 << 16  # bytes; that of an array of numbers has a hundred
_MOST_DIRECTORY = 1 << 20  # bytes of a zip archive's list of members: some ten thousand of them
# Python's parser reports what is nested too deeply as a lack of memory.
_READ_ERRORS = (
  EOFError, OSError, ValueError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError,
)  # fmt: skip
_LONGEST_END = 22 + 56 + 20 + (1 << 16)  # of a zip archive: its last records, and a comment
_IN_ZIP64 = 2**32 - 1
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)


class Header(NamedTuple):
  """What the head of a .npy file says; `offset` is the head's own length in bytes."""

  shape: tuple[int, ...]
  dtype: np.dtype
  offset: int

  @property
  def row_bytes(self) -> int:
    """Bytes of one entry of the first axis."""
    return math.prod(self.shape[1:]) * self.dtype.itemsize  # of Python: it does not overflow

  @property
  def file_bytes(self) -> int:
    """Bytes of a complete file with this head."""
    return self.offset + self.shape[0] * self.row_bytes


def read_header(stream: IO[bytes], where) -> Header:
  """Reads the head of a .npy file; `stream` stands at its start, and behind the head afterwards.

  Raises:
    DataFileError: this is no .npy file, holds Python objects, is a scalar or in Fortran order;
      `where` names it.
  """
  try:
    magic = stream.read(np.lib.format.MAGIC_LEN)
    width = {(1, 0): 2, (2, 0): 4}[np.lib.format.read_magic(io.BytesIO(magic))]
    length = stream.read(width)
    text = stream.read(min(int.from_bytes(length, "little"), _LONGEST_HEAD))
    shape, fortran_order, dtype = _parse_header(magic + length + text)
  except (*_READ_ERRORS, KeyError, TypeError) as error:
    raise DataFileError(where, f"is not a .npy array ({error})", _DAMAGED_REMEDY) from error
  if dtype.hasobject:
    raise DataFileError(where, "holds pickled Python objects", _PICKLE_REMEDY)
  if not shape or any(size < 0 for size in shape):
    raise DataFileError(where, f"has shape {list(shape)}, expected an array", _DAMAGED_REMEDY)
  if fortran_order and len(shape) > 1:
    raise DataFileError(
      where, "is in Fortran order", "Save it again after numpy.ascontiguousarray(array)."
    )
  return Header(shape, dtype, stream.tell())


@functools.lru_cache(maxsize=64)
def _parse_header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
  """Shape, Fortran order and dtype; the shards of a set have few different heads."""
  stream = io.BytesIO(head)
  if np.lib.format.read_magic(stream) == (1, 0):
    return np.lib.format.read_array_header_1_0(stream)
  return np.lib.format.read_array_header_2_0(stream)


class RowFile(NamedTuple):
  """The rows of an array inside a file, read by `pread`: no state, no lock, nothing is kept."""

  path: str
  offset: int
  shape: tuple[int, ...]
  dtype: np.dtype

  @property
  def file_bytes(self) -> int:
    """Bytes of the file, if the array ends where the file does."""
    return Header(self.shape, self.dtype, self.offset).file_bytes

  def read(self, rows: np.ndarray) -> np.ndarray:
    """Returns the given rows (int64 [n], valid ones) as a new array."""
    try:
      fd = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
      raise DataFileError(
        self.path, f"cannot be opened ({error.strerror})", _DAMAGED_REMEDY
      ) from error
    try:
      return self.read_from(fd, rows)
    finally:
      os.close(fd)

  def read_from(self, fd: int, rows: np.ndarray) -> np.ndarray:
    """Returns the given rows of a file that is open: this one, or a copy of it."""
    out = np.empty((len(rows), *self.shape[1:]), self.dtype)
    if not len(rows):
      return out
    # One pread for every run of neighbouring rows.
    ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    buffer, row_bytes, start = out.data.cast("B"), out.nbytes // len(rows), 0
    for end in ends:
      self._fill(fd, buffer[start * row_bytes : end * row_bytes], int(rows[start]) * row_bytes)
      start = end
    return out

  def _fill(self, fd, buffer, position):
    """Reads `len(buffer)` bytes from `position` bytes into the array."""
    while buffer:
      count = os.preadv(fd, [buffer], self.offset + position)
      if count == 0:
        raise DataFileError(self.path, "ends in the middle of its samples", _DAMAGED_REMEDY)
      buffer, position = buffer[count:], position + count


def row_file(path) -> RowFile:
  """Opens a .npy file, of which it reads the head only."""
  with open_file(path) as stream:
    header = read_header(stream, path)
  return RowFile(str(path), header.offset, header.shape, header.dtype)


def whole_array(path) -> np.ndarray:
  """Returns the array of a .npy file, which must be as long as its head says."""
  rows = row_file(path)
  if (size := os.path.getsize(path)) != rows.file_bytes:
    raise DataFileError(
      path,
      f"has {size} bytes, but its header announces {rows.file_bytes}: {rows.dtype} "
      f"{list(rows.shape)}",
      _DAMAGED_REMEDY,
    )
  return rows.read(np.arange(rows.shape[0]))


def check_is_npz(path) -> None:
  """Raises DataFileError unless a file starts as a zip archive; a pickle is named as one."""
  with open_file(path) as stream:
    magic = stream.read(6)
  if not magic:
    raise DataFileError(path, "is empty (0 bytes)", _DAMAGED_REMEDY)
  if magic[:1] == b"\x80":
    raise DataFileError(path, "is a Python pickle", _PICKLE_REMEDY)
  if magic == b"\x93NUMPY":
    with open_file(path) as stream:
      read_header(stream, path)  # a pickled object array is refused as one
    remedy = "Save images and labels together: numpy.savez(path, image=images, label=labels)."
    raise DataFileError(path, "is a single .npy array", remedy)
  if magic[:2] != b"PK":
    raise DataFileError(path, "is not an npz file (no zip archive)", _DAMAGED_REMEDY)


@contextlib.contextmanager
def open_npz(path) -> Iterator[zipfile.ZipFile]:
  """Opens an npz as the zip archive that it is; whatever is wrong with it is a DataFileError."""
  check_is_npz(path)
  try:
    _check_directory(path)
    with zipfile.ZipFile(path) as archive:
      names = archive.namelist()
      if any(name.endswith((".pkl", ".pickle")) for name in names):
        raise DataFileError(path, "is a PyTorch file, which is a pickle", _PICKLE_REMEDY)
      if twice := next((name for name, num in collections.Counter(names).items() if num > 1), ""):
        raise DataFileError(path, f"holds {twice!r} twice", "Make it again with each once.")
      yield archive
  except _ZIP_ERRORS as error:
    reason = str(error) or "it ends too early"
    raise DataFileError(path, f"is damaged ({reason})", _DAMAGED_REMEDY) from error


def _check_directory(path) -> None:
  """Raises DataFileError where a zip archive lists so many members that reading them takes long."""
  with open_file(path) as stream:
    stream.seek(-min(os.path.getsize(path), _LONGEST_END), os.SEEK_END)
    end = stream.read()
  place = end.rfind(b"PK\x05\x06")
  size = int.from_bytes(end[place + 12 : place + 16], "little") if place >= 0 else 0
  if size == _IN_ZIP64 and (place := end.rfind(b"PK\x06\x06", 0, place)) >= 0:
    size = int.from_bytes(end[place + 40 : place + 48], "little")
  if size > _MOST_DIRECTORY:
    remedy = "Save arrays by numpy.savez; of single images, make a folder, or shards."
    raise DataFileError(path, f"has {size:,} bytes of names of members", remedy)


def member_names(archive: zipfile.ZipFile) -> list[str]:
  """Returns the names of the arrays in an npz."""
  return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


@contextlib.contextmanager
def open_member(archive: zipfile.ZipFile, key: str) -> Iterator[tuple[IO[bytes], Header]]:
  """Opens one array of an npz behind its header, which must announce the size that it has."""
  where, info = f"{archive.filename}[{key}]", archive.getinfo(f"{key}.npy")
  check_expansion(where, info.file_size, info.compress_size)
  with archive.open(info) as stream:
    header = read_header(stream, where)
    if header.file_bytes != info.file_size:
      raise DataFileError(
        where,
        f"has {info.file_size} bytes, but its header announces {header.file_bytes}: "
        f"{header.dtype} {list(header.shape)}",
        _DAMAGED_REMEDY,
      )
    yield stream, header


def member_header(archive: zipfile.ZipFile, key: str) -> Header:
  """Returns the header of one array of an npz."""
  with open_member(archive, key) as (_, header):
    return header


def member_rows(archive: zipfile.ZipFile, key: str, num_rows: int) -> Iterator[np.ndarray]:
  """Streams an array of an npz, `num_rows` at a time; zip's checksum is verified at the end."""
  with open_member(archive, key) as (stream, header):
    for start in range(0, header.shape[0], num_rows):
      count = min(num_rows, header.shape[0] - start)
      data = stream.read(count * header.row_bytes)
      if len(data) != count * header.row_bytes:
        raise EOFError(f"{key} ends in the middle of its samples")
      yield np.frombuffer(data, header.dtype).reshape(count, *header.shape[1:])


def member_array(archive: zipfile.ZipFile, key: str) -> np.ndarray:
  """Returns a whole array of an npz."""
  header = member_header(archive, key)
  out, start = np.empty(header.shape, header.dtype), 0
  for rows in member_rows(archive, key, max(1, (4 << 20) // max(1, header.row_bytes))):
    out[start : start + len(rows)] = rows
    start += len(rows)
  return out


def stored_rows(archive: zipfile.ZipFile, key: str) -> RowFile | None:
  """Returns random access to an array that lies uncompressed in its npz, else None."""
  info = archive.getinfo(f"{key}.npy")
  if info.compress_type != zipfile.ZIP_STORED:
    return None
  header = member_header(archive, key)
  with open_file(
    archive.filename
  ) as stream:  # the local header: 30 bytes, the name, an extra field
    stream.seek(info.header_offset + 26)
    lengths = np.frombuffer(stream.read(4), "<u2")
  start = info.header_offset + 30 + int(lengths.sum())
  return RowFile(str(archive.filename), start + header.offset, header.shape, header.dtype)


def check_expansion(where, size: int, packed: int) -> None:
  """Raises DataFileError for what would unpack to far more than any images do."""
  if size > _MOST_UNPACKED and size > _MOST_EXPANSION * packed:
    raise DataFileError(
      where,
      f"would unpack to {size:,} bytes from {packed:,}, as images never do",
      "It is no data set, or made to fill the memory: get the data from elsewhere.",
    )


def open_file(path) -> IO[bytes]:
  """Opens a regular file for reading; a pipe, socket or device is refused without opening it."""
  try:
    if not stat.S_ISREG(os.stat(path).st_mode):
      what = "is a folder" if os.path.isdir(path) else "is a pipe, a socket or a device"
      raise DataFileError(path, f"{what}, expected a file", "Check the path.")
    return open(path, "rb")
  except OSError as error:
    raise DataFileError(path, f"cannot be opened ({error.strerror})", "Check the path.") from error
