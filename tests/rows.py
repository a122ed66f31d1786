"""Rows of a test: of which some are enough by default, or which one test goes through.

What siblings prove by default is `thorough` where `.ci/run` runs it, `slow` where it takes long.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest


def mostly_slow(rows: Iterable[Any], *quick: Any, thorough: Iterable[Any] = ()) -> list:
  """The rows of `pytest.mark.parametrize`, all but the quick ones marked slow.

  Args:
    rows: values, or tuples of values of a test with several parameters.
    quick: the rows that run by default; or one function of a row's values that says which do.
    thorough: rows, not among the quick ones, that only `.ci/run` runs.
  """
  return _marked(rows, pytest.mark.slow, quick, thorough)


def mostly_thorough(rows: Iterable[Any], *quick: Any) -> list:
  """`mostly_slow` with rows for `.ci/run` in place of slow ones."""
  return _marked(rows, pytest.mark.thorough, quick)


def _marked(rows, mark, quick, thorough=()) -> list:
  """The rows, marked unless they are quick."""
  is_quick: Callable[..., bool]
  if len(quick) == 1 and callable(quick[0]):
    (is_quick,) = quick
  else:
    kept = [*map(_values, quick)]
    is_quick = lambda *values: values in kept  # noqa: E731
  thorough = [*map(_values, thorough)]
  found = []
  for row in map(_values, rows):
    marks = pytest.mark.thorough if row in thorough else () if is_quick(*row) else mark
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
