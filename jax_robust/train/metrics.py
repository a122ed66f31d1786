"""Where the numbers of a run go: `metrics.jsonl`, TensorBoard, and a line of progress."""

import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Mapping

TIME_PREFIX = "time/"
"""Fields that differ between two runs of the same config, by name."""


def read_metrics(path: str | os.PathLike) -> list[dict]:
  """Reads a `metrics.jsonl`; a last line that a kill has torn is left out.

  Raises:
    ValueError: a line that is not JSON anywhere but at the end, with its number.
  """
  lines = pathlib.Path(path).read_text().split("\n")
  rows = []
  for number, line in enumerate(lines, start=1):
    if not line:
      continue
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError as error:
      if number == len(lines):
        break
      raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
  return rows


class MetricsWriter:
  """Appends rows to `metrics.jsonl` and TensorBoard, one a call, flushed at once.

  On resume at step k it first drops the rows after k, so that an interrupted run leaves the same
  file as an uninterrupted one, fields under `time/` aside.
  """

  def __init__(self, workdir: str | os.PathLike, *, resume_step: int = 0, tensorboard: bool = True):
    self._path = pathlib.Path(workdir) / "metrics.jsonl"
    rows = read_metrics(self._path) if self._path.exists() else []
    kept = [row for row in rows if row["step"] <= resume_step] if resume_step else []
    temporary = self._path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
    temporary.replace(self._path)
    self._file = self._path.open("a")
    self._board = None
    if tensorboard:
      from tensorboardX import SummaryWriter  # heavy, and wanted only where something is written

      self._board = SummaryWriter(
        str(pathlib.Path(workdir) / "tensorboard"), purge_step=resume_step, write_to_disk=True
      )

  def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
    """Adds the row `{"step": step, "kind": kind, **values}`."""
    values = {name: float(value) for name, value in values.items()}
    self._file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
    self._file.flush()
    if self._board is not None:
      for name, value in values.items():
        self._board.add_scalar(f"{kind}/{name}", value, step)

  def close(self) -> None:
    """Closes the files."""
    self._file.close()
    if self._board is not None:
      self._board.close()


class NullWriter:
  """The writer of every process but the first."""

  def write(self, step, kind, values) -> None:
    """Writes nothing."""

  def close(self) -> None:
    """Closes nothing."""


class Progress:
  """Measures rate, time left and the share of time spent waiting for data."""

  def __init__(self, step: int, total_steps: int, *, batch_size: int):
    self._total = total_steps
    self._batch_size = batch_size
    self._start_lap(step)

  def _start_lap(self, step):
    self._step, self._began, self._waited = step, time.perf_counter(), 0.0

  def waited(self, seconds: float) -> None:
    """Adds time during which the step had no batch."""
    self._waited += seconds

  def lap(self, step: int) -> dict[str, float]:
    """Returns the figures since the last lap and starts another."""
    seconds = max(time.perf_counter() - self._began, 1e-9)
    steps = max(step - self._step, 1)
    figures = {
      f"{TIME_PREFIX}images_per_second": steps * self._batch_size / seconds,
      f"{TIME_PREFIX}eta_seconds": (self._total - step) * seconds / steps,
      f"{TIME_PREFIX}data_wait_share": min(self._waited / seconds, 1.0),
    }
    self._start_lap(step)
    return figures


def progress_line(step: int, total_steps: int, values: Mapping[str, float]) -> str:
  """One line for the log: step, rate, time left, data wait, then the metrics.

  >>> progress_line(5, 10, {"time/images_per_second": 80.0, "time/eta_seconds": 65.0,
  ...   "time/data_wait_share": 0.02, "loss": 1.25})
  'step 5/10  80.0 images/s  eta 0:01:05  data wait 2%  loss 1.25'
  """
  eta = values[f"{TIME_PREFIX}eta_seconds"]
  minutes, seconds = divmod(round(eta) if math.isfinite(eta) else 0, 60)
  hours, minutes = divmod(minutes, 60)
  parts = [
    f"step {step}/{total_steps}",
    f"{values[f'{TIME_PREFIX}images_per_second']:.1f} images/s",
    f"eta {hours}:{minutes:02d}:{seconds:02d}",
    f"data wait {values[f'{TIME_PREFIX}data_wait_share']:.0%}",
  ]
  parts += [f"{name} {value:.4g}" for name, value in values.items() if "/" not in name]
  return "  ".join(parts)


def report(line: str) -> None:
  """Prints a line of progress to standard error, at once."""
  print(line, file=sys.stderr, flush=True)
