"""The analysis job: certification logs, ours and others', as one table and pictures."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jax_robust import paths, smoothing
from jax_robust.atomic import write_atomically
from jax_robust.errors import ConfigError, near_path, shown
from jax_robust.evaluate import smoothing_plots
from jax_robust.jobs.certify import checked_rows
from jax_robust.runs import pieces, workdir
from jax_robust.runs.blocks import from_config
from jax_robust.train import metrics


class Logs(NamedTuple):
  """Certification logs by name: where they lie, and what they say of the images that all have."""

  paths: dict[str, pathlib.Path]
  content: dict[str, smoothing.CertifyLog]


def analyse(config: Any, path: pathlib.Path, checked: Logs) -> dict[str, Any]:
  """Compares certification logs (smoothing.logs='NAME=LOG,...'): a table and pictures."""
  logs = checked.content
  place = path / "results"
  table = smoothing.markdown_table(logs)
  print(table)
  result = {
    name: smoothing.estimate_average_radius(log)._asdict() | {"num_images": len(log.idx)}
    for name, log in logs.items()
  }
  workdir.write_result(path, "analysis", {"average_certified_radius": result})
  write_atomically(place / "analysis.md", table + "\n")
  write_atomically(place / "analysis.csv", smoothing.csv_table(logs))
  smoothing_plots.draw_certified_accuracy(place / "certified_accuracy.png", logs)
  smoothing_plots.draw_trade_off(place / "trade_off.png", _runs(logs))
  sigmas = {name: log.header.get("sigma", config.smoothing.sigma) for name, log in logs.items()}
  if all(sigmas.values()):
    smoothing_plots.draw_probabilities(place / "probabilities.png", logs, sigmas)
  else:
    lacking = ", ".join(name for name, sigma in sigmas.items() if not sigma)
    metrics.report(f"{lacking}: sigma unknown, set smoothing.sigma to see the probabilities")
  votes = _votes(checked.paths)
  if votes:
    smoothing_plots.draw_reliability(place / "reliability.png", votes)
  return result


def read_logs(config: Any) -> Logs:
  """The logs that the config names, of the images that all have.

  Raises:
    ConfigError: nothing is named or found, or a file is no log.
  """
  found = _find(config.smoothing.logs)
  with from_config("smoothing.logs"):
    logs = {name: smoothing.read_log(path) for name, path in found.items()}
    for name, log in logs.items():
      if "sigma" not in log.header and config.smoothing.sigma:  # which is taken for its own
        given = {"sigma": config.smoothing.sigma}
        if problem := smoothing.radius_problem(log.idx, log.radius, given):
          raise ConfigError(f"smoothing.logs: {name}: at smoothing.sigma, {problem}")
    return Logs(found, _on_common_images(logs))


def _find(entries) -> dict[str, pathlib.Path]:
  """The logs by name: `NAME=PATH`, or a path (with `*`), which is called by its folder.

  Raises:
    ConfigError: nothing is given or found, or two have one name.
  """
  found: dict[str, pathlib.Path] = {}
  for entry in entries:
    name, pattern = paths.split_name(entry)
    matches = paths.matches(pattern)
    if not matches:
      hint = near_path(pathlib.Path(pattern))
      raise ConfigError(f"smoothing.logs: there is no log {shown(pattern)}{hint}")
    if name and len(matches) > 1:
      raise ConfigError(f"smoothing.logs: {len(matches)} logs are {pattern!r}: name one")
    for path in matches:
      key = name or path.absolute().parent.name
      if key in found:
        raise ConfigError(f"smoothing.logs: two logs are called {key!r}: write NAME=PATH")
      found[key] = path
  if not found:
    raise ConfigError(
      "smoothing.logs is empty: name logs, as --config.smoothing.logs='A=LOG,B=LOG'"
    )
  return found


def _on_common_images(logs: Mapping[str, smoothing.CertifyLog]) -> dict[str, smoothing.CertifyLog]:
  """The logs, cut to the images that all of them have; says so where that leaves some out."""
  common = functools.reduce(np.intersect1d, [log.idx for log in logs.values()])
  if not len(common):
    raise ConfigError("smoothing.logs: they have no image in common")
  for name, log in logs.items():
    if len(log.idx) > len(common):
      metrics.report(f"{name}: {len(common)} of its {len(log.idx)} images are in all logs")
  return {name: smoothing.select_images(log, common) for name, log in logs.items()}


def _runs(logs) -> dict[str, list[smoothing_plots.Run]]:
  """Points of the trade-off: names `METHOD/OPTION` are runs of one method."""
  runs: dict[str, list[smoothing_plots.Run]] = {}
  for name, log in logs.items():
    method, _, label = name.partition("/")
    runs.setdefault(method, []).append(smoothing_plots.run_of(log, label))
  return runs


def _votes(found) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Shares of votes and whether they are right, of the logs that our job wrote."""
  votes = {}
  for name, path in found.items():
    if not any(path.parent.glob("piece-*.jsonl")):
      continue
    work = pieces.find([path.parent])
    rows = [row for row in checked_rows(work) if "selected" in row]
    if rows:
      votes[name] = (
        np.array([row["count"] / row["total"] for row in rows]),
        np.array([row["selected"] == row["label"] for row in rows]),
      )
  return votes
