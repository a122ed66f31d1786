"""Classes have names: by them, not by place, the labels of one set become those of another."""

import collections
import contextlib
import dataclasses
import os
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_robust import errors
from jax_robust.data import columns
from jax_robust.data.sources import Source, check_source, labels_of, select

_LISTED = 20


class Classes(NamedTuple):
  """How many classes there are, and what they are called in the order of the labels, () unknown."""

  num: int
  names: tuple[str, ...]


def classes_of(source: Source) -> Classes:
  """The classes of a source."""
  return Classes(source.num_classes, tuple(source.class_names))


def shown(name: str) -> str:
  """A file's name as text that can be printed and stored; bytes that are no UTF-8 as `\\xff`."""
  return os.fsencode(name).decode("utf-8", "backslashreplace")


def same_classes(ours: Sequence[str], theirs: Sequence[str]) -> np.ndarray:
  """For each of their classes the place of the same one in ours, int64 [len(theirs)].

  Equal names are the same class; then names that differ in case or Unicode form only, or in the
  zeros before a number. Where only theirs are numbers, they number our classes from 0 on, provided
  that they are written without needless zeros: `000000` and `001000` are folders of a generator's
  seeds, and no classes.

  Raises:
    ValueError: a class of theirs is none of ours, or two of them are one; both lists are given.

  >>> same_classes(["cat", "dog", "ship"], ["Dog", "cat"]).tolist()
  [1, 0]
  """
  for side, names in (("ours", ours), ("theirs", theirs)):
    if not isinstance(names, (list, tuple)) or not all(isinstance(each, str) for each in names):
      raise ValueError(f"{side}={errors.shown(names)}: expected a list of names, which are texts")
  exact = {name: place for place, name in enumerate(ours)}
  keys: dict[str, list[int]] = {}
  for place, key in enumerate(_keys(ours)):
    keys.setdefault(key, []).append(place)
  by_number = _are_numbers(theirs) and not _are_numbers(ours)
  places, missing = [], []
  for name, key in zip(theirs, _keys(theirs), strict=True):
    if name in exact:
      found = exact[name]
    elif len(keys.get(key, ())) == 1:
      (found,) = keys[key]
    elif by_number and int(key) < len(ours) and key == str(int(key)):
      found = int(key)
    else:
      found = -1
      missing.append(name)
    places.append(found)
  uses = collections.Counter(places)
  twice = sorted(name for name, place in zip(theirs, places, strict=True) if uses[place] > 1)
  if missing or twice:
    problem = (
      f"{_listed(missing)} cannot be matched" if missing else f"{_listed(twice)} are one class"
    )
    raise ValueError(f"{problem}: the classes there are {_listed(theirs)}, here {_listed(ours)}")
  return np.array(places, np.int64)


def agree(source: Source, wanted: Classes, *, may_lack: bool = True) -> Source:
  """A source whose labels number the classes that are wanted; by name, or else by place.

  Where only the set has names, and these are numbers, they number the classes that are wanted.

  Args:
    source: the set, whose classes may come in another order, or be fewer.
    wanted: the classes of the training set, or of a model.
    may_lack: whether a set without names may have fewer of them (its largest label is its last).

  Raises:
    ValueError: a class is none of those wanted; without names, there are more classes than wanted;
      fewer with names, of which those wanted have none.
  """
  check_source(source)
  if not isinstance(wanted, Classes) or len(wanted.names) not in (0, wanted.num):
    raise ValueError(
      f"wanted={errors.shown(wanted)}: expected Classes(num, names), with a name for each of "
      "them or none, such as classes_of(source)"
    )
  if source.class_names and wanted.names:
    table = same_classes(wanted.names, source.class_names)
    return _relabelled(source, table.astype(np.int32), wanted)
  numbers = _places_by_number(source.class_names, wanted.num) if not wanted.names else None
  if numbers is not None:
    return _relabelled(source, numbers, wanted)
  may_lack = may_lack and not source.class_names
  if source.num_classes > wanted.num or (source.num_classes < wanted.num and not may_lack):
    raise ValueError(
      f"there are num_classes {source.num_classes} there and {wanted.num} here"
      + "".join(
        f", {where} {_listed(names)}"
        for where, names in (("there", source.class_names), ("here", wanted.names))
        if names
      )
    )
  names = wanted.names or source.class_names
  names = names if len(names) == wanted.num else ()
  source = columns.map_probabilities(source, np.arange(source.num_classes), wanted.num)
  return dataclasses.replace(source, num_classes=wanted.num, class_names=names)


def _places_by_number(names: Sequence[str], num_classes: int) -> np.ndarray | None:
  """The classes that names which are numbers stand for, among some without names; else None."""
  are_numbers = [name.isdecimal() and name == str(int(name)) for name in names]
  if not names or not all(are_numbers) or max(map(int, names)) >= num_classes:
    return None
  return np.array(list(map(int, names)), np.int32)


def only(source: Source, wanted: Sequence[str | int]) -> Source:
  """A view of the samples of some classes, which it numbers in the order in which they are named.

  Args:
    source: the set.
    wanted: names of its classes, or their numbers; at least two.

  Raises:
    ValueError: a class that the set has not, one twice, or fewer than two; the classes that there
      are are listed. Probabilities of all its classes, which say nothing of some.

  >>> from jax_robust.data.sources import array_source
  >>> x = array_source(np.zeros((4, 2, 2, 1), np.uint8), [0, 2, 1, 2], class_names=("a", "b", "c"))
  >>> only(x, ("c", "a")).read(np.arange(3))[1]
  array([1, 0, 0], dtype=int32)
  """
  check_source(source)
  chosen = [_place(source, each) for each in wanted]
  if len(chosen) < 2 or len(set(chosen)) < len(chosen):
    raise ValueError(
      f"classes={errors.shown(tuple(wanted))}: expected two or more of the classes of "
      f"{source.name}, each once: {_listed(source.class_names or _numbers(source))}"
    )
  if columns.PROBABILITIES in source.columns:
    raise ValueError(
      f"{source.name} has probabilities of all its classes, which say nothing of some alone: make "
      "it again with labels, or with the probabilities of these classes"
    )
  table = np.full(source.num_classes, -1, np.int32)
  table[chosen] = np.arange(len(chosen))
  rows = np.flatnonzero(table[labels_of(source)] >= 0)
  names = [str(each) for each in wanted] if not source.class_names else None
  names = tuple(names or (source.class_names[k] for k in chosen))
  if not len(rows):
    raise ValueError(f"{source.name} has no image of the classes {_listed(names)}")
  view = select(source, rows, f"{source.name} of {_listed(names)}")
  return dataclasses.replace(
    view, num_classes=len(chosen), class_names=names, read=_mapped(view.read, table), rows=None,
    read_labels=lambda: table[labels_of(source)[rows]],
  )  # fmt: skip


def _place(source: Source, wanted: Any) -> int:
  """The number of a class of a source that is given by its name or number."""
  names = source.class_names
  with contextlib.suppress(ValueError):
    if isinstance(wanted, str) and names:
      return int(same_classes(names, (wanted,))[0])
  is_number = isinstance(wanted, (int, np.integer)) and not isinstance(wanted, bool)
  if is_number and 0 <= wanted < source.num_classes:
    return int(wanted)
  remedy = "" if names else ", given by number since it has no names"
  raise ValueError(
    f"{errors.shown(wanted)} is no class of {source.name}: expected some of "
    f"{_listed(names or _numbers(source))}{remedy}"
  )


def _numbers(source: Source) -> list[str]:
  """The numbers of the classes of a source, as text."""
  return list(map(str, range(source.num_classes)))


def _relabelled(source: Source, table: np.ndarray, wanted: Classes) -> Source:
  """A view of a source with label `table[l]` in place of l."""
  changes: dict = {"num_classes": wanted.num, "class_names": wanted.names}
  if not np.array_equal(table, np.arange(len(table))):
    for name in ("read", "read_shard"):
      if hasattr(source, name):
        changes[name] = _mapped(getattr(source, name), table)
    read_labels = source.read_labels
    if read_labels is not None:
      changes["read_labels"] = lambda: table[read_labels()]
  source = columns.map_probabilities(source, table, wanted.num)
  return dataclasses.replace(source, **changes)


def _mapped(read, table: np.ndarray):
  """A function that reads images and labels, its labels mapped."""

  def mapped(*args):
    images, labels = read(*args)
    return images, table[labels]

  return mapped


def _are_numbers(names: Sequence[str]) -> bool:
  """Whether all names are numbers."""
  return all(name.isdecimal() for name in names)


def _keys(names: Sequence[str]) -> list[str]:
  """What remains of names without case, Unicode form, and zeros that pad numbers."""
  numbers = [name for name in names if name.isdecimal()]
  width = max((len(str(int(name))) for name in numbers), default=0)
  folded = [unicodedata.normalize("NFC", name).casefold() for name in names]
  return [str(int(n)) if n.isdecimal() and len(n) <= width else n for n in folded]


def _listed(names: Sequence[str]) -> str:
  """Names in brackets; of very many, the first."""
  names = list(names)
  more = f", … ({len(names)} in all)" if len(names) > _LISTED else ""
  return "[" + ", ".join(map(repr, names[:_LISTED])) + more + "]"
