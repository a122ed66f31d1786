"""What lies in a folder of images: the classes in their order, the images, and what is neither."""

import itertools
import logging
import os
import pathlib
import stat
from collections.abc import Iterator
from typing import NamedTuple

from jax_robust.data.classes import shown
from jax_robust.errors import DataFileError, first_few
from jax_robust.names import natural

SUFFIXES = (".png", ".jpg", ".jpeg")

_LITTER = (
  "thumbs.db",
  "ehthumbs.db",
  "desktop.ini",
  "icon\r",
  "__macosx",
  "@eadir",
  "$recycle.bin",
)
"""What operating systems leave in folders, in small letters; hidden files are left out too."""

_REMEDY = "Expected a folder for every class with .png or .jpg images of one size."
_NO_IMAGES = (
  "Move what is no image away, and save images of other kinds as .png, which keeps their pixels."
)


class ClassFolder(NamedTuple):
  """A class: its name as text, and its folder."""

  name: str
  path: str


def class_folders(path: str | os.PathLike) -> list[ClassFolder]:
  """The folders of the classes, in the order of their labels.

  That is the order of their names; where all names are numbers, of the numbers.

  Raises:
    DataFileError: there is none, or two are one class, or they are no classes but the seeds of a
      generator, by which EDM and others number their folders.
  """
  entries = list(_entries(path))
  folders = [ClassFolder(shown(entry.name), entry.path) for entry in entries if entry.is_dir()]
  if not folders:
    raise DataFileError(path, "is empty: it holds no folder of images", _REMEDY)
  images = [entry.path for entry in entries if _is_image(entry.name) and not entry.is_dir()]
  if images:
    reason = f"lies beside the folders of the classes, as do {len(images) - 1} other images"
    raise DataFileError(images[0], reason, _REMEDY)
  folders.sort(key=lambda folder: folder.name)
  if all(folder.name.isdecimal() for folder in folders):
    folders.sort(key=lambda folder: natural(folder.name))
    _check_numbers(path, [folder.name for folder in folders])
  return folders


def has_folders(path: str | os.PathLike) -> bool:
  """Whether a folder holds folders, besides those that are hidden or an operating system's."""
  return any(entry.is_dir() for entry in _entries(path))


def _check_numbers(path, names: list[str]) -> None:
  """Refuses numbers of which two are one, and those that are no classes."""
  for first, second in itertools.pairwise(names):
    if int(first) == int(second):
      reason = f"holds the folders {first!r} and {second!r}, which are one number"
      raise DataFileError(path, reason, "Merge them, or name one of them otherwise.")
  numbers = [int(name) for name in names]
  padded = [name for name in names if name[0] == "0" and len(name) > 1]
  if padded and numbers != list(range(numbers[0], numbers[0] + len(names))):
    reason = f"holds the folders {first_few(names)}, which look like seeds of a generator"
    raise DataFileError(
      path,
      reason,
      "Have a classifier label them (docs/generated.md), put them into folders of their classes, "
      "or save them with labels as npz.",
    )


def class_images(folders: list[ClassFolder], path: str) -> Iterator[tuple[int, str]]:
  """Label and path of every image, by class and then by file name.

  Raises:
    DataFileError: there is none, or there are files that are no images; all of them are counted.
  """
  litter, strangers, count = [], [], 0
  for label, folder in enumerate(folders):
    for entry in _entries(folder.path, litter):
      if _is_image(entry.name) and stat.S_ISREG(_mode(entry)):
        count += 1
        yield label, entry.path
      else:
        strangers.append(entry.path)
  _tell(path, litter)
  if strangers:
    # A name that ends like an image's, and is a pipe or a broken link, is said to be one.
    reason = f"is not one of {', '.join(SUFFIXES)}"
    if _is_image(strangers[0]):
      reason = "is no file (a folder, a pipe, a device or a broken link)"
    if len(strangers) > 1:
      reason += f"; nor are {len(strangers) - 1} others, such as {first_few(strangers[1:6])}"
    raise DataFileError(strangers[0], reason, _NO_IMAGES)
  if not count:
    raise DataFileError(path, "is empty: its folders hold no image", _REMEDY)


def images_below(path: str | os.PathLike) -> list[str]:
  """All images below a folder, at any depth, in the order of their names; the rest is left out.

  Images that a generator has numbered by its seeds, alone or in a folder for each thousand of them
  (`000000/000123.png`), come in the order of the seeds.

  Raises:
    DataFileError: there is none, or two are of one seed.
  """
  found, left_out = [], []
  for folder, folders, names in os.walk(path):
    folders[:] = sorted(name for name in folders if not _is_litter(name))
    for name in names:
      file = os.path.join(folder, name)
      if _is_litter(name):
        continue
      if _is_image(name) and os.path.isfile(file):
        found.append(file)
      else:
        left_out.append(file)
  _tell(os.fspath(path), left_out)
  if not found:
    raise DataFileError(path, "holds no .png or .jpg image", "Name the folder of the images.")
  return _by_seed(path, found) or sorted(found, key=lambda file: pathlib.PurePath(file).parts)


def _by_seed(path: str | os.PathLike, paths: list[str]) -> list[str] | None:
  """Images in the order of their seeds; None where their names are none."""
  seeds: dict[int, str] = {}
  for file in paths:
    *folders, name = pathlib.PurePath(file).relative_to(path).parts
    seed = pathlib.PurePath(name).stem
    if len(folders) > 1 or not all(map(_is_seed, [seed, *folders])):
      return None
    if folders and int(folders[0]) % 1000:
      return None
    seeds.setdefault(int(seed), file)
  if len(seeds) < len(paths):
    first, second = _same_seed(paths, seeds)
    reason = f"is of the same seed as {first}, and so the same image"
    raise DataFileError(second, reason, "Delete one of them, or give each run a folder of its own.")
  return [seeds[seed] for seed in sorted(seeds)]


def _is_seed(name: str) -> bool:
  """Whether a name is a number as EDM's generate.py writes it, in six digits or more."""
  return name.isdecimal() and len(name) >= 6


def _same_seed(paths: list[str], seeds: dict[int, str]) -> tuple[str, str]:
  """Two images of one seed, the first of which is kept in `seeds`."""
  return next(
    (kept, file) for file in paths if (kept := seeds[int(pathlib.PurePath(file).stem)]) != file
  )


def _entries(path, litter: list[str] | None = None) -> Iterator[os.DirEntry]:
  """What lies in a folder, in the order of the names, without what operating systems left there."""
  try:
    with os.scandir(path) as found:
      entries = sorted(found, key=lambda entry: entry.name)
  except OSError as error:
    reason = f"cannot be listed ({error.strerror})"
    raise DataFileError(path, reason, "Check the path.") from error
  for entry in entries:
    if not _is_litter(entry.name):
      yield entry
    elif litter is not None and entry.name[0] != ".":
      litter.append(entry.path)


def _is_litter(name: str) -> bool:
  """Whether a name is hidden, or that of a file that an operating system makes by itself."""
  return name[0] == "." or name.casefold() in _LITTER


def _is_image(name: str) -> bool:
  """Whether a name ends as those of images do."""
  return name.lower().endswith(SUFFIXES)


def _mode(entry: os.DirEntry) -> int:
  """What kind of file an entry is; 0 for a link to nothing."""
  try:
    return entry.stat().st_mode
  except OSError:
    return 0


def _tell(path: str, left_out: list[str]) -> None:
  """Says once which files were left out."""
  if left_out:
    names = sorted({shown(os.path.basename(file)) for file in left_out})
    logging.getLogger(__name__).info(
      "%s: left out %d files that are no .png or .jpg images: %s",
      shown(path), len(left_out), first_few(names),
    )  # fmt: skip
