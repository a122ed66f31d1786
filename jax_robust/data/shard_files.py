"""The .npy files of shards, each compared with the manifest: its head, its size, its checksum.

A local file is read in place. Of an object store, a file is fetched when it is first read from, in
blocks, into a temporary file; the last few that were fetched are kept.
"""

import collections
import hashlib
import tempfile
import threading
import weakref
from collections.abc import Iterator
from typing import IO

import numpy as np

from jax_robust.data import npy, storage
from jax_robust.errors import DataFileError

REMEDY = "The folder was damaged or only partly copied: make or fetch it again."

_BLOCK = 1 << 20  # bytes
_NUM_KEPT = 64  # files: images and labels of the 16 shards that are read in turn, and of the next


class ShardFile:
  """An array of a shard, whose rows are read with random access.

  Args:
    path: of the file.
    shape: that the manifest announces.
    dtype: that the manifest announces.
    sha256: that the manifest announces.
    verify: whether the checksum is compared before the first row is returned.
    kept: what has been fetched of the set, for a file in an object store; None for a local one.

  Raises:
    DataFileError: the head announces another array, or the file can't be opened.
  """

  def __init__(
    self,
    path: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    sha256: str,
    *,
    verify: bool,
    kept: "Fetched | None" = None,
  ):
    self.path, self.shape, self.sha256 = path, shape, sha256
    self.dtype, self._kept = np.dtype(dtype), kept
    self._unverified, self._lock = verify, threading.Lock()
    with storage.open_file(path) as stream:
      header = npy.read_header(stream, path)
    if (header.shape, header.dtype) != (shape, self.dtype):
      reason = (
        f"holds {header.dtype} {list(header.shape)}, but the manifest says "
        f"{self.dtype} {list(shape)}"
      )
      raise DataFileError(path, reason, REMEDY)
    self._rows = npy.RowFile(path, header.offset, shape, self.dtype)

  def check_size(self) -> None:
    """Raises DataFileError where the file is shorter or longer than its head says."""
    expected, found = self._rows.file_bytes, storage.size(self.path)
    if found != expected:
      what = "is truncated" if found < expected else "is too long"
      raise DataFileError(self.path, f"{what}: {found} bytes, expected {expected}", REMEDY)

  def blocks(self) -> Iterator[np.ndarray]:
    """Yields all rows, some at a time, and compares the checksum at the end if `verify` says so."""
    digest = hashlib.sha256()
    num_rows = max(1, _BLOCK // max(1, self._rows.file_bytes // max(1, self.shape[0])))
    with storage.open_file(self.path) as stream:
      digest.update(stream.read(self._rows.offset))
      for start in range(0, self.shape[0], num_rows):
        shape = (min(num_rows, self.shape[0] - start), *self.shape[1:])
        data = stream.read(int(np.prod(shape)) * self.dtype.itemsize)
        digest.update(data)
        try:
          yield np.frombuffer(data, self.dtype).reshape(shape)
        except ValueError as error:
          raise DataFileError(self.path, "ends in the middle of its samples", REMEDY) from error
      digest.update(stream.read())
    if self._unverified:
      self._compare(digest.hexdigest())
      self._unverified = self._kept is not None  # what is fetched later may differ

  def verify(self) -> None:
    """Raises DataFileError where the file is not, byte for byte, the one that was written."""
    with storage.open_file(self.path) as stream:
      self._compare(_copy(stream, None))
    self._unverified = self._kept is not None

  def read(self, rows: np.ndarray) -> np.ndarray:
    """Returns the given rows (int64 [n], valid ones) as a new array."""
    if self._kept is not None:
      copy = self._kept.get(self)  # held until the rows are read
      return self._rows.read_from(copy.stream.fileno(), rows)
    if self._unverified:
      with self._lock:
        if self._unverified:
          self.verify()
    return self._rows.read(rows)

  def fetch(self, copy: IO[bytes]) -> None:
    """Copies the file, in blocks, and compares its checksum if `verify` says so."""
    with storage.open_file(self.path) as stream:
      found = _copy(stream, copy)
    if self._unverified:
      self._compare(found)

  def _compare(self, found: str) -> None:
    """Refuses a file whose checksum is not the manifest's."""
    if found != self.sha256:
      reason = f"its sha256 is {found}, manifest.json says {self.sha256}"
      raise DataFileError(self.path, reason, REMEDY)


class Fetched:
  """The files of an object store that were fetched last, in temporary files without a name.

  Guarantees:
    `bounded`: at most `num_kept` files take room on the local disk, however many are read.
    `leaves_nothing`: the room is given back when the program ends, however it ends.

  Args:
    num_kept: how many.
  """

  def __init__(self, num_kept: int = _NUM_KEPT):
    self._num_kept, self._lock = num_kept, threading.Lock()
    self._files: collections.OrderedDict[str, _Copy] = collections.OrderedDict()
    self._locks: dict[str, threading.Lock] = collections.defaultdict(threading.Lock)

  def get(self, file: ShardFile) -> "_Copy":
    """A copy of a file, which is fetched unless it is kept; it stays open as long as it is held."""
    with self._lock:
      one_at_a_time = self._locks[file.path]
    with one_at_a_time:
      with self._lock:
        if file.path in self._files:
          self._files.move_to_end(file.path)
          return self._files[file.path]
      copy = _Copy()
      file.fetch(copy.stream)
      copy.stream.flush()
      with self._lock:
        self._files[file.path] = copy
        if len(self._files) > self._num_kept:
          self._files.popitem(last=False)  # closed once the last thread that reads it is done
      return copy


class _Copy:
  """A temporary file without a name, closed when nobody holds it."""

  def __init__(self):
    self.stream = tempfile.TemporaryFile(prefix="jax_robust-")  # noqa: SIM115 (it stays open)
    weakref.finalize(self, self.stream.close)


def _copy(stream: IO[bytes], copy: IO[bytes] | None) -> str:
  """Reads all that is left of a stream, copies it if so asked, and returns its sha256."""
  digest = hashlib.sha256()
  while block := stream.read(_BLOCK):
    digest.update(block)
    if copy is not None:
      copy.write(block)
  return digest.hexdigest()
