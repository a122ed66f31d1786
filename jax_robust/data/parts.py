"""Sets that come in several files, such as `20m_part1.npz`, `20m_part2.npz`: which, and as one."""

import glob
import itertools
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from jax_robust.data.sources import Source, Stream, as_indices, labels_of
from jax_robust.errors import DataFileError, first_few
from jax_robust.names import natural

SUFFIXES = (".npz", ".h5", ".hdf5")

_NUMBERED = re.compile(r"(.*?)(\d+)")


def is_pattern(path: str | os.PathLike) -> bool:
  """Whether a path is no file or folder, but a pattern that may match several, as in a shell."""
  return glob.has_magic(os.fspath(path)) and not os.path.lexists(path)


def in_folder(folder: str | os.PathLike) -> list[str]:
  """The files of arrays that lie in a folder."""
  with os.scandir(folder) as entries:
    return [each.path for each in entries if each.name.endswith(SUFFIXES) and each.is_file()]


def part_files(path: str | os.PathLike) -> list[str]:
  """The files of a set in parts, by the numbers in their names.

  Args:
    path: a folder, whose files must be one series of numbered ones, or a pattern.

  Raises:
    DataFileError: there is none; a part is missing (which a pattern with brackets may leave out); a
      folder holds several files that are not one series, such as splits, or sizes of a set.
  """
  if is_pattern(path):
    paths = glob.glob(os.fspath(path))
    if not paths:
      raise DataFileError(path, "matches no file", "Check the pattern and the folder before it.")
  else:
    paths = in_folder(path)
  paths.sort(key=natural)
  if is_pattern(path) and "[" in os.fspath(path):
    return paths  # chosen one by one
  matches = [_NUMBERED.fullmatch(pathlib.PurePath(each).stem) for each in paths]
  heads = {match[1] if match else None for match in matches}
  if len(heads) == 1 and None not in heads:
    _check_numbers(path, sorted(int(match[2]) for match in matches if match))
  elif not is_pattern(path) and len(paths) > 1:
    names = [pathlib.PurePath(each).name for each in paths]
    reason = f"holds {first_few(names)}, which are not the numbered parts of one set"
    remedy = "Name one file, or the parts of a set by a pattern, such as '20m_part*.npz'."
    raise DataFileError(path, reason, remedy)
  return paths


def _check_numbers(path, numbers: list[int]) -> None:
  """Refuses numbers that do not count from 0 or 1 on."""
  problem = f"begins with part {numbers[0]}" if numbers[0] > 1 else None
  for first, second in itertools.pairwise(numbers):
    if second == first:
      problem = problem or f"has two files of number {first}"
    elif second > first + 1:
      problem = problem or f"has parts {first} and {second}, but none between"
  if problem:
    remedy = "Fetch what is missing, or choose parts by a pattern with brackets, 'part[13].npz'."
    raise DataFileError(path, problem, remedy)


def _common(path, parts: Sequence[Source | Stream]) -> dict:
  """What the parts have in common: name, size, shape, classes."""
  first = parts[0]
  for part in parts:
    for what in ("image_shape", "class_names"):
      if getattr(part, what) != getattr(first, what):
        reason = f"has {what} {getattr(part, what)}, {first.name} has {getattr(first, what)}"
        raise DataFileError(part.name, reason, "The parts of a set must be alike.")
  return {
    "name": os.fspath(path),
    "num_examples": sum(part.num_examples for part in parts),
    "image_shape": first.image_shape,
    "num_classes": max(part.num_classes for part in parts),
    "class_names": first.class_names,
  }


def joined_stream(path: str | os.PathLike, parts: Sequence[Source | Stream]) -> Stream:
  """The samples of several streams or sources, one after another; their classes are those of all.

  Raises:
    DataFileError: the images of a part have another shape, or its classes other names.
  """

  def batches():
    return itertools.chain.from_iterable(part.batches() for part in parts)

  return Stream(batches=batches, **_common(path, parts))


def joined_source(path: str | os.PathLike, parts: Sequence[Source]) -> Source:
  """The samples of several sources, one after another, as `joined_stream` has them."""
  common = _common(path, parts)
  starts = np.concatenate([[0], np.cumsum([part.num_examples for part in parts])])

  def read(indices):
    indices = as_indices(indices, common["num_examples"], common["name"])
    where = np.searchsorted(starts, indices, side="right") - 1
    images = np.empty((len(indices), *common["image_shape"]), np.uint8)
    labels = np.empty(len(indices), np.int32)
    for part in np.unique(where):
      rows = where == part
      images[rows], labels[rows] = parts[part].read(indices[rows] - starts[part])
    return images, labels

  def read_labels():
    return np.concatenate([labels_of(part) for part in parts])

  return Source(read=read, read_labels=read_labels, **common)
