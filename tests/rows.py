"""Rows of a parametrised test of which some are enough by default; the others are slow tests."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def mostly_slow(rows: Iterable[Any], *quick: Any) -> list:
  """The rows of `pytest.mark.parametrize`, all but the quick ones marked slow.

  Args:
    rows: values, or tuples of values of a test with several parameters.
    quick: the rows that run by default; or one function of a row's values that says which do.
  """
  is_quick: Callable[..., bool]
  if len(quick) == 1 and callable(quick[0]):
    (is_quick,) = quick
  else:
    kept = [*map(_values, quick)]
    is_quick = lambda *values: values in kept  # noqa: E731
  found = []
  for row in map(_values, rows):
    marks = () if is_quick(*row) else pytest.mark.slow
    found.append(pytest.param(*row, marks=marks, id="-".join(map(_name, row))))
  assert {bool(row.marks) for row in found} == {False, True}, "no row is quick, or all are"
  return found


def _values(row: Any) -> tuple:
  return row if isinstance(row, tuple) else (row,)


def _name(value: Any) -> str:
  return getattr(value, "__name__", str(value))
