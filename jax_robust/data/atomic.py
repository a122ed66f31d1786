"""A folder that appears complete or not at all: written beside its place, then renamed."""

import contextlib
import errno
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator

from jax_robust.errors import DataFileError

REMEDY = "It was left as it is. Choose another folder, or delete this one yourself."


@contextlib.contextmanager
def partial_folder(folder) -> Iterator[pathlib.Path]:
  """A folder beside `folder` to write in, gone afterwards; a full disk is named as such."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
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


@contextlib.contextmanager
def unless_unsupported() -> Iterator[None]:
  """Passes over an operation that this file system does not have."""
  try:
    yield
  except OSError as error:
    if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
      raise


def publish(partial, folder) -> None:
  """Renames the complete folder; fails if another process was faster."""
  try:
    partial.rename(folder)  # over an empty folder at most
  except OSError as error:
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
      raise DataFileError(folder, "was made meanwhile by someone else", REMEDY) from error
    raise
  _sync_path(folder.parent)


def sync(folder) -> None:
  """Brings a folder and its files to the disk, so that the rename cannot overtake them."""
  for path in (*folder.iterdir(), folder):
    _sync_path(path)


def _sync_path(path) -> None:
  """Brings a file or a folder's entries to the disk."""
  fd = os.open(path, os.O_RDONLY)
  try:
    os.fsync(fd)
  finally:
    os.close(fd)
