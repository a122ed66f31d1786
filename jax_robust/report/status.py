"""How a run has ended, and what warns of its numbers."""

from collections.abc import Iterator

from jax_robust.evaluate.robustbench import fraction
from jax_robust.report.reading import Record
from jax_robust.runs import starts

FINISHED = "finished"


def status_of(record: Record) -> str:
  """How far a run has come: in one line, `finished` where there is nothing to say."""
  return "; ".join(_status(record)) or FINISHED


def _status(record: Record) -> Iterator[str]:
  """What is not finished, or has failed, or raised an alarm."""
  for cell in record.of_kind("cell"):
    if cell["failed"]:
      yield f"failed: {cell['failed']}"
  if not record.of_kind("train"):
    yield from _of_training(record)
  alarms = [row for row in record.rows if row.get("kind") == "alarm"]
  if alarms:
    yield f"alarm of overfitting at step {alarms[0]['step']}"
  yield from (f"{job} is not finished" for job in record.unfinished)
  for result in record.of_kind("autoattack"):
    if not all(each["complete"] for each in result["evaluations"]):
      yield "autoattack is not finished"
  if any(not each["complete"] for each in record.of_kind("exit_attacks")):
    yield "exit_attacks is not finished"
  if any(not each["complete"] for each in record.of_kind("sweep")):
    yield "cells are missing"


def _of_training(record: Record) -> Iterator[str]:
  """How far a training has come that did not write its result."""
  last = next((each for each in reversed(record.starts) if each["job"] == "train"), None)
  if not record.rows and not last:
    if not record.results and not record.pictures:
      yield "nothing was found yet"
    return
  step = max((row["step"] for row in record.rows), default=0)
  total = record.config.get("total_steps")
  at = f"at step {step}" + (f" of {total:.0f}" if total else "")
  ended = last.get("ended", "") if last else ""
  if ended == starts.PREEMPTED:
    yield f"preempted {at}"
  elif ended and ended != starts.DONE:
    yield f"failed {at}: {ended.partition(':')[0]}"
  else:
    yield f"unfinished, {at}"


def warnings_of(record: Record) -> list[str]:
  """What a reader of a run's numbers must know, a line each."""
  return [*_of_results(record), *_of_weights(record), *_of_starts(record), *record.problems]


def _of_results(record: Record) -> Iterator[str]:
  """What results say against themselves."""
  for result in record.of_kind("autoattack"):
    for each in result["evaluations"]:
      where = f"AutoAttack at {each['norm']} {fraction(each['eps'])}"
      yield from (f"{where}: {line}" for line in each["warnings"])
      if each["rejected"]:
        yield f"{where}: {each['rejected']} points that an attack claimed were not confirmed"
      if not each["complete"]:
        yield f"{where}: some images that were asked for are missing"
  for result in record.of_kind("evaluate"):
    for name, count in (result.get("num_lost") or {}).items():
      if count:
        yield f"{name}: {count} adversarial points have no finite score and count as no attack"
  for result in record.of_kind("exit_attacks"):
    for flag in result["flags"]:
      yield (
        f"{flag['kind']}: under {flag['rule']}, {flag['attack']} leaves {flag['left']:.3f}, "
        f"{flag['against']} {flag['left_against']:.3f}"
      )
  for row in record.rows:
    if row.get("kind") == "alarm":
      yield f"alarm of overfitting at step {row['step']}"
  for cell in record.of_kind("cell"):
    if cell["failed"]:
      yield cell["failed"]


def _of_weights(record: Record) -> Iterator[str]:
  """That results are of different weights."""
  found = weights_of(record)
  if len(found) > 1:
    yield "its results are of different weights: " + "; ".join(
      f"{', '.join(names)} of {digest[:12]}…" for digest, names in found.items()
    )


def weights_of(record: Record) -> dict[str, list[str]]:
  """The digests of weights that results are of, each with the names of these results."""
  found: dict[str, list[str]] = {}
  for name, result in record.results.items():
    content = result.content
    digests = [content.get("weights_sha256"), (content.get("weights") or {}).get("sha256")]
    digests += [each.get("weights_sha256") for each in content.get("evaluations", ())]
    for digest in dict.fromkeys(each for each in digests if isinstance(each, str)):
      # A certification may be of other nets, which its config names.
      if result.kind in ("evaluate", "autoattack", "early_exit", "exit_attacks") or (
        result.kind == "certify" and not record.config.get("smoothing.weights")
      ):
        found.setdefault(digest, []).append(name)
  return found


def _of_starts(record: Record) -> Iterator[str]:
  """Jobs whose last start failed."""
  last = {start["job"]: start for start in record.starts}
  for job, start in last.items():
    ended = start.get("ended", starts.DONE)
    if ended not in (starts.DONE, starts.PREEMPTED):
      yield f"the job {job} failed: {ended}"
