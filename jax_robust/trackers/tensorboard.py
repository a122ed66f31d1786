"""TensorBoard's event files, in the workdir."""

import os
import pathlib
import time
from collections.abc import Mapping, Sequence

from jax_robust.errors import brought_by
from jax_robust.types import TrackedRun


class TensorBoard:
  """Event files in WORKDIR/tensorboard, flushed after every step.

  Args:
    run: the run.
  """

  takes_results = False

  def __init__(self, run: TrackedRun):
    with brought_by("train"):
      from tensorboardX import event_file_writer
      from tensorboardX.proto import event_pb2, summary_pb2

    self._writer, self._event, self._summary = (
      event_file_writer.EventsWriter, event_pb2.Event, summary_pb2.Summary,
    )  # fmt: skip
    self._session, self._folder = event_pb2.SessionLog, run.folder / "tensorboard"
    self._goes_on = bool(run.identity)

  def start(self) -> Mapping[str, str]:
    """Opens a file of its own for this start."""
    self._folder.mkdir(exist_ok=True)
    # Not SummaryWriter: its thread dies of a full disk without a word, and then blocks the caller.
    self._file = self._writer(str(self._folder / "events"), f".{os.getpid()}")
    if not self._goes_on:
      # Tells TensorBoard to forget what may be there from a start that kept no account.
      begin = self._session(status=self._session.START)
      self._file.write_event(self._event(wall_time=time.time(), step=0, session_log=begin))
    return {"folder": self._folder.name}

  def write(self, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
    """Adds the values of steps, flushed at once."""
    for step, values in points:
      scalars = [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
      summary = self._summary(value=scalars)
      self._file.write_event(self._event(wall_time=time.time(), step=step, summary=summary))
    self._file.flush()

  def write_result(
    self, step: int, values: Mapping[str, float], files: Sequence[pathlib.Path]
  ) -> None:
    """Takes none."""

  def close(self, finished: bool) -> None:
    """Closes the file."""
    self._file.close()
