"""Sends a run's numbers to its trackers, each in a thread of its own, which may fail."""

import itertools
import pathlib
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jax_robust.trackers.ledger import Ledger
from jax_robust.types import Tracker

SECONDS_TO_FINISH = 20.0
"""How long the end of a job waits for its trackers."""

Row = Mapping[str, Any]
"""`{"step": …, "kind": …, name: value, …}`, as in `metrics.jsonl`."""


class Result(NamedTuple):
  """What a job found: numbers by name, and pictures."""

  step: int
  values: Mapping[str, float]
  files: Sequence[pathlib.Path]


class End(NamedTuple):
  """Nothing follows; whether the job came to its end."""

  finished: bool


class Sender:
  """Sends to one tracker, without ever making the caller wait.

  The thread begins with the first thing to send. After a failure nothing is sent.

  Args:
    name: of the tracker.
    tracker: takes what is sent.
    ledger: says what it was sent by earlier starts, and is told what it is sent now.

  Attributes:
    failure: why it takes nothing more; '' while it does.
  """

  def __init__(self, name: str, tracker: Tracker, ledger: Ledger):
    self.name, self.tracker, self.failure = name, tracker, ""
    self._ledger, self._mark = ledger, dict[str, Any]()
    self._queue: queue.SimpleQueue = queue.SimpleQueue()
    # A daemon, so that a tracker that hangs does not keep the process from ending.
    self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)

  def put(self, item: Sequence[Row] | Result) -> None:
    """Sends rows or a result, soon."""
    if not self.failure:
      self._queue.put(item)
      if self._thread.ident is None:
        self._thread.start()

  def end(self, finished: bool) -> None:
    """Says that nothing follows."""
    if self._thread.ident is not None:
      self._queue.put(End(finished))

  def wait(self, seconds: float) -> None:
    """Waits until all is sent; that it is not is a failure, too."""
    if self._thread.ident is not None:
      self._thread.join(max(seconds, 0.0))
      if self._thread.is_alive():
        self.failure = self.failure or "it did not take everything in time"

  def _work(self) -> None:
    """What the thread does."""
    try:
      earlier = self._ledger.read(self.name)
      identity = dict(self.tracker.start())
      if identity != earlier.get("identity"):
        earlier = {}
      self._mark = {"step": -1, "kinds": [], **earlier, "identity": identity}
      self._ledger.write(self.name, self._mark)
      while not self._send_what_waits():
        pass
    except Exception as error:
      lines = str(error).splitlines() or [""]
      self.failure = f"{type(error).__name__}: {lines[0]}"[:160]

  def _send_what_waits(self) -> bool:
    """Sends what is in the queue, all rows at once; whether that was the end."""
    items = [self._queue.get()]
    while not self._queue.empty():
      items.append(self._queue.get())
    for kind, group in itertools.groupby(items, key=type):
      if kind is End:
        self.tracker.close(next(group).finished)
        return True
      if kind is Result:
        for step, values, files in group:
          self.tracker.write_result(step, values, files)
      else:
        self._send_rows([row for rows in group for row in rows])
    return False

  def _send_rows(self, rows: Sequence[Row]) -> None:
    """Sends the rows that have not been sent, and notes that they are."""
    mark, new = self._mark, []
    for row in rows:
      step, kind = row["step"], row["kind"]
      kinds = mark["kinds"] if step == mark["step"] else []
      if step >= mark["step"] and kind not in kinds:  # rows of one step differ in their kinds
        mark = {**mark, "step": step, "kinds": [*kinds, kind]}
        new.append((step, values_of(row)))
    if new:
      self.tracker.write(new)
      self._mark = mark
      self._ledger.write(self.name, mark)


def values_of(row: Row) -> dict[str, float]:
  """The values of a row by the names that trackers show.

  >>> values_of({"step": 3, "kind": "train", "loss": 0.5})
  {'train/loss': 0.5}
  """
  return {
    f"{row['kind']}/{name}": value for name, value in row.items() if name not in ("step", "kind")
  }


def wait_for(senders: Sequence[Sender], seconds: float) -> None:
  """Waits for all of them, so many seconds in all."""
  until = time.monotonic() + seconds
  for sender in senders:
    sender.wait(until - time.monotonic())
