"""Where the numbers of a run go: `metrics.jsonl`, and a line of progress."""

import contextlib
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jax_robust import bars
from jax_robust.atomic import read_bytes, write_atomically
from jax_robust.errors import UserError

TIME_PREFIX = "time/"
"""Fields that differ between two runs of the same config, by name."""


class MetricsFileError(UserError):
  """A `metrics.jsonl` holds something that no run of ours wrote."""


def read_metrics(path: str | os.PathLike) -> list[dict]:
  """Reads a `metrics.jsonl`; a last line that a kill has torn is left out.

  Raises:
    MetricsFileError: a line that is no row, anywhere but at the torn end, with its number.
  """
  lines = read_bytes(path).split(b"\n")
  rows = []
  # What follows the last newline is empty, or the line that was being written at a kill.
  for number, line in enumerate(lines[:-1], start=1):
    try:
      row = json.loads(line)
      if not isinstance(row["step"], int):
        raise TypeError("its step is no integer")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
      raise MetricsFileError(
        f'{path}, line {number}: expected a row like {{"step": 1, ...}}, found '
        f"{line[:60]!r} ({error}). Repair or delete that line, then start the same command again"
      ) from error
    rows.append(row)
  return rows


def as_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
  """Rows of metrics as columns of one length, float64 with NaN for what a row lacks.

  Args:
    rows: as `read_metrics` returns them.

  Returns:
    The columns by name: `step`, int64; `kind`, text; one for each metric. `pandas.DataFrame` takes
    them as they are.

  >>> as_columns([{"step": 1, "kind": "train", "loss": 2.0}, {"step": 2, "kind": "eval"}])["loss"]
  array([ 2., nan])
  """
  names = dict.fromkeys(name for row in rows for name in row)
  columns: dict[str, np.ndarray] = {"step": np.array([row["step"] for row in rows], np.int64)}
  columns["kind"] = np.array([row.get("kind", "") for row in rows], str)
  for name in names:
    if name not in columns:
      columns[name] = np.array([row.get(name, math.nan) for row in rows], np.float64)
  return columns


class MetricsWriter:
  """Appends rows to `metrics.jsonl`, one a call, flushed at once.

  On resume at step k it first drops the rows after k, so that an interrupted run leaves the same
  file as an uninterrupted one, fields under `time/` aside.

  Args:
    workdir: where the file is.
    resume_step: k, or 0 for a fresh start.
    num_expected: rows up to k that were written when the checkpoint was; that fewer are there is
      said. None where the checkpoint does not know.
    also: is given the rows that are kept on resume, and then each row that is written.

  Attributes:
    num_rows: rows in the file.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    *,
    resume_step: int = 0,
    num_expected: int | None = None,
    also: Callable[[Sequence[Mapping[str, Any]]], None] = lambda rows: None,
  ):
    self._path = pathlib.Path(workdir) / "metrics.jsonl"
    rows = read_metrics(self._path) if self._path.exists() else []
    kept = [row for row in rows if row["step"] <= resume_step] if resume_step else []
    if num_expected is not None and len(kept) < num_expected:
      report(
        f"warning: {self._path} has {len(kept)} of the {num_expected} rows that were written up to "
        f"step {resume_step}: the others were lost or deleted, and the run goes on without them"
      )
    write_atomically(self._path, "".join(json.dumps(row) + "\n" for row in kept))
    self.num_rows = len(kept)
    self._file = self._path.open("a")
    self._also = also
    also(kept)

  def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
    """Adds the row `{"step": step, "kind": kind, **values}`."""
    row = {"step": step, "kind": kind, **{name: float(value) for name, value in values.items()}}
    self._file.write(json.dumps(row) + "\n")
    self._file.flush()
    self.num_rows += 1
    self._also([row])

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


class NullWriter:
  """The writer of every process but the first."""

  num_rows = 0

  def write(self, step, kind, values) -> None:
    """Writes nothing."""

  def close(self) -> None:
    """Closes nothing."""


class Pace:
  """Measures the rate of updates, the time left and the share of time spent waiting for data.

  The clock stands still while the loop does something else than updates: see `paused`.
  """

  def __init__(
    self,
    step: int,
    total_steps: int,
    *,
    batch_size: int,
    clock: Callable[[], float] = time.perf_counter,
  ):
    self._total = total_steps
    self._batch_size = batch_size
    self.clock = clock
    self._start_lap(step)

  def _start_lap(self, step):
    self._step, self._began, self._waited = step, self.clock(), 0.0

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Stops the clock: for evaluating, saving, compiling."""
    began = self.clock()
    try:
      yield
    finally:
      self._began += self.clock() - began

  def waited(self, seconds: float) -> None:
    """Adds time during which the devices had no batch."""
    self._waited += seconds

  def lap(self, step: int) -> dict[str, float]:
    """Returns the figures since the last lap and starts another."""
    seconds = max(self.clock() - self._began, 1e-9)
    steps = max(step - self._step, 1)
    figures = {
      f"{TIME_PREFIX}images_per_second": steps * self._batch_size / seconds,
      f"{TIME_PREFIX}eta_seconds": (self._total - step) * seconds / steps,
      f"{TIME_PREFIX}data_wait_share": min(self._waited / seconds, 1.0),
    }
    self._start_lap(step)
    return figures


def progress_line(
  what: str, done: int, total: int, *, unit: str, rate: float, seconds_left: float, note: str = ""
) -> str:
  """The line that a training or a job prints: how much is done, how fast, and how long it takes.

  >>> progress_line("eps 0.03:", 5, 10, unit="images", rate=80.0, seconds_left=65.0, note="robust")
  'eps 0.03: 5/10  80 images/s  eta 0:01:05  robust'
  """
  speed = f"{rate:.0f}" if rate >= 1000 else f"{rate:.3g}"
  return f"{what} {done}/{total}  {speed} {unit}/s  eta {clock(seconds_left)}  {note}".rstrip()


def training_line(step: int, total_steps: int, values: Mapping[str, float]) -> str:
  """The line of progress of a training, with the share of time spent on data, and the metrics.

  >>> training_line(5, 10, {"time/images_per_second": 80.0, "time/eta_seconds": 65.0,
  ...   "time/data_wait_share": 0.02, "loss": 1.25})
  'step 5/10  80 images/s  eta 0:01:05  data wait 2%  loss 1.25'
  """
  return progress_line(
    "step",
    step,
    total_steps,
    unit="images",
    rate=values[f"{TIME_PREFIX}images_per_second"],
    seconds_left=values[f"{TIME_PREFIX}eta_seconds"],
    note=training_note(values),
  )


def training_note(values: Mapping[str, float]) -> str:
  """What a training says besides how far it is: the share of time spent on data, and the metrics.

  >>> training_note({"time/data_wait_share": 0.02, "loss": 1.25})
  'data wait 2%  loss 1.25'
  """
  notes = [f"data wait {values[f'{TIME_PREFIX}data_wait_share']:.0%}"]
  notes += [f"{name} {value:.4g}" for name, value in values.items() if "/" not in name]
  return "  ".join(notes)


def clock(seconds: float) -> str:
  """A duration as a clock shows it; one that is not known is 0.

  >>> clock(3661.2)
  '1:01:01'
  """
  minutes, seconds = divmod(round(seconds) if math.isfinite(seconds) else 0, 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}"


def report(line: str) -> None:
  """Prints a line of progress to standard error, at once."""
  bars.print_line(line)
