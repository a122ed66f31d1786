"""What a report reads of a workdir; what can't be read is said, and the rest is taken."""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jax_robust import config as config_lib
from jax_robust import paths
from jax_robust.atomic import read_bytes
from jax_robust.errors import ConfigError, UserError, WorkdirError, near_path, shown
from jax_robust.runs import piece_files, result_check, result_kinds, starts, workdir
from jax_robust.train import metrics

INNER = ("cells", "runs")
"""Folders of a workdir in which a sweep, a comparison or a study has those of its own trainings."""

_OF_A_RUN = ("config.json", "versions.json", "metrics.jsonl", "results", "checkpoints", starts.FILE)

_PNG = b"\x89PNG\r\n\x1a\n"


class Result(NamedTuple):
  """A file of `results/`.

  Attributes:
    kind: of the result.
    version: of the kind; 0 of one of before there were versions.
    content: as it was read.
  """

  kind: str
  version: int
  content: Mapping[str, Any]


class Record(NamedTuple):
  """A workdir.

  Attributes:
    name: that tells it from the others.
    folder: where it lies.
    config: by key with dots, up to date.
    results: by the name of their file.
    rows: of metrics.
    starts: see `starts.read`.
    versions: what it ran with last, by `versions.json`.
    note: what `data.json` says.
    pictures: contents of PNG files, by the name of their file.
    unfinished: results of which only pieces are there.
    inner: whether it is one of another's trainings.
    has_inner: whether it has such trainings.
    problems: what could not be read.
  """

  name: str
  folder: pathlib.Path
  config: Mapping[str, Any]
  results: Mapping[str, Result]
  rows: Sequence[Mapping[str, Any]]
  starts: Sequence[Mapping[str, Any]]
  versions: Mapping[str, Any]
  note: Mapping[str, Any]
  pictures: Mapping[str, bytes]
  unfinished: tuple[str, ...]
  inner: bool
  has_inner: bool
  problems: tuple[str, ...]

  def of_kind(self, kind: str) -> list[Mapping[str, Any]]:
    """The contents of the results of a kind."""
    return [each.content for each in self.results.values() if each.kind == kind]


def read_all(
  folders: Sequence[pathlib.Path], left_out: pathlib.Path
) -> tuple[list[Record], dict[str, list[str]]]:
  """Reads workdirs and those of their own trainings.

  Args:
    folders: as `find` returns them.
    left_out: the workdir of the report itself, which is left out, as are those of other reports.

  Returns:
    The records, and what could not be read, by the name of the folder.

  Raises:
    WorkdirError: none of them can be read.
  """
  by_place = {each.resolve(): each for each in reversed(_with_inner(folders))}
  folders = [each for place, each in reversed(by_place.items()) if place != left_out.resolve()]
  records, problems = [], {}
  for folder, name in zip(folders, names_of(folders), strict=True):
    try:
      record = read(folder, name)
    except (UserError, OSError) as error:
      problems[name] = [_without(folder, str(error))]
      continue
    if record.config["job"] != "report":
      records.append(record)
      if record.problems:
        problems[name] = list(record.problems)
  if not records:
    said = "".join(f"\n  {name}: {lines[0]}" for name, lines in problems.items())
    if not folders:
      said = " but the report's own, which is left out: name another --workdir"
    raise WorkdirError(f"report.runs: there is no workdir that can be read{said}")
  return _with_comparisons(records), problems


def _with_comparisons(records: Sequence[Record]) -> list[Record]:
  """The records, those of a comparison's trainings with what it measured of them."""
  compared = {
    (record.folder / "runs" / name): Result("evaluate", each.version, found)
    for record in records
    for each in record.results.values()
    if each.kind == "compare"
    for name, found in each.content["runs"].items()
  }
  return [
    record._replace(results={**record.results, "evaluate": compared[record.folder]})
    if record.folder in compared and "evaluate" not in record.results
    else record
    for record in records
  ]


def find(patterns: Sequence[str]) -> list[pathlib.Path]:
  """The workdirs that patterns stand for, each once, in their order.

  Raises:
    ConfigError: there is no pattern; one stands for nothing, or for no workdir.
  """
  if not patterns:
    raise ConfigError("report.runs is empty: name workdirs, as --config.report.runs='RUNS/*'")
  found: dict[pathlib.Path, None] = {}
  for pattern in patterns:
    matches = paths.matches(pattern)
    if not matches:
      path = pathlib.Path(pattern)
      raise ConfigError(f"report.runs: there is no workdir {shown(pattern)}{near_path(path)}")
    runs = [path for path in matches if _is_workdir(path)]
    if not runs:
      within = [path for path in matches if path.is_dir() and any(map(_is_workdir, path.iterdir()))]
      hint = f": did you mean {str(within[0] / '*')!r}?" if within else ", with a config.json"
      raise ConfigError(f"report.runs: {shown(pattern)} stands for no workdir{hint}")
    found |= dict.fromkeys(runs)
  return list(found)


def _is_workdir(path: pathlib.Path) -> bool:
  """Whether a job has left something in a folder."""
  return path.is_dir() and any((path / name).exists() for name in _OF_A_RUN)


def _with_inner(folders: Sequence[pathlib.Path]) -> list[pathlib.Path]:
  """The folders, each followed by those of its own trainings."""
  found: dict[pathlib.Path, None] = {}
  for folder in folders:
    found |= dict.fromkeys((folder, *inner_of(folder)))
  return list(found)


def inner_of(folder: pathlib.Path) -> list[pathlib.Path]:
  """The workdirs of a workdir's own trainings."""
  places = (path for name in INNER for path in sorted((folder / name).glob("*")))
  return [path for path in places if _is_workdir(path)]


def names_of(folders: Sequence[pathlib.Path]) -> list[str]:
  """What tells folders apart: their paths, without what all have in common.

  >>> names_of([pathlib.Path("/a/RUNS/x"), pathlib.Path("/a/RUNS/s/cells/y")])
  ['x', 's/cells/y']
  """
  parts = [pathlib.Path(os.path.abspath(path)).parts for path in folders]
  shared = 0
  while parts and all(len(p) > shared + 1 and p[shared] == parts[0][shared] for p in parts):
    shared += 1
  return ["/".join(each[shared:]) for each in parts]


def read(folder: pathlib.Path, name: str) -> Record:
  """Reads a workdir.

  No module that its config names is imported: a report runs nobody's code.

  Raises:
    UserError: it has no config, or a damaged one.
  """
  workdir.check_is_run(folder)
  data = config_lib.to_data(config_lib.read_json(folder / "config.json"))
  try:
    config = config_lib.flatten(workdir.up_to_date(data))
  except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
    raise ConfigError(f"config.json is no config of ours ({error!r})") from error
  problems: list[str] = []
  inner = folder.parent.name in INNER and _is_workdir(folder.parent.parent)
  results = dict(_results(folder, problems))
  return Record(
    name=name,
    folder=folder,
    config=config,
    results=results,
    rows=_rows(folder, problems),
    starts=starts.read(folder),
    versions=_note(folder / "versions.json", problems),
    note=_note(folder / workdir.DATA, problems),
    pictures=dict(_pictures(folder, problems)),
    unfinished=tuple(_unfinished(folder, results)),
    inner=inner,
    has_inner=bool(inner_of(folder)),
    problems=tuple(problems),
  )


def _results(folder: pathlib.Path, problems: list[str]) -> Iterator[tuple[str, Result]]:
  """The results that are as their kind says."""
  for path in sorted(folder.glob("results/*.json")):
    content = _note(path, problems)
    if not content:
      continue
    kind, version = result_check.kind_of(path.stem, content)
    known = result_kinds.KINDS.get(kind)
    if known and version > known.version:
      problems.append(
        f"results/{path.name} is of version {version} of its kind, and this program reads "
        f"{known.version}: update it"
      )
    elif wrong := result_check.problems(content, kind, some_missing=version == 0):
      problems.append(f"results/{path.name} is not as its kind says: {wrong[0]}")
    else:
      yield path.stem, Result(kind, version, content)


def _note(path: pathlib.Path, problems: list[str]) -> dict[str, Any]:
  """A JSON file; {} where it is absent, or damaged."""
  if not path.exists():
    return {}
  try:
    return workdir.read_note(path)
  except UserError as error:
    run = path.parent.parent if path.parent.name == "results" else path.parent
    problems.append(_without(run, str(error)))
    return {}


def _rows(folder: pathlib.Path, problems: list[str]) -> list[dict[str, Any]]:
  """The rows of metrics."""
  path = folder / "metrics.jsonl"
  try:
    return metrics.read_metrics(path) if path.exists() else []
  except (UserError, OSError) as error:
    problems.append(_without(folder, str(error)))
    return []


def _pictures(folder: pathlib.Path, problems: list[str]) -> Iterator[tuple[str, bytes]]:
  """The PNG files."""
  for path in sorted(folder.glob("results/*.png")):
    try:
      content = read_bytes(path)
    except OSError as error:
      problems.append(f"results/{path.name} can't be read: {error.strerror}")
      continue
    if content.startswith(_PNG):
      yield path.stem, content
    else:
      problems.append(f"results/{path.name} is no PNG")


def _unfinished(folder: pathlib.Path, results: Mapping[str, Result]) -> Iterator[str]:
  """Evaluations of which there are pieces, and no result."""
  for path in sorted(folder.glob(f"results/*/{piece_files.IDENTITY}")):
    name = path.parent.name
    job = next((job for job in ("autoattack", "exit_attacks") if name.startswith(job)), name)
    if job not in results:
      yield job


def _without(folder: pathlib.Path, text: str) -> str:
  """A message without the folder, which the reader knows, in its paths."""
  return text.replace(f"{folder}/", "").replace(str(folder), folder.name)
