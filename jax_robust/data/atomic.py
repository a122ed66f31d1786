"""Files and folders that appear complete or not at all, whenever the program is killed.

Everything is written under a temporary name beside its place, brought to the disk, then renamed.
Nothing here knows what is written: any room of the package that writes files may use it.
"""

import contextlib
import errno
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from jax_robust.errors import DataFileError

REMEDY = "It was left as it is. Choose another folder, or delete this one yourself."


def write_atomically(
  path: str | os.PathLike, content: bytes | str | Callable[[BinaryIO], Any]
) -> None:
  """Writes a file, replacing an older one; missing folders are made.

  Guarantees:
    `old_or_new`: whenever the program is killed, `path` holds the old content or the new one, and
      several programs that write it at once leave the content of one of them.
    `cleans_up`: whatever fails, no temporary file is left (a kill -9 leaves `.NAME.partial-…`).

  Args:
    path: of the file.
    content: the bytes, a text (stored as UTF-8), or a function that writes them to a stream.

  Raises:
    OSError: the file can't be written.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = _partial_name(path)
  try:
    with partial.open("xb") as stream:
      if callable(content):
        content(stream)
      else:
        stream.write(content.encode() if isinstance(content, str) else content)
      stream.flush()
      os.fsync(stream.fileno())
    partial.replace(path)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise
  _sync(path.parent)


@contextlib.contextmanager
def partial_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """A new folder beside `folder` to write in, removed at the end unless `publish` has renamed it.

  Raises:
    OSError: what failed; a full disk is named with the remedy.
  """
  folder.parent.mkdir(parents=True, exist_ok=True)
  partial = _partial_name(folder)
  partial.mkdir()
  try:
    yield partial
  except OSError as error:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
      raise
    raise OSError(
      error.errno,
      f"disk full while writing shards ({error.strerror}); the partial folder was removed. "
      "Free space or choose a folder on another disk",
      str(folder),
    ) from error
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def publish(partial: pathlib.Path, folder: pathlib.Path) -> None:
  """Renames a complete folder of files to its place, which must be free or an empty folder.

  Raises:
    DataFileError: another process has made `folder` meanwhile.
  """
  for path in (*partial.iterdir(), partial):
    _sync(path)  # first, so that the rename cannot reach the disk before the content
  try:
    partial.rename(folder)
  except OSError as error:
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
      raise DataFileError(folder, "was made meanwhile by someone else", REMEDY) from error
    raise
  _sync(folder.parent)


@contextlib.contextmanager
def unless_unsupported() -> Iterator[None]:
  """Passes over an operation that this file system does not have."""
  try:
    yield
  except OSError as error:
    if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
      raise


def _partial_name(path: pathlib.Path) -> pathlib.Path:
  """A name beside `path` that no other process and no other call uses."""
  return path.with_name(f".{path.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")


def _sync(path: pathlib.Path) -> None:
  """Brings a file, or the entries of a folder, to the disk."""
  fd = os.open(path, os.O_RDONLY)
  try:
    with unless_unsupported():
      os.fsync(fd)
  finally:
    os.close(fd)
