"""Where the files of a folder of shards lie: on a local disk, or in an object store.

A path with a scheme, such as `gs://bucket/set`, is read through TensorFlow's `tf.io.gfile`, which
must know the scheme. All others are local, and need no TensorFlow.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import IO, Any

from jax_robust.data import npy
from jax_robust.data.tf_import import import_tensorflow
from jax_robust.errors import DataFileError

_REMEDY = "Check the path, and that this machine may read it."


def is_remote(path: Any) -> bool:
  """Whether a path lies in an object store.

  >>> is_remote("gs://bucket/set"), is_remote("/data/set")
  (True, False)
  """
  return isinstance(path, (str, os.PathLike)) and "://" in os.fspath(path)


def join(folder: str | os.PathLike, name: str) -> str:
  """The path of a file of a folder."""
  if is_remote(folder):
    return f"{os.fspath(folder).rstrip('/')}/{name}"
  return str(pathlib.Path(folder, name))


def exists(path: str | os.PathLike) -> bool:
  """Whether there is such a file or folder."""
  if not is_remote(path):
    return pathlib.Path(path).exists()
  with _reading(path) as gfile:
    return gfile.exists(os.fspath(path))


def file_names(folder: str | os.PathLike) -> set[str]:
  """The names of what lies in a folder."""
  if is_remote(folder):
    with _reading(folder) as gfile:
      return {name.rstrip("/") for name in gfile.listdir(os.fspath(folder))}
  try:
    return set(os.listdir(folder))
  except OSError as error:
    raise DataFileError(
      folder, f"cannot be listed ({error.strerror})", "Check the path."
    ) from error


def size(path: str) -> int:
  """Bytes of a file."""
  if not is_remote(path):
    return os.path.getsize(path)
  with _reading(path) as gfile:
    return gfile.stat(path).length


@contextlib.contextmanager
def open_file(path: str) -> Iterator[IO[bytes]]:
  """Opens a file to be read from its beginning on; a DataFileError says why that can't be done."""
  if not is_remote(path):
    with npy.open_file(path) as stream:
      yield stream
    return
  with _reading(path) as gfile, gfile.GFile(path, "rb") as stream:
    yield stream


@contextlib.contextmanager
def _reading(path: str | os.PathLike) -> Iterator[Any]:
  """`tf.io.gfile`, whose errors become ours."""
  try:
    tf = import_tensorflow()
  except ImportError as error:
    raise DataFileError(path, "lies in an object store", f"{error}.") from error
  try:
    yield tf.io.gfile
  except tf.errors.OpError as error:
    raise DataFileError(path, f"cannot be read ({error.message})", _REMEDY) from error
