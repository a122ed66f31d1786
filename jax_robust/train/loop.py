"""The loop, one for every objective.

Its order is a contract: evaluate if due, save if due (the metric with it), leave if pre-empted,
batch, update, log if due. A checkpoint of step k thus holds everything up to the update k - 1 and
the evaluation of step k, and the batch of step k has not been drawn: resuming repeats nothing and
skips nothing.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, nullcontext
from typing import Any, NamedTuple

import jax

from jax_robust.bars import Bar
from jax_robust.train import metrics as metrics_lib
from jax_robust.train import overfitting
from jax_robust.train.checkpoint import Checkpointer
from jax_robust.train.state import TrainState

NUM_ROWS = "num_rows"
"""What the info of a checkpoint calls the number of rows that were written before it."""

OVERFITTING = "overfitting"
"""What the info of a checkpoint calls the record of a `Watch`."""


class NonFiniteError(FloatingPointError):
  """Loss, gradient or parameters stopped being finite; nothing of it was saved."""


class Cadence(NamedTuple):
  """When things happen, in steps. 0 switches an item off, except at the end of the run."""

  total: int
  evaluate: int
  save: int
  log: int


class Checkpoints(NamedTuple):
  """The two folders of a run, and which evaluation metric chooses the best."""

  latest: Checkpointer
  best: Checkpointer
  metric: str
  mode: str


class Watch(NamedTuple):
  """Looks at every evaluation for overfitting, and may end the run.

  Attributes:
    judge: `(record, step, values) -> (record, alarms)`: see `overfitting.judge`.
    record: where to go on, from the info of the checkpoint; {} at the start.
    accepted: where the state of each evaluation without an alarm is kept; None keeps none.
  """

  judge: Callable[..., tuple[dict[str, Any], list[overfitting.Alarm]]]
  record: Mapping[str, Any]
  accepted: Checkpointer | None = None


class Outcome(NamedTuple):
  """How a run ended: its state, the step reached, and whether it was asked to leave early.

  `record` is that of the watch, {} without one; it says whether overfitting has ended the run.
  """

  state: TrainState
  step: int
  preempted: bool
  best: Mapping[str, Any]
  record: Mapping[str, Any]


def run(
  state: TrainState,
  *,
  step_fn: Callable[[TrainState, Any], tuple[TrainState, Mapping[str, Any]]],
  make_batches: Callable[[int], Generator[Any, None, None]],
  evaluate: Callable[[TrainState], Mapping[str, float]],
  cadence: Cadence,
  checkpoints: Checkpoints,
  writer: Any,
  batch_size: int,
  leave: Callable[[int], bool] = lambda step: False,
  report: Callable[[str], None] = metrics_lib.report,
  bar: Bar | None = None,
  watch: Watch | None = None,
) -> Outcome:
  """Trains from `state.step` to `cadence.total`.

  Guarantees:
    `resume_is_bit_exact`: stopping at any step and starting again from the checkpoint gives the
      parameters and the metrics of an uninterrupted run.
    `non_finite_stops`: a non-finite update raises, and no later state is saved.
    `a_stopped_run_stays_stopped`: where the watch ended a run, starting again changes nothing.

  Args:
    state: where to start; a restored one resumes.
    step_fn: the compiled update (see `types.Update`).
    make_batches: `step -> iterator` over the batches from that step on.
    evaluate: `state -> {name: value}`, on held-out data.
    cadence: when to evaluate, save and log.
    checkpoints: where to save, and what 'best' means.
    writer: `write(step, kind, values)`; checkpoints note its `num_rows`, if any.
    batch_size: rows of a batch, for the rate.
    leave: `step -> bool`, asked every step: whether to save and stop.
    report: takes a line of progress.
    bar: shows the steps, in place of the lines about them where somebody watches.
    watch: looks for overfitting; None does not.

  Returns:
    The outcome.

  Raises:
    NonFiniteError: with the step; the last good checkpoint stays.
    ValueError: an update that does not keep to its contract.
    CheckpointWriteError: a checkpoint could not be written.
  """
  step = resumed_at = int(state.step)
  record = dict(watch.record) if watch else {}
  pace = metrics_lib.Pace(step, cadence.total, batch_size=batch_size)
  unchecked: list[tuple[int, jax.Array]] = []
  with closing(make_batches(step)) as batches:
    while True:
      at_end = step >= cadence.total or record.get("stopped", False)
      evaluating = _due(step, cadence.evaluate) or at_end
      saving = _due(step, cadence.save) or at_end
      # What is due at the resumed step was done before that checkpoint was written.
      if (evaluating or saving) and step not in (0, resumed_at):
        _raise_if_not_finite(unchecked, state, checkpoints)
        with pace.paused():
          if evaluating:
            values = evaluate(state)
            writer.write(step, "evaluate", values)
            report(f"step {step}/{cadence.total}  evaluated  " + _join(values))
            if watch:
              record, row = _look(watch, record, step, values, report)
              if row:
                writer.write(step, "alarm", row)
              at_end = at_end or record["stopped"]
            if not record.get("stopped"):
              _keep(step, state, values, checkpoints, watch, record)
          if saving or at_end:
            checkpoints.latest.save(step, state, _info(writer, record))
      if at_end or leave(step):
        break
      # Opening the pipeline and compiling, the first time, say nothing about the rate.
      with pace.paused() if step == resumed_at else nullcontext():
        _hold_back(unchecked)
        batch = _next(batches, unchecked, pace)
        state, values = step_fn(state, batch)
      step += 1
      if step == resumed_at + 1:
        _check_update(state, values, step)
      unchecked.append((step, values["finite"]))
      _count(bar)
      if _due(step, cadence.log) or step == cadence.total:
        _raise_if_not_finite(unchecked, state, checkpoints)
        row = {name: float(x) for name, x in values.items() if name != "finite"} | pace.lap(step)
        writer.write(step, "train", row)
        _tell(step, cadence.total, row, report, bar)
  if not at_end:
    _raise_if_not_finite(unchecked, state, checkpoints)
    checkpoints.latest.save(step, state, _info(writer, record))
  checkpoints.latest.wait()
  has_best = checkpoints.best.latest_step() is not None
  return Outcome(state, step, not at_end, checkpoints.best.info() if has_best else {}, record)


def _count(bar: Bar | None) -> None:
  """One step more."""
  if bar is not None:
    bar.add()


def _tell(step: int, total: int, row: Mapping[str, float], report: Callable, bar: Bar | None):
  """Says how far the training is and what its metrics are: behind its bar, or in a line."""
  if bar is not None and bar.is_shown:
    bar.note(metrics_lib.training_note(row))
  else:
    report(metrics_lib.training_line(step, total, row))


def _info(writer: Any, record: Mapping[str, Any]) -> dict[str, Any]:
  """What a checkpoint vouches for besides the state."""
  num_rows = getattr(writer, "num_rows", None)
  info: dict[str, Any] = {} if num_rows is None else {NUM_ROWS: num_rows}
  return {**info, OVERFITTING: dict(record)} if record else info


def _look(
  watch: Watch, record: Mapping[str, Any], step: int, values: Mapping[str, float], report: Callable
) -> tuple[dict[str, Any], dict[str, float]]:
  """The record after an evaluation, and the row of its alarms; says what there is to say."""
  record, alarms = watch.judge(record, step, values)
  if alarms:
    report(f"step {step}  overfitting: {overfitting.say(alarms)}")
  if record["stopped"]:
    kept = record["accepted"]
    weights = "no evaluation was without an alarm" if kept is None else f"those of step {kept} stay"
    report(f"step {step}  stopped for overfitting: {weights}")
  return record, overfitting.row_of(alarms)


def _keep(step: int, state: TrainState, values, checkpoints: Checkpoints, watch, record) -> None:
  """Saves what an evaluation speaks for: the best, and what has not overfitted."""
  _keep_if_best(step, state, values, checkpoints)
  # One of a later step is there where a kill came before the latest was saved: the run repeats it.
  if watch and watch.accepted and (watch.accepted.latest_step() or 0) < step == record["accepted"]:
    watch.accepted.save(step, state, {"step": step})
    watch.accepted.wait()


def _check_update(state: TrainState, values: Mapping[str, Any], step: int) -> None:
  """Holds the first update of a start to the contract of `types.Update`."""
  if "finite" not in values:
    raise ValueError(f"the update's metrics {sorted(values)} have no 'finite': see types.Update")
  if int(state.step) != step:
    raise ValueError(
      f"the update moved state.step from {step - 1} to {int(state.step)}: expected {step}, since "
      "it counts batches, however many optimiser steps an update makes (see types.Update)"
    )


def _next(batches: Iterator[Any], unchecked: list, pace: metrics_lib.Pace) -> Any:
  """Takes the next batch, and counts the wait for it unless the devices were busy all the while."""
  began = pace.clock()
  batch = next(batches)
  if not unchecked or unchecked[-1][1].is_ready():
    pace.waited(pace.clock() - began)
  return batch


def _hold_back(unchecked: list) -> None:
  """Waits until one update at most is under way, on the CPU until none is.

  An update behind the one that runs keeps an accelerator busy. The CPU has nothing to gain, and
  something to lose: where dozens of updates are queued, XLA's CPU devices may wait for one another
  until XLA ends the process; two cores with other work to do did so within half a minute.
  """
  ahead = 0 if jax.default_backend() == "cpu" else 1
  if len(unchecked) > ahead:
    unchecked[-1 - ahead][1].block_until_ready()


def _due(step: int, every: int) -> bool:
  """Whether something that happens every `every` steps happens at this one."""
  return every > 0 and step % every == 0


def _join(values: Mapping[str, float]) -> str:
  """`name value` pairs for a line of the log; the values of `name/0`, `name/1` stand in a row."""
  rows: dict[str, list[str]] = {}
  for name, value in values.items():
    stem, _, number = name.rpartition("/")
    rows.setdefault(stem if number.isdigit() else name, []).append(f"{value:.4g}")
  return "  ".join(f"{name} {' '.join(row)}" for name, row in rows.items())


def _keep_if_best(step: int, state: TrainState, values, checkpoints: Checkpoints) -> None:
  """Saves the state to the folder of the best, if it is, and waits until it is there."""
  if checkpoints.metric not in values:
    raise ValueError(
      f"select names the metric {checkpoints.metric!r}, the evaluation has {sorted(values)}"
    )
  value = float(values[checkpoints.metric])
  best = checkpoints.best
  if best.latest_step() is not None:
    sign = {"max": 1.0, "min": -1.0}[checkpoints.mode]
    if not sign * value > sign * best.info()["value"]:
      return
  best.save(step, state, {"step": step, "metric": checkpoints.metric, "value": value})
  # The latest checkpoint, saved next, vouches for this one: a kill between the two loses nothing.
  best.wait()


def _raise_if_not_finite(unchecked: list, state: TrainState, checkpoints: Checkpoints) -> None:
  """Waits for the updates since the last check; asking seldom keeps the devices busy."""
  for step, flag in unchecked:
    if not bool(flag):
      checkpoints.latest.wait()
      last = checkpoints.latest.latest_step()
      raise NonFiniteError(
        f"update {step} gave a non-finite loss, gradient or parameter. Nothing of it was saved: "
        + ("there is no checkpoint yet" if last is None else f"the last good one is of step {last}")
        + f". Its randomness is folded from the run's key, {jax.device_get(state.rng).tolist()}, "
        f"and step {step - 1}, so starting again reproduces it; lower the learning rate or the "
        "attack's step size, or look at the data of that batch"
      )
  unchecked.clear()
