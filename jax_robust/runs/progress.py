"""The progress of a job: how much is done, how fast, and how long it will take."""

import time
from collections.abc import Callable

from jax_robust import bars
from jax_robust.train import metrics

SECONDS_BETWEEN_LINES = 10.0


class ProgressLine:
  """Counts what is done and prints a line from time to time, and at the end; or shows a bar.

  Args:
    name: what the line begins with.
    total: how much there is to do.
    done: how much of it was done by an earlier start.
    unit: what is counted.
    report: prints a line.
    clock: seconds that pass.
  """

  def __init__(
    self,
    name: str,
    total: int,
    *,
    done: int = 0,
    unit: str = "images",
    report: Callable[[str], None] = metrics.report,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._name, self._total, self._unit = name, total, unit
    self._report, self._clock = report, clock
    self._done = self._resumed = done
    self._began = self._last = clock()
    self._bar = bars.Bar(name, total, done=done, unit=unit) if done < total else None
    if done:
      report(f"{name}: {done} of {total} {unit} are there already")

  def add(self, count: int = 1, note: Callable[[], str] = str) -> None:
    """Counts so many more; `note()` is what else a line says."""
    self._done += count
    if self._bar is not None and self._bar.is_shown:
      self._bar.add(count, note)
      return
    now = self._clock()
    if now - self._last < SECONDS_BETWEEN_LINES and self._done < self._total:
      return
    self._last = now
    rate = (self._done - self._resumed) / max(now - self._began, 1e-9)
    self._report(
      metrics.progress_line(
        f"{self._name}:",
        self._done,
        self._total,
        unit=self._unit,
        rate=rate,
        seconds_left=(self._total - self._done) / rate,
        note=note(),
      )
    )
