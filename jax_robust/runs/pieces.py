"""The store of resumable work: pieces in a folder, each id computed once, whatever stops a job.

A piece belongs to a work (its `identity`: config, weights, data), covers ids of it, and carries
digests that are verified when it is read. There are two kinds. `Rows` are small results, one an id,
appended to a log `piece-I-of-N.jsonl`. `Arrays` are large ones, one npz file for a range of ids.
A job is

    store = pieces.Rows(folder, identity, ids, share=pieces.share_of(key, "I/N"))
    for some in store.missing(256):
      for row in compute(some):
        store.write(row)
    if pieces.wait([store]):
      ...  # write what `pieces.find([store.folder])` amounts to

and the same command goes on with what is missing after a kill, on any number of processes.
"""

import pathlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jax_robust.atomic import Anchor
from jax_robust.errors import ConfigError, WorkdirError
from jax_robust.runs import array_file, row_log, workdir
from jax_robust.runs import identity as identity_lib
from jax_robust.runs.piece_files import IDENTITY, Work, array_path, find, write_identity
from jax_robust.runs.progress import ProgressLine
from jax_robust.train import metrics

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_WITHOUT_A_SIGN = 20.0
"""How long another process of a job may be absent, as one that starts later is, while one waits."""

Content = Mapping[str, Any]
"""What is written at once: a row, or arrays by name; `id` is the row's id or the array of ids."""


class ProcessEndedError(OSError):
  """Another process of this job has ended before its share was done."""


class Others:
  """The other processes of this job, as their locks in the workdir tell.

  Args:
    folder: the workdir.
  """

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._absent_since: dict[int, float] = {}

  def check(self) -> None:
    """Raises ProcessEndedError where one has been absent for long, seen by calls of this."""
    now = time.monotonic()
    for index in set(range(jax.process_count())) - {jax.process_index()}:
      if workdir.is_alive(self._folder, index):
        self._absent_since.pop(index, None)
      elif now - self._absent_since.setdefault(index, now) > SECONDS_WITHOUT_A_SIGN:
        raise ProcessEndedError(
          f"process {index} of this job has ended before its share was done: look at what it said, "
          "and start the same command again everywhere to go on"
        )


class Store:
  """Where a process adds its share of the pieces of one work; see `Rows` and `Arrays`.

  Args:
    folder: of the pieces.
    identity: what they belong to, as JSON can hold it.
    ids: those of the whole work, a range or in the order in which they are computed.
    share: which pieces this process computes, as `share_of` reads it.
    size: ids of a piece; it belongs into the identity if it may change.
    name: what the line of progress begins with; the folder's name by default.
    unit: what an id counts, for the line of progress.

  Raises:
    WorkdirError: as `find`; the folder holds pieces of another work.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    identity: Mapping[str, Any],
    ids: Sequence[int],
    *,
    share: tuple[int, int] = (0, 1),
    size: int = 1,
    name: str = "",
    unit: str = "images",
  ):
    self.folder, self.identity, self.ids = folder, identity_lib.plain(identity), ids
    found = find([folder], wanted=(self.identity, ids))
    self._open(share, found)
    self._anchor = Anchor(folder)
    num_undigested = sum(piece.num_undigested for piece in found.pieces)
    if num_undigested:
      metrics.report(f"{folder}: {num_undigested} pieces of an earlier version have no digest")
    pieces = [ids[start : start + size] for start in range(0, len(ids), size)]
    num_shares = max(share[1] // jax.process_count(), 1)
    self.job_ids = {key for piece in pieces[share[0] % num_shares :: num_shares] for key in piece}
    mine = pieces[share[0] :: share[1]]
    self.ids_there = {key for piece in mine for key in piece if key in found.owners}
    self._missing = [piece for piece in mine if not self.ids_there.issuperset(piece)]
    self._progress = ProgressLine(
      name or folder.name, sum(map(len, mine)), done=len(self.ids_there), unit=unit
    )

  def _open(self, share: tuple[int, int], found: Work) -> None:
    """Says in the folder what its pieces belong to, unless it says so already."""
    raise NotImplementedError

  def _write(self, content: Content) -> None:
    """Writes a piece, or a row of it."""
    raise NotImplementedError

  def missing(self, at_once: int = 1) -> Iterator[np.ndarray]:
    """The ids that are to be computed, of so many pieces at once; written before the next."""
    if jax.process_count() > 1:
      # JAX's own handler of SIGTERM waits for a checkpoint; here all is on disk already.
      signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for start in range(0, len(self._missing), at_once):
      yield np.concatenate([np.asarray(piece) for piece in self._missing[start : start + at_once]])

  def write(self, content: Content, *, note: Callable[[], str] = str) -> None:
    """Writes a row, or the arrays of a piece; when this returns, a kill does not lose it.

    Args:
      content: the row or the arrays, with `id`.
      note: what the line of progress says besides.

    Raises:
      OSError: it can't be written; nothing that was written before is lost.
      FolderGoneError: the folder was deleted or replaced meanwhile.
    """
    self._anchor.check()
    self._write(content)
    self._progress.add(np.size(content["id"]), note)


class Rows(Store):
  """Small results, an id a row, appended to a log of JSON lines."""

  def _open(self, share, found):
    self._path = self.folder / f"piece-{share[0]}-of-{share[1]}.jsonl"
    self._work = row_log.start(self._path, self.identity, self.ids)

  def _write(self, content):
    row_log.append(self._path, content, work=self._work)


class Arrays(Store):
  """Large results, an npz file for every `size` ids."""

  def _open(self, share, found):
    if found.pieces:  # equal, but perhaps as 1.0 where this one has 1
      self.identity = found.pieces[0].identity
      return
    write_identity(self.folder, self.identity, self.ids, workdir.versions())

  def _write(self, content):
    path = array_path(self.folder, int(content["id"][0]))
    array_file.write(path, content, work=identity_lib.digest(self.identity))


def share_of(key: str, text: str) -> tuple[int, int]:
  """Which share of the pieces this process computes, and of how many: `I/N` of a job's processes.

  Raises:
    ConfigError: it is something else; `key` is that of the config.

  >>> share_of("autoattack.shard", "3/16")
  (3, 16)
  """
  share, num_shares = read_share(key, text)
  return share + num_shares * jax.process_index(), num_shares * jax.process_count()


def read_share(key: str, text: str) -> tuple[int, int]:
  """Which share of a work this job does, and of how many: `I/N`.

  Raises:
    ConfigError: it is something else; `key` is that of the config.
  """
  try:
    share, num_shares = map(int, text.split("/"))
  except ValueError:
    share, num_shares = 0, 0
  if not 0 <= share < num_shares:
    raise ConfigError(f"{key}={text!r}: expected I/N with 0 <= I < N, such as 3/16")
  return share, num_shares


def wait(stores: Sequence[Store]) -> bool:
  """Waits until all processes have written their shares; True for the one that writes the results.

  Where this job's share has no piece, and the folders hold none of another's, that is said, and
  nobody writes results. Files tell, not a collective operation, which would give up: Gloo's first
  after 30 s.

  Raises:
    ProcessEndedError: another process has ended, and what it was to write is not there.
  """
  if not any(each.job_ids or find([each.folder]).owners for each in stores):
    metrics.report("this share has no piece: the work has fewer pieces than shares")
    return False
  others = Others(stores[0].folder.parents[1])
  while jax.process_count() > 1:
    if all(find([each.folder]).owners.keys() >= each.job_ids for each in stores):
      break
    others.check()
    time.sleep(SECONDS_BETWEEN_LOOKS)
  return jax.process_index() == 0


def merge(folders: Sequence[pathlib.Path], target: pathlib.Path) -> None:
  """Puts the pieces of one work together in a folder; what is there already is kept.

  Raises:
    WorkdirError: as `find`; an id that is in no piece.
  """
  found = find(folders)
  if found.num_missing:
    first = next(key for key in found.ids if key not in found.owners)
    raise WorkdirError(
      f"gap: {found.num_missing} of the {len(found.ids)} ids of {target.name} are in no piece, the "
      f"first {first}: finish the pieces, then merge"
    )
  kind = Arrays if any(piece.path.name == IDENTITY for piece in found.pieces) else Rows
  store = kind(target, found.identity, found.ids)
  for content in found.contents():
    if not store.ids_there.issuperset(np.ravel(content["id"]).tolist()):
      store.write(content)
