"""Folders of files that appear complete or not at all, whenever the program is killed.

As `jax_robust.atomic` does with single files: under a temporary name first, then renamed.
"""

import contextlib
import errno
import pathlib
import shutil
from collections.abc import Iterator

from jax_robust.atomic import ending_on_sigterm, partial_name, sync
from jax_robust.errors import DataFileError

REMEDY = "It was left as it is. Choose another folder, or delete this one yourself."


@contextlib.contextmanager
def partial_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """A new folder beside `folder` to write in, removed at the end unless `publish` has renamed it.

  Raises:
    OSError: what failed; a full disk is named with the remedy.
  """
  folder.parent.mkdir(parents=True, exist_ok=True)
  partial = partial_name(folder)
  with ending_on_sigterm():
    try:
      partial.mkdir()
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
    sync(path)  # first, so that the rename cannot reach the disk before the content
  try:
    partial.rename(folder)
  except OSError as error:
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
      raise DataFileError(folder, "was made meanwhile by someone else", REMEDY) from error
    raise
  sync(folder.parent)
