"""The table of a report: a row for each run, a column for each thing that any of them has."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jax_robust.evaluate.robustbench import fraction
from jax_robust.report.reading import Record
from jax_robust.report.status import status_of, warnings_of
from jax_robust.runs import starts

PERCENT, RADIUS, SECONDS, PLAIN = "percent", "radius", "seconds", "plain"
"""What a number is, and so how it is printed."""


class Cell(NamedTuple):
  """A cell that holds something.

  Attributes:
    value: a number or a text.
    kind: of the number.
    interval: around it, at 95 %.
    count: how many images it is over.
    text: what is shown in place of the value.
  """

  value: Any
  kind: str = PLAIN
  interval: tuple[float, float] | None = None
  count: int | None = None
  text: str = ""


Row = Mapping[str, Cell]

_FIRST = (
  "run", "status", "method", "data", "model", "norm", "eps", "sigma", "seed", "clean",
)  # fmt: skip
_ACR = "ACR at σ "
_LAST = ("training time", "hardware", "versions", "date", "warnings", "command")


def row_of(record: Record) -> dict[str, Cell]:
  """The cells of a run, by column."""
  row = {
    "run": Cell(record.name),
    "status": Cell(status_of(record)),
    **_setting(record),
    **_measured(record),
    **_origin(record),
  }
  if warnings := warnings_of(record):
    row["warnings"] = Cell(len(warnings))
  row["command"] = Cell(command_of(record))
  return {name: cell for name, cell in row.items() if cell.value not in (None, "")}


def columns_of(rows: Sequence[Row]) -> list[str]:
  """The columns that some row fills: what a run is, what was measured, where it is from."""
  found = dict.fromkeys(name for row in rows for name in row)
  first, last = ([name for name in some if name in found] for some in (_FIRST, _LAST))
  measured = [name for name in found if name not in {*first, *last}]
  # Certified radii stand behind all accuracies, whichever run comes first.
  return [*first, *sorted(measured, key=lambda name: name.startswith(_ACR)), *last]


def as_data(rows: Sequence[Row]) -> dict[str, list[Any]]:
  """The table as columns of one length, None where there is nothing.

  A column with intervals is followed by two with their bounds. `pandas.DataFrame` takes it.

  >>> as_data([{"clean": Cell(0.5, PERCENT, (0.4, 0.6))}])
  {'clean': [0.5], 'clean low': [0.4], 'clean high': [0.6]}
  """
  data: dict[str, list[Any]] = {}
  for name in columns_of(rows):
    cells = [row.get(name) for row in rows]
    data[name] = [cell.value if cell else None for cell in cells]
    if any(cell and cell.interval for cell in cells):
      for place, bound in enumerate(("low", "high")):
        data[f"{name} {bound}"] = [c.interval[place] if c and c.interval else None for c in cells]
  return data


def _setting(record: Record) -> dict[str, Cell]:
  """What a run was trained with; its radius is that of its evaluation, if it was evaluated."""
  config, data = record.config, str(record.config.get("data.name", ""))
  found = {
    "method": Cell(config.get("objective.name") if was_trained(record) else None),
    "data": Cell(data, text=data.rpartition("/")[2]),
    "model": Cell(config.get("model.name")),
    "seed": Cell(config.get("seed")),
    "sigma": Cell(config.get("objective.sigma") if was_trained(record) else None),
  }
  norm, eps = ball_of(record)
  if norm:
    found["norm"] = Cell(norm)
  if eps is not None:
    found["eps"] = Cell(eps, text=fraction(eps))
  return found


def was_trained(record: Record) -> bool:
  """Whether weights were made here: a job that only reads some has a method that means nothing."""
  return bool(record.rows or record.of_kind("train") or record.config["job"] == "train")


def ball_of(record: Record) -> tuple[str, float | None]:
  """Norm and radius that a run is evaluated under; ('', None) without an attack."""
  for result in record.of_kind("evaluate"):
    if "eps" in result:
      return result["norm"], result["eps"]
  for result in record.of_kind("autoattack"):
    return result["evaluations"][0]["norm"], result["eps"]  # all have one norm
  for place in ("attack", *(f"evals.{name}.attack" for name in evals_of(record))):
    if f"{place}.eps" in record.config:
      return record.config.get(f"{place}.norm", "linf"), record.config[f"{place}.eps"]
  return "", None


def evals_of(record: Record) -> list[str]:
  """The names of what a run's training measures."""
  keys = (key.split(".") for key in record.config if key.startswith("evals."))
  return list(dict.fromkeys(parts[1] for parts in keys if len(parts) > 2))


def _measured(record: Record) -> dict[str, Cell]:
  """Accuracies, under each attack too, and certified radii."""
  found: dict[str, Cell] = {}
  for result in record.of_kind("evaluate"):
    attacked = attack_name(result.get("attack") or {})
    for name in result["evals"]:
      if "/" not in name:
        # The config calls the attacked measure as it likes; the column is called by the attack.
        column = attacked if attacked and name == _attacked_measure(record, result) else name
        found[column] = _share(result, name)
  for result in record.of_kind("autoattack"):
    # The main radius; the section of the run has the others.
    for each in result["evaluations"]:
      if each["eps"] == result["eps"]:
        for name, cell in _of_autoattack(each, ball_of(record)):
          found.setdefault(name, cell)
  for result in record.of_kind("exit_attacks"):
    for name, each in result["robust"].items():
      found[f"all exit attacks, {name}"] = Cell(
        each["value"], PERCENT, tuple(each["interval"]), result["num_examples"]
      )
  for result in record.of_kind("certify"):
    average = result["average_certified_radius"]
    found[f"{_ACR}{result['sigma']:g}"] = Cell(
      average["value"], RADIUS, (average["low"], average["high"]), result["num_images"]
    )
  return found


def _attacked_measure(record: Record, result: Mapping[str, Any]) -> str:
  """The name of the measure whose attack a result of `evaluate` says."""
  selected = str(record.config.get("select", ("",))[0])
  names = sorted(evals_of(record), key=lambda name: (name != selected, name))
  kinds = {name: record.config.get(f"evals.{name}.evaluator") for name in names}
  return next((name for name in names if kinds[name] == "attacked"), "")


def attack_name(attack: Mapping[str, Any]) -> str:
  """What the column of an attack is called.

  >>> attack_name({"name": "pgd", "num_steps": 40, "num_restarts": 2, "eps": 0.1}), attack_name({})
  ('pgd-40 × 2', '')
  """
  steps, restarts = attack.get("num_steps"), attack.get("num_restarts", 1)
  name = str(attack.get("name", ""))
  return f"{name}{f'-{steps}' if steps else ''}{f' × {restarts}' if restarts != 1 else ''}"


def _share(result: Mapping[str, Any], name: str) -> Cell:
  """A mean over images with its interval; a share unless its bounds say otherwise."""
  interval, kind = result.get(f"{name}_interval"), kind_of(result[name])
  return Cell(result[name], kind, tuple(interval) if interval else None, result["num_examples"])


def kind_of(mean: float) -> str:
  """What a mean over images is: a share unless its value says otherwise."""
  return PERCENT if 0 <= mean <= 1 else PLAIN


def _of_autoattack(
  each: Mapping[str, Any], ball: tuple[str, float | None]
) -> Iterator[tuple[str, Cell]]:
  """After each attack, and in the end, under the name of the version and of another ball."""
  version, count = version_name(each), each["num_examples"]
  is_same = each["norm"] == ball[0] and math.isclose(each["eps"], ball[1] or 0.0, abs_tol=1e-6)
  where = "" if is_same else f" at {each['norm']} {fraction(each['eps'])}"
  stages = list(each["robust_after"].items())
  for name, value in stages[:-1]:
    yield f"after {name}{where}", Cell(value, PERCENT, None, count)
  label = "AutoAttack" if version == "standard" else f"AutoAttack ({version})"
  yield (
    label + where,
    Cell(each["robust"], PERCENT, tuple(each["robust_interval"]), count),
  )
  if "clean" in each:
    yield "clean", Cell(each["clean"], PERCENT, tuple(each["clean_interval"]), count)


def version_name(evaluation: Mapping[str, Any]) -> str:
  """The version of an AutoAttack evaluation, or the names of its attacks."""
  version = evaluation["version"]
  return version if isinstance(version, str) else ", ".join(version)


def _origin(record: Record) -> dict[str, Cell]:
  """How long a training took, on what, with what, and when."""
  found = {}
  took = starts.seconds_of(record.starts, "train")
  if took and took[0]:
    found["training time"] = Cell(took[0], SECONDS, text="" if took[1] else "at least")
  told = {**record.versions, **(last_start(record) or {})}
  devices = ", ".join(sorted(set(told.get("devices", ()))))
  found["hardware"] = Cell(told.get("hardware") or devices)
  packages = told.get("packages", {})
  named = [f"{name} {packages[name]}" for name in ("jax_robust", "jax") if name in packages]
  found["versions"] = Cell(", ".join(named))
  date = str(told.get("date", ""))
  found["date"] = Cell(date, text=date[:10])
  return found


def last_start(record: Record) -> Mapping[str, Any] | None:
  """The newest start of the job that the workdir is of."""
  return next((s for s in reversed(record.starts) if s["job"] == record.config["job"]), None)


def command_of(record: Record) -> str:
  """The command that began a run, or, where it is not known, one that repeats it."""
  typed = next((each["command"] for each in record.starts if each.get("command")), "")
  return typed or repeat_command(record)


def repeat_command(record: Record) -> str:
  """A command that makes a run again, elsewhere, from its config."""
  config = shlex.quote(f"--config={record.name}/config.json")
  return f"python -m jax_robust.main {config} --workdir=NEW"
