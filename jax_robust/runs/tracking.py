"""The trackers that a config chooses, for the jobs: opened, fed, and let go."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from jax_robust import config as config_lib
from jax_robust import errors
from jax_robust.attacks.recipes import keywords
from jax_robust.errors import ConfigError, TrackerWarning, check_options
from jax_robust.runs import result_fields
from jax_robust.runs.blocks import block, check_name, from_config
from jax_robust.trackers import TRACKERS
from jax_robust.trackers.ledger import Ledger
from jax_robust.trackers.sender import SECONDS_TO_FINISH, Result, Row, Sender, wait_for
from jax_robust.train import metrics
from jax_robust.types import TrackedRun


class Trackers:
  """The trackers of a run. One that fails is named once, and the run goes on without it.

  Args:
    folder: the workdir.
    senders: one for each tracker.
  """

  def __init__(self, folder: pathlib.Path, senders: Sequence[Sender] = ()):
    self._folder, self._senders = folder, senders
    self._said: dict[str, str] = {}

  @property
  def failures(self) -> list[str]:
    """What was said of trackers that have failed."""
    return list(self._said.values())

  def write(self, rows: Sequence[Row]) -> None:
    """Sends rows of `metrics.jsonl`, those that were sent before aside."""
    for sender in self._senders if rows else ():
      sender.put([dict(row) for row in rows])
    self._say()

  def write_result(
    self, job: str, result: Mapping[str, Any], files: Sequence[pathlib.Path] = ()
  ) -> None:
    """Sends the numbers of a job's result, and the pictures that it drew."""
    takers = [sender for sender in self._senders if sender.tracker.takes_results]
    if takers:
      file = self._folder / "metrics.jsonl"
      rows = metrics.read_metrics(file) if file.exists() else []
      values = {f"results/{job}/{name}": value for name, value in numbers(result).items()}
      for sender in takers:
        sender.put(rows)  # what an earlier start could not send
        sender.put(Result(rows[-1]["step"] if rows else 0, values, files))
    self._say()

  def close(self, finished: bool, *, seconds: float = SECONDS_TO_FINISH) -> None:
    """Waits, for so many seconds in all, until everything is sent."""
    for sender in self._senders:
      sender.end(finished)
    wait_for(self._senders, seconds)
    self._say()

  def _say(self) -> None:
    """Says, once, which trackers have failed."""
    for sender in self._senders:
      if sender.failure and sender.name not in self._said:
        message = (
          f"tracker {sender.name} gets nothing more in this start ({sender.failure}). The run goes "
          f"on, and nothing is lost: once it can be reached, `--config={self._folder}/config.json "
          f"--workdir={self._folder} --config.job=track` sends what it lacks"
        )
        self._said[sender.name] = message
        metrics.report(f"warning: {message}")
        errors.warn(message, TrackerWarning)


@contextlib.contextmanager
def opened(config: Any, folder: pathlib.Path, names: Sequence[str]) -> Iterator[Trackers]:
  """The trackers of these names, of the first process; they are closed as not finished on an error.

  Args:
    config: whose block `tracking` holds their options.
    folder: the workdir.
    names: of `config.trackers`, those that are wanted.

  Raises:
    ConfigError: the package of a tracker is missing, or it can't be used, with the remedy.
    WorkdirError: `trackers.json` is damaged.
  """
  senders = []
  if names and jax.process_index() == 0:
    ledger = Ledger(folder)
    senders = [Sender(name, _make(config, folder, name, ledger), ledger) for name in names]
  trackers = Trackers(folder, senders)
  try:
    yield trackers
  except BaseException:
    trackers.close(finished=False)
    raise


def _make(config: Any, folder: pathlib.Path, name: str, ledger: Ledger) -> Any:
  """One tracker."""
  identity = ledger.read(name).get("identity", {})
  flat = config_lib.flatten(config_lib.to_data(config))
  run = TrackedRun(folder, folder.name, flat, identity)
  try:
    with from_config(f"tracking.{name}"):
      return TRACKERS[name](run, **block(config.tracking, name))
  except ImportError as error:
    raise ConfigError(f"config.trackers: {name!r} needs a package: {error}") from error


def numbers(result: Mapping[str, Any]) -> dict[str, float]:
  """The numbers of a result by their path, without texts, flags, lists and what every result has.

  >>> numbers({"clean": 0.5, "evals": {"robust": 1, "note": "x"}, "curve": [1, 2]})
  {'clean': 0.5, 'evals/robust': 1.0}
  """
  found: dict[str, float] = {}
  for name, value in result.items():
    if name in result_fields.COMMON:
      continue
    if isinstance(value, Mapping):
      found |= {f"{name}/{inner}": each for inner, each in numbers(value).items()}
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
      found[str(name)] = float(value)
  return found


def check(config: Any) -> None:
  """Raises ConfigError for an unknown tracker or option, with the near miss; imports no tracker."""
  for name in config.trackers:
    check_name("trackers", name, TRACKERS)
  check_options("tracking", config.tracking, TRACKERS)
  for name in config.tracking:
    config_lib.check_block(f"tracking.{name}", config.tracking[name])
    check_options(f"tracking.{name}", config.tracking[name], keywords(TRACKERS[name]))
