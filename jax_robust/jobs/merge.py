"""The merge job: pieces of one evaluation, put together when nothing is missing."""

import glob
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

from jax_robust.errors import ConfigError, WorkdirError
from jax_robust.jobs import certify_results
from jax_robust.jobs.autoattack import write_summary
from jax_robust.runs import chunks, workdir


def merge(config: Any, folder: str) -> dict[str, Any]:
  """Puts the pieces of an evaluation together; refuses gaps, overlaps and strangers."""
  given = [name for name in ("autoattack", "smoothing") if config[name].pieces]
  if len(given) != 1:
    raise ConfigError(
      ("autoattack.pieces is empty, and so is smoothing.pieces" if not given else "both are given")
      + ": name the workdirs of the pieces of one evaluation, as "
      "--config.autoattack.pieces='RUNS/piece-*' or --config.smoothing.pieces='RUNS/piece-*'"
    )
  pieces = _pieces(f"{given[0]}.pieces", config[given[0]].pieces)
  with workdir.claimed(folder) as path:
    workdir.write_identity(path, config)
    if given == ["smoothing"]:
      return certify_results.merge(path, pieces)
    return _merge_autoattack(config, path, pieces)


def _merge_autoattack(config, path, pieces) -> dict[str, Any]:
  """Puts together the chunks of every radius."""
  names = [{place.name for place in piece.glob("results/autoattack_*/")} for piece in pieces]
  found = {}
  for name in sorted(set().union(*names)):
    lacking = [str(piece) for piece, there in zip(pieces, names, strict=True) if name not in there]
    if lacking:
      raise WorkdirError(f"{name} is not in every piece: {', '.join(lacking)} lack it")
    places = [piece / "results" / name for piece in pieces]
    identity, files = _collect(places)
    target = path / "results" / name
    chunks.claim(target, identity)
    for file in files:
      shutil.copyfile(file, target / (file.name + ".tmp"))
      (target / (file.name + ".tmp")).replace(target / file.name)
    found[identity["eps"]] = identity, list(chunks.read(target))
  if not found:
    raise WorkdirError(f"{', '.join(map(str, pieces))}: no piece holds an evaluation")
  main_eps = float(config.evaluation.attack.eps)
  if main_eps not in found:
    there = ", ".join(f"{eps:.6g}" for eps in sorted(found))
    raise ConfigError(
      f"config.evaluation.attack.eps={main_eps:.6g}: the pieces were evaluated at {there}"
    )
  return write_summary(path, config.model.name, dict(sorted(found.items())), main_eps=main_eps)


def _pieces(key: str, patterns: Sequence[str]) -> list[pathlib.Path]:
  """The workdirs that the config names, `*` and `?` standing for more of them."""
  pieces = []
  for pattern in patterns:
    matches = sorted(map(pathlib.Path, glob.glob(pattern)))
    if not matches:
      raise ConfigError(f"{key}: there is no workdir {pattern!r}")
    pieces += matches
  return list(dict.fromkeys(pieces))


def _collect(places: Sequence[pathlib.Path]) -> tuple[dict[str, Any], list[pathlib.Path]]:
  """The identity that all pieces share, and the file of every chunk.

  Raises:
    WorkdirError: pieces of different evaluations; a chunk that two of them have, or none.
  """
  identity = chunks.read_identity(places[0])
  owners: dict[str, pathlib.Path] = {}
  for place in places:
    lines = chunks.differing(chunks.read_identity(place), identity)
    if lines:
      raise WorkdirError(
        f"{place} is of another evaluation than {places[0]}:\n  " + "\n  ".join(lines)
      )
    for file in sorted(place.glob("chunk_*.npz")):
      if file.name in owners:
        raise WorkdirError(f"{file.name} is in {owners[file.name].parent} and in {place}: overlap")
      owners[file.name] = file
  wanted = [chunks.path_of(places[0], start).name for start in chunks.starts_of(identity)]
  missing = [name for name in wanted if name not in owners]
  if missing:
    raise WorkdirError(
      f"gap: {len(missing)} of {len(wanted)} chunks of {places[0].name} are in no piece, the first "
      f"{missing[0]}: finish the pieces, then merge"
    )
  return identity, [owners[name] for name in wanted]
