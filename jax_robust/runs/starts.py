"""What was started in a workdir: `starts.jsonl`, a line when a job begins and one when it ends.

The two lines of a start share its name. A start without a second line was killed, or still runs.
"""

import contextlib
import errno
import json
import os
import pathlib
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from jax_robust.atomic import open_no_link, read_bytes
from jax_robust.errors import WorkdirError
from jax_robust.runs import command

FILE = "starts.jsonl"

DONE, PREEMPTED = "done", "preempted"
"""How a start has ended; one that failed says by which error."""


@contextlib.contextmanager
def noted(folder: pathlib.Path, job: str, versions: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
  """Notes the start of a job and, however it ends, the end with its seconds; the first process.

  Args:
    folder: the workdir.
    job: name of the job.
    versions: what it runs with, and when: see `workdir.versions`.

  Yields:
    A dictionary, to which the job adds `ended` where it was not done.

  Raises:
    WorkdirError: the file is a symbolic link.
  """
  told: dict[str, Any] = {}
  if jax.process_index() != 0:
    yield told
    return
  name, began = secrets.token_hex(4), time.monotonic()
  # The file stays open, so that nothing is written where the folder is replaced meanwhile.
  with os.fdopen(_open(folder / FILE), "a", encoding="utf-8") as file:
    _append(file, {"start": name, "job": job, "command": command.typed(), **versions})
    try:
      yield told
    except BaseException as error:
      lines = str(error).splitlines() or [""]
      told["ended"] = f"{type(error).__name__}: {lines[0][:300]}".removesuffix(": ")
      raise
    finally:
      seconds = round(time.monotonic() - began, 3)
      with contextlib.suppress(OSError):  # a full disk must not hide how the job itself has ended
        _append(file, {"start": name, "ended": DONE, **told, "seconds": seconds})


def _open(path: pathlib.Path) -> int:
  """The file, to append to."""
  try:
    return open_no_link(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  except OSError as error:
    if error.errno == errno.ELOOP:
      raise WorkdirError(f"{error.filename} {error.strerror}") from error
    raise


def _append(file, row: Mapping[str, Any]) -> None:
  """Writes a line at once, so that those of jobs that share a workdir do not mix."""
  file.write(json.dumps(row) + "\n")
  file.flush()


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
  """The starts of a workdir in their order, each with what its end says, if it has one.

  Lines that are no rows of ours, such as one that a kill has torn, are left out.
  """
  path = folder / FILE
  found: dict[str, dict[str, Any]] = {}
  for line in read_bytes(path).splitlines() if path.is_file() else ():
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
      row = json.loads(line)
      found.setdefault(str(row["start"]), {}).update(row)
  return [row for row in found.values() if isinstance(row.get("job"), str)]


def seconds_of(starts: Sequence[Mapping[str, Any]], job: str) -> tuple[float, bool] | None:
  """Seconds that a job took over all of its starts, and whether that is all it took.

  It is not where a start was killed, which does not say for how long it ran. What was started again
  after the job was done counts no more.

  >>> seconds_of([{"job": "train", "ended": "preempted", "seconds": 2.0},
  ...   {"job": "train", "ended": "done", "seconds": 3.0},
  ...   {"job": "train", "ended": "done", "seconds": 1.0}], "train")
  (5.0, True)
  """
  total, is_all, count = 0.0, True, 0
  for start in starts:
    if start["job"] == job:
      seconds = start.get("seconds")
      known = isinstance(seconds, (int, float))
      total, is_all, count = total + (seconds if known else 0.0), is_all and known, count + 1
      if start.get("ended") == DONE:
        break
  return (total, is_all) if count else None
