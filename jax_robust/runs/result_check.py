"""Whether results are as the table of their kinds says."""

from collections.abc import Mapping
from typing import Any

from jax_robust.runs.result_fields import COMMON, PARTS, Field
from jax_robust.runs.result_kinds import KINDS


def stamped(kind: str, result: Mapping[str, Any]) -> dict[str, Any]:
  """The result with its kind and version, which is 1 of a kind that is not in the table.

  Raises:
    ValueError: it has a field of that name already.
  """
  version = KINDS[kind].version if kind in KINDS else 1
  if taken := sorted({"kind", "version"} & result.keys()):
    raise ValueError(f"a result of kind {kind!r} has a field {taken[0]!r} of its own: rename it")
  return {"kind": kind, "version": version, **result}


def kind_of(name: str, result: Mapping[str, Any]) -> tuple[str, int]:
  """Kind and version of a file that was read.

  One of before there were versions is of version 0, and of the kind that its name says.

  >>> kind_of("certify_lenet_sigma0.5", {}), kind_of("x", {"kind": "train", "version": 1})
  (('certify', 0), ('train', 1))
  """
  kind, version = result.get("kind"), result.get("version")
  if isinstance(kind, str) and isinstance(version, int):
    return kind, version
  return ("certify" if name.startswith("certify_") else name), 0


def problems(result: Mapping[str, Any], kind: str = "", *, some_missing: bool = False) -> list[str]:
  """In what a result is not as the table says, a line each; none for a kind that is not in it.

  Args:
    result: as it was read, or is written.
    kind: of the result; its own by default.
    some_missing: whether fields may be, as in a result of an earlier version.

  >>> problems({"kind": "cell", "belongs_to": 3}, some_missing=True)
  ['belongs_to is 3: expected text']
  """
  kind = kind or str(result.get("kind"))
  if kind not in KINDS:
    return []
  fields = {**COMMON, **KINDS[kind].fields}
  return list(_problems(result, fields, "", all_there=not some_missing))


def _problems(
  value: Mapping[str, Any], fields: Mapping[str, Field], where: str, *, all_there: bool
):
  """What is not as the fields say, in an object."""
  if all_there:
    for name, field in fields.items():
      if name not in value and not field.optional and "*" not in name:
        yield f"{where}{name} is missing"
  for name, inner in value.items():
    field = fields.get(name) or _pattern(name, fields)
    if field is None:
      yield f"{where}{name} is no field of it"
    else:
      yield from _mistyped(inner, field.type, f"{where}{name}", all_there=all_there)


def _pattern(name: str, fields: Mapping[str, Field]) -> Field | None:
  """The field with the longest name with `*` that stands for this one."""
  found = [each for each in fields if "*" in each and name.endswith(each.removeprefix("*"))]
  return fields[max(found, key=len)] if found else None


PLAIN = {
  "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
  "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
  "text": lambda v: isinstance(v, str),
  "flag": lambda v: isinstance(v, bool),
  "object": lambda v: isinstance(v, Mapping),
  "any": lambda v: True,
}
"""The types that are made of no others, but for `interval`."""


def _mistyped(value: Any, kind: str, where: str, *, all_there: bool):
  """What is not of a type, in a value."""
  if kind.endswith(" or null"):
    kind = kind.removesuffix(" or null")
    if value is None:
      return
  outer, _, inner = kind.partition(" of ")
  if kind in PLAIN:
    right = PLAIN[kind](value)
  elif kind == "interval":
    right = (
      isinstance(value, (list, tuple)) and len(value) == 2 and all(map(PLAIN["number"], value))
    )
  else:
    right = isinstance(value, (list, tuple) if outer == "list" else Mapping)
  if not right:
    yield f"{where} is {str(value)[:60]}: expected {kind}"
  elif kind in PARTS:
    yield from _problems(value, PARTS[kind].fields, f"{where}.", all_there=all_there)
  elif inner:
    each = value.items() if isinstance(value, Mapping) else enumerate(value)
    for name, item in each:
      yield from _mistyped(item, inner, f"{where}.{name}", all_there=all_there)
