"""The job of studies: runs the experiment that `config.study` names, and writes what it found."""

import pathlib
import time
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any

import jax

from jax_robust import job_table
from jax_robust.attacks.recipes import parameters
from jax_robust.errors import ConfigError, check_options
from jax_robust.runs import devices, workdir
from jax_robust.runs.blocks import block, check_name, from_config
from jax_robust.studies import STUDIES, Finding, plan


def study(config: Any, path: pathlib.Path) -> dict[str, Any]:
  """Writes `results/study.json`: the claim, our answer, our numbers and the published ones."""
  options = block(config, "study")
  name, began = options.pop("name"), time.monotonic()
  run: Callable[..., Any] = job_table.load(STUDIES[name])
  try:
    with from_config("study"):
      finding: Finding = run(config, path, **options)
  except plan.Preempted:
    return {"preempted": True}
  result = {
    "study": name,
    "claim": finding.claim,
    "answer": finding.answer,
    "num_seeds": finding.num_seeds,
    "ours": _plain(finding.ours),
    "published": dict(finding.published),
    "date": time.strftime("%Y-%m-%d"),
    "seconds": round(time.monotonic() - began, 1),
    "hardware": devices.describe(),
  }
  workdir.write_result(path, "study", result)
  if jax.process_index() == 0:
    print(f"{finding.answer}: {finding.claim}")
    print(f"numbers: {path / 'results' / 'study.json'}")
  return result


def keywords(options: Mapping[str, Any]) -> dict[str, Parameter]:
  """What the block may hold: the keywords of its study, and its name."""
  found = {name: each for source in sources(options) for name, each in parameters(source).items()}
  return {**found, "name": Parameter("name", Parameter.KEYWORD_ONLY, default="", annotation=str)}


def sources(options: Mapping[str, Any]) -> list[Callable]:
  """The study that the block names, if there is one."""
  name = options.get("name", "")
  return [job_table.load(STUDIES[name])] if isinstance(name, str) and name in STUDIES else []


def check(config: Any) -> None:
  """Raises ConfigError where there is no such study, or an option none of its."""
  options = block(config, "study")
  if not options:
    raise ConfigError("config.study is empty: the job 'study' needs study.name")
  check_name("study.name", options.get("name", ""), STUDIES)
  known = keywords(options)
  check_options("study", options, known)
  for key, each in known.items():
    if each.default is each.empty and options.get(key) in (None, ""):
      raise ConfigError(
        f"config.study: the study {options['name']!r} needs {key!r}: set --config.study.{key}"
      )


def _plain(values: Any) -> Any:
  """Intervals and mappings as JSON has them, with names."""
  if hasattr(values, "_asdict"):
    values = values._asdict()
  if isinstance(values, Mapping):
    return {name: _plain(each) for name, each in values.items()}
  return values
