"""The table of results: every type in it is one, and what is not as it says is found."""

import ast
import re

import pytest

from jax_robust.runs import result_check, result_fields, result_kinds

pytestmark = pytest.mark.fast

CELL = {"kind": "cell", "belongs_to": "x", "numbers": {"clean": [0.5, 0.4, 0.6]}, "failed": ""}


def problems(**changes):
  """What is said of a cell with other fields; `...` leaves one out."""
  whole = {**CELL, "version": 1, "versions": {}, **changes}
  given = {key: value for key, value in whole.items() if value is not ...}
  return [line for line in result_check.problems(given) if not line.startswith("versions.")]


@pytest.mark.parametrize(
  "changes, wanted",
  [
    ({}, []),
    ({"failed": ...}, ["failed is missing"]),
    ({"failed": None}, ["failed is None: expected text"]),
    ({"more": 1}, ["more is no field of it"]),
    ({"numbers": [1]}, ["numbers is [1]: expected map of list of number"]),
    ({"numbers": {"a": [1, "x"]}}, ["numbers.a.1 is x: expected number"]),
    ({"numbers": {"a": [True]}}, ["numbers.a.0 is True: expected number"]),
    ({"version": 1.0}, ["version is 1.0: expected int"]),
    ({"command": 3}, ["command is 3: expected text"]),
    ({"kind": "of_a_plug_in", "failed": ..., "more": 1}, []),
  ],
)
def test_what_is_not_as_the_table_says_is_named(changes, wanted):
  assert problems(**changes) == wanted


def test_parts_patterns_and_null_are_looked_at():
  found = {"kind": "evaluate", "weights": {"step": None, "checkpoint": 1, "more": {}}}
  found |= {"clean": "good", "clean_interval": [0.1], "per_class": {}}
  assert result_check.problems(found, some_missing=True) == [
    "weights.checkpoint is 1: expected text",
    "clean is good: expected number",
    "clean_interval is [0.1]: expected interval",
  ]


def test_of_an_earlier_version_fields_may_be_missing():
  assert result_check.problems({}, "cell", some_missing=True) == []
  assert "numbers is missing" in result_check.problems({}, "cell")
  assert result_check.kind_of("certify_x", {}) == ("certify", 0)
  assert result_check.kind_of("a", {"kind": "cell", "version": 2}) == ("cell", 2)
  assert result_check.kind_of("a", {"kind": "cell", "version": "2"}) == ("a", 0)


def types_in(kind):
  """What a type is made of."""
  return re.split(" of ", kind.removesuffix(" or null"))


def test_every_type_is_one_and_every_field_has_a_meaning():
  plain = {"interval", *result_check.PLAIN}
  tables = {**result_kinds.KINDS, **result_fields.PARTS}
  for name, kind in tables.items():
    assert kind.meaning.endswith(".") and kind.version >= 1, name
    for field, each in kind.fields.items():
      assert each.meaning, (name, field)
      *outer, last = types_in(each.type)
      assert {*outer} <= {"list", "map"} and last in plain | result_fields.PARTS.keys(), field
  assert not [n for n, kind in result_kinds.KINDS.items() if {"kind", "version"} & {*kind.fields}]


def test_every_result_that_is_written_has_a_kind(repository):
  """The names that `write_result` is called with, in the source, are in the table."""
  found = set()
  for path in (repository / "jax_robust").rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "write_result":
        given = [*node.args[1:2], *(word.value for word in node.keywords if word.arg == "kind")]
        found |= {each.value for each in given if isinstance(each, ast.Constant)}
  assert found | {"cell"} == set(result_kinds.KINDS)  # the sweep names it by a constant
