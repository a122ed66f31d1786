"""The training job: a config's data, net and objective, put through the loop."""

import contextlib
import pathlib
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jax_robust import bars
from jax_robust import config as config_lib
from jax_robust.data import columns, draws
from jax_robust.data.sources import Source, labels_of
from jax_robust.errors import WorkdirError
from jax_robust.runs import belonging, overfitting, tracking, workdir
from jax_robust.runs.evaluation import check_select, make_score
from jax_robust.runs.training import Training, duration, make_training, with_weights_of
from jax_robust.train import checkpoint, loop, metrics
from jax_robust.train.state import TrainState


def train(
  config: Any, path: pathlib.Path, trackers: tracking.Trackers, training: Training | None = None
) -> dict[str, Any]:
  """Trains a net, or goes on where the workdir stands; evaluates it on held-out images."""
  training = training or make_training(config)
  sets = training.sets
  if config.data.draw == draws.FIRST and sets.heldout.rows is not None:
    raise WorkdirError(
      f"{path} is a run that holds out the first images, and the training that was given holds out "
      "images by class: build it with config.data.draw='first'"
    )
  given = _targets(sets.train) if config.data.labels or config.data.label_noise else None
  heldout = sets.heldout if config.data.num_heldout else None
  note = workdir.describe_data(sets.train, heldout, labels=given)
  run = belonging.describe(config_lib.to_data(config), note)
  _check_checkpoints(path, run, note)
  workdir.note_data(path, sets.train, note)
  outcome = _train(config, path, training, run, trackers)
  result = {"step": outcome.step, "preempted": outcome.preempted, "best": dict(outcome.best)}
  if outcome.record:
    told = ("alarms", "accepted", "stopped")
    result["overfitting"] = {name: outcome.record[name] for name in told}
  if not outcome.preempted:
    workdir.write_result(path, "train", result)
    trackers.write_result("train", result)
  return result


def _targets(source: Source) -> np.ndarray:
  """What is learned of each image: probabilities `[n, k]` where there are such, or labels `[n]`."""
  read = columns.probabilities_reader(source)
  return read(np.arange(source.num_examples)) if read else labels_of(source)


def _check_checkpoints(path: pathlib.Path, run: Mapping[str, Any], note: Mapping[str, Any]) -> None:
  """Raises WorkdirError where checkpoints in the workdir are of another run than this."""
  for place in (path / "checkpoints" / kind for kind in checkpoint.READ):
    if not place.is_dir():
      continue
    with contextlib.closing(checkpoint.Checkpointer(place, read_only=True)) as reader:
      if reader.latest_step() is not None:
        belonging.check_run(reader.run_of(), run["config"], note, path)


@contextlib.contextmanager
def open_checkpoints(
  config, path: pathlib.Path, run: Mapping[str, Any]
) -> Iterator[loop.Checkpoints]:
  """The two checkpoint folders of a workdir; pending saves are awaited in the end."""
  metric, mode = config.select
  with contextlib.ExitStack() as stack:
    latest, best = (
      stack.enter_context(
        contextlib.closing(
          checkpoint.Checkpointer(path / "checkpoints" / kind, max_to_keep=max_to_keep, run=run)
        )
      )
      for kind, max_to_keep in ((checkpoint.LATEST, 2), (checkpoint.BEST, 1))
    )
    yield loop.Checkpoints(latest, best, metric, mode)


def _train(
  config, path: pathlib.Path, training: Training, run: Mapping[str, Any], trackers
) -> loop.Outcome:
  """Restores what there is, and runs the loop."""
  evaluate = make_evaluate(config, training)
  cadence = loop.Cadence(
    **{
      stem: duration(config, stem, training.sets.train)
      for stem in ("total", "evaluate", "save", "log")
    }
  )
  with contextlib.ExitStack() as stack:
    checkpoints = stack.enter_context(open_checkpoints(config, path, run))
    initial, info = _initial_state(config, training, checkpoints.latest)
    step, first_process = int(initial.step), jax.process_index() == 0
    writer = metrics.NullWriter()
    if first_process:
      writer = metrics.MetricsWriter(
        path,
        resume_step=step,
        num_expected=info.get(loop.NUM_ROWS),
        also=trackers.write,
      )
    stack.enter_context(contextlib.closing(writer))
    bar = bars.Bar("training", cadence.total, done=step, unit="steps") if first_process else None
    return loop.run(
      initial,
      step_fn=training.step_fn,
      make_batches=training.make_batches,
      evaluate=evaluate,
      cadence=cadence,
      checkpoints=checkpoints,
      writer=writer,
      batch_size=config.batch.size,
      leave=stack.enter_context(preemption(checkpoints.latest)),
      report=metrics.report if first_process else lambda line: None,
      bar=bar,
      watch=stack.enter_context(open_watch(config, path, info, run)),
    )


@contextlib.contextmanager
def open_watch(
  config, path: pathlib.Path, info: Mapping[str, Any], run: Mapping[str, Any]
) -> Iterator[loop.Watch | None]:
  """The detector of overfitting, going on from a checkpoint's info; None where there is none."""
  if "overfitting" not in config:
    yield None
    return
  judge, record = overfitting.make_judge(config), info.get(loop.OVERFITTING, {})
  if not overfitting.stops(config):
    yield loop.Watch(judge, record)
    return
  place = path / "checkpoints" / checkpoint.ACCEPTED
  with contextlib.closing(checkpoint.Checkpointer(place, max_to_keep=1, run=run)) as accepted:
    yield loop.Watch(judge, record, accepted)


def _initial_state(
  config, training: Training, latest: checkpoint.Checkpointer
) -> tuple[TrainState, dict[str, Any]]:
  """The newest state of the workdir, or else `init_from`'s weights, or else a fresh start.

  With the checkpoint's info, if there is one.
  """
  fresh = training.make_state()
  if latest.latest_step() is None:
    return with_weights_of(config, fresh, training) if config.init_from else fresh, {}
  restored, info = latest.restore(fresh)
  metrics.report(f"resuming from step {int(restored.step)}")
  return restored, info


def make_evaluate(config, training: Training) -> Callable[[TrainState], dict[str, float]]:
  """`state -> {name: mean over images}` of the averaged parameters, for `config.evals`.

  The mean of flags is the share of correct images. What the detector of overfitting measures comes
  with it.
  """
  score, names = make_score(config, training.net, training.sets.heldout)
  check_select(config, names)
  watched = None
  if "overfitting" in config:
    watched = overfitting.make_measure(config, training.net, training.sets.heldout)

  def evaluate(current: TrainState) -> dict[str, float]:
    columns = score(current.ema, current.model_state)
    values = {name: float(columns[name].mean()) for name in names}
    return {**values, **watched(current)} if watched else values

  return evaluate


@contextlib.contextmanager
def preemption(checkpointer: checkpoint.Checkpointer) -> Iterator[Callable[[int], bool]]:
  """Watches for SIGTERM: yields `step -> whether to leave`, the same on every process."""
  asked = []
  if jax.process_count() > 1:
    # After jax.distributed.initialize the signal is JAX's, and all processes leave at one step.
    yield checkpointer.reached_preemption
    return
  try:
    previous = signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
  except ValueError:  # not the main thread: the caller's own signals stay
    yield lambda step: False
    return
  try:
    yield lambda step: bool(asked)
  finally:
    signal.signal(signal.SIGTERM, previous)
