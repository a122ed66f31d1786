"""Rows of a test: of which some are enough by default, or which one test goes through."""

from collections.abc import Callable, Iterable, Mapping
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


def assert_all_refused(rows: Mapping[str, tuple[Any, str]], call: Callable[[Any], Any]) -> None:
  """Every bad value raises a TypeError or ValueError with its message; those that do not are named.

  One test of many rows: a test of its own costs several times the call that it makes.

  Args:
    rows: the bad value, and what its error is to match, by the row's name.
    call: what must refuse it.
  """
  accepted = {}
  for name, (value, message) in rows.items():
    try:
      with pytest.raises((TypeError, ValueError), match=message):
        call(value)
    except (Exception, pytest.fail.Exception) as error:
      accepted[name] = f"{type(error).__name__}: {error}"
  assert not accepted, "\n".join(f"{name}: {what}" for name, what in accepted.items())


def _values(row: Any) -> tuple:
  return row if isinstance(row, tuple) else (row,)


def _name(value: Any) -> str:
  return getattr(value, "__name__", str(value))
