"""In what the configs of runs differ, and what tells their curves apart."""

from collections.abc import Mapping, Sequence
from typing import Any

from jax_robust.report.reading import Record

ABSENT = "—"
"""What stands for a key that a config does not have."""

_NO_DIFFERENCE = ("job", "imports_from", "data_dir")

_MOST_IN_A_LABEL = 3


def differing_keys(records: Sequence[Record]) -> list[str]:
  """The keys of which some runs have other values than the rest, or none; sorted."""
  every = sorted({key for record in records for key in record.config} - {*_NO_DIFFERENCE})
  return [key for key in every if len({value_of(record, key) for record in records}) > 1]


def value_of(record: Record, key: str) -> str:
  """A value of a config as text; numbers are shortened."""
  if key not in record.config:
    return ABSENT
  return shown(record.config[key])


def shown(value: Any) -> str:
  """A value as a reader would write it.

  >>> shown(8 / 255), shown((0, 0.5)), shown(True), shown("")
  ('0.0313725', '0, 0.5', 'true', '""')
  """
  if isinstance(value, bool):
    return str(value).lower()
  if isinstance(value, float):
    return f"{value:.6g}"
  if isinstance(value, (tuple, list)):
    return ", ".join(map(shown, value)) or "()"
  return str(value) if value != "" else '""'


def labels_of(records: Sequence[Record]) -> list[str]:
  """What runs are called in a legend: by the few keys in which they differ, or by their names.

  A key is called by its last part where that is enough.
  """
  keys = differing_keys(records)
  names = [record.name for record in records]
  if not 0 < len(keys) <= _MOST_IN_A_LABEL:
    return names
  short = _short_keys(keys)
  labels = [
    ", ".join(f"{short[key]}={value_of(record, key)}" for key in keys) for record in records
  ]
  return labels if len({*labels}) == len(labels) and max(map(len, labels)) <= 60 else names


def _short_keys(keys: Sequence[str]) -> Mapping[str, str]:
  """Each key, or its last part where no other ends alike."""
  last = [key.rpartition(".")[2] for key in keys]
  return {key: part if last.count(part) == 1 else key for key, part in zip(keys, last, strict=True)}
