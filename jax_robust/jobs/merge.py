"""The merge job: pieces of one work, from several workdirs, put together if nothing is missing."""

import pathlib
from collections.abc import Sequence
from typing import Any

from jax_robust import config as config_lib
from jax_robust import job_table, paths
from jax_robust.errors import ConfigError, WorkdirError
from jax_robust.runs import pieces, weights, workdir


def merge(
  config: Any, path: pathlib.Path, checked: tuple[str, list[pathlib.Path]]
) -> dict[str, Any]:
  """Puts the pieces of an evaluation together; refuses gaps, overlaps and strangers."""
  block, workdirs = checked
  if len(workdirs) > 1 and path.resolve() in [each.resolve() for each in workdirs]:
    raise ConfigError(
      f"--workdir={path} is one of {block}.pieces: once merged there, its pieces would overlap the "
      "others; name another workdir"
    )
  config = _with_classes_of(config, workdirs)
  result: dict[str, Any] = {}
  for name, job in job_table.JOBS.items():
    if job.block == block and job.results:
      merged = _merge_job(name, workdirs, path)
      if merged:
        result |= job_table.load(job.results)(config, path, merged)
  if not result:
    raise WorkdirError(f"{', '.join(map(str, workdirs))}: there is no piece of any job")
  return result


def _with_classes_of(config: Any, workdirs: Sequence[pathlib.Path]) -> Any:
  """The config, naming the weights of the pieces, whose classes need not be those of its own."""
  places = (
    weights.place_of(config_lib.from_data(workdir.read_config(each)), each)
    for each in workdirs
    if (each / "config.json").is_file()
  )
  config = config.copy_and_resolve_references()
  config.init_from = next((str(p) for p in places if weights.noted_classes(p)), config.init_from)
  return config


def find_workdirs(config: Any) -> tuple[str, list[pathlib.Path]]:
  """The block that names pieces, and the workdirs of these.

  Raises:
    ConfigError: no block does, or several; a workdir that is not there.
    WorkdirError: one that has results and no config.
  """
  blocks = dict.fromkeys(job.block for job in job_table.JOBS.values() if job.results)
  given = [name for name in blocks if config.get(name, {}).get("pieces")]
  if len(given) != 1:
    known = " or ".join(f"--config.{name}.pieces='RUNS/piece-*'" for name in blocks)
    raise ConfigError(
      (f"{' and '.join(given)} are both given" if given else "pieces is empty")
      + f": name the workdirs of the pieces of one work, as {known}"
    )
  return given[0], _workdirs(f"{given[0]}.pieces", config[given[0]].pieces)


def _workdirs(key: str, patterns: Sequence[str]) -> list[pathlib.Path]:
  """The workdirs that the config names, `*` and `?` standing for more of them."""
  found = []
  for pattern in patterns:
    matches = paths.matches(pattern)
    if not matches:
      raise ConfigError(f"{key}: there is no workdir {pattern!r}")
    for match in matches:
      if (match / "results").is_dir():
        workdir.check_is_run(match)
    found += matches
  return list(dict.fromkeys(found))


def _merge_job(job: str, workdirs: Sequence[pathlib.Path], path: pathlib.Path):
  """Merges the folders of pieces of one job, `results/JOB` and `results/JOB_*`, each by itself."""
  places = [
    place
    for each in workdirs
    for pattern in (job, f"{job}_*")
    for place in each.glob(f"results/{pattern}")
    if place.is_dir()
  ]
  targets = sorted({path / "results" / place.name for place in places})
  for target in targets:
    pieces.merge([place for place in places if place.name == target.name], target)
  return targets
