"""Files that appear complete or not at all, and folders that stay the same while a job runs.

A file is written under a temporary name beside its place, brought to the disk, then renamed: no
symbolic link is ever followed in its last step, since a rename replaces the link itself. Nothing
here knows what is written: any room of the package that writes files may use it.
"""

import contextlib
import errno
import os
import pathlib
import secrets
import shutil
import signal
import stat
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO


class FolderGoneError(OSError):
  """A folder that a job writes to was deleted, moved or replaced while the job ran.

  Args:
    folder: its path.
  """

  def __init__(self, folder: str | os.PathLike):
    super().__init__(
      f"{os.fspath(folder)} was deleted, moved or replaced while the job was running: nothing more "
      "is written. Put the folder back, or start the command anew"
    )


class Anchor:
  """A folder as it is now, to be asked later whether its path still leads to it.

  An open descriptor keeps the folder's inode number from being used again, and a network file
  system from forgetting it.

  Args:
    folder: it must be there.
  """

  def __init__(self, folder: str | os.PathLike):
    self._folder = pathlib.Path(folder)
    self._fd = os.open(self._folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    weakref.finalize(self, os.close, self._fd)

  def check(self) -> None:
    """Raises FolderGoneError where the path leads nowhere, or to another folder."""
    try:
      is_same = os.path.samestat(os.stat(self._folder), os.fstat(self._fd))
    except (FileNotFoundError, NotADirectoryError):
      is_same = False
    if not is_same:
      raise FolderGoneError(self._folder)


def write_atomically(
  path: str | os.PathLike, content: bytes | str | Callable[[BinaryIO], Any]
) -> None:
  """Writes a file, replacing an older one; missing folders are made.

  Guarantees:
    `old_or_new`: whenever the program is killed, `path` holds the old content or the new one, and
      several programs that write it at once leave the content of one of them.
    `cleans_up`: whatever fails, and if SIGTERM ends the program, no temporary file is left (a kill
      -9 leaves `.NAME.partial-…`, see `sweep`).
    `follows_no_link`: where `path` is a symbolic link, the link is replaced; its target stays.

  Args:
    path: of the file.
    content: the bytes, a text (stored as UTF-8), or a function that writes them to a stream.

  Raises:
    OSError: the file can't be written.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = partial_name(path)
  with ending_on_sigterm():
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
  sync(path.parent)


@contextlib.contextmanager
def ending_on_sigterm() -> Iterator[None]:
  """Makes SIGTERM an exception in here, so that what was begun is removed; else it would just end.

  Where somebody else handles the signal, or not in the main thread, nothing is changed.
  """

  def leave(*_):
    raise SystemExit(143)

  try:
    previous = signal.getsignal(signal.SIGTERM)
    if previous is signal.SIG_DFL:
      signal.signal(signal.SIGTERM, leave)
  except ValueError:  # not the main thread
    previous = None
  try:
    yield
  finally:
    if previous is signal.SIG_DFL:
      signal.signal(signal.SIGTERM, signal.SIG_DFL)


def partial_name(path: pathlib.Path) -> pathlib.Path:
  """A name beside `path` that no other process and no other call uses."""
  return path.with_name(f".{path.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")


def sweep(folder: pathlib.Path, *, older_than: float = 0.0) -> None:
  """Removes the temporary files and folders of a program that was killed while it wrote.

  Args:
    folder: whose entries are looked at, and those of no folder in it.
    older_than: seconds since they were last changed; 0 where nobody else can be writing there.
  """
  for path in folder.glob(".*.partial-*"):
    with contextlib.suppress(OSError):  # gone meanwhile, or on a disk that can't be written
      if time.time() - path.lstat().st_mtime >= older_than:
        if path.is_dir() and not path.is_symlink():
          shutil.rmtree(path)
        else:
          path.unlink()


NO_FILE = "is no file (but a folder, a pipe or a device)"
"""What is said of a path that can't be read or written as a file."""


def open_no_link(path: str | os.PathLike, flags: int, mode: int = 0o666) -> int:
  """`os.open` of a file that must not be a symbolic link, whose target might be anybody's.

  Raises:
    OSError: it is one, or a pipe or a device (the message says so), or it can't be opened.
  """
  try:
    # A pipe that nobody reads would be waited for; to a file it makes no difference.
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    fd = os.open(path, flags, mode)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
      os.close(fd)
      raise OSError(errno.EINVAL, NO_FILE, str(path))
    return fd
  except OSError as error:
    if error.errno in (errno.ELOOP, errno.EMLINK):
      reason = "is a symbolic link, which is never written through: delete it"
      raise OSError(errno.ELOOP, reason, str(path)) from error
    if error.errno in (errno.ENXIO, errno.EISDIR):
      raise OSError(errno.EINVAL, NO_FILE, str(path)) from error
    raise


def read_bytes(path: str | os.PathLike) -> bytes:
  """The content of a regular file. A pipe or a device, which may never end, is not opened.

  Raises:
    OSError: it is none, or can't be read.
  """
  if not stat.S_ISREG(os.stat(path).st_mode):
    raise OSError(errno.EINVAL, NO_FILE, os.fspath(path))
  return pathlib.Path(path).read_bytes()


@contextlib.contextmanager
def unless_unsupported() -> Iterator[None]:
  """Passes over an operation that this file system does not have."""
  try:
    yield
  except OSError as error:
    if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
      raise


def sync(path: pathlib.Path) -> None:
  """Brings a file, or the entries of a folder, to the disk."""
  fd = os.open(path, os.O_RDONLY)
  try:
    with unless_unsupported():
      os.fsync(fd)
  finally:
    os.close(fd)
