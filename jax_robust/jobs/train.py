"""The training job: a config's data, net and objective, put through the loop."""

import contextlib
import functools
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jax_robust.data import evaluation
from jax_robust.errors import ConfigError
from jax_robust.evaluate import intervals, scoring
from jax_robust.runs import build, check, devices, workdir
from jax_robust.train import checkpoint, loop, metrics, parallel, state


def train(config: Any, folder: str) -> dict[str, Any]:
  """Trains a net, or goes on where the workdir stands; evaluates it on held-out images."""
  check.check(config)
  with workdir.claimed(folder) as path:
    workdir.write_identity(path, config)
    outcome = _train(config, path)
    result = {
      "step": outcome.step,
      "preempted": outcome.preempted,
      "best": dict(outcome.best),
    }
    if not outcome.preempted:
      workdir.write_result(path, "train", result)
    return result


@contextlib.contextmanager
def open_checkpoints(config, path: pathlib.Path) -> Iterator[loop.Checkpoints]:
  """The two checkpoint folders of a workdir; pending saves are awaited in the end."""
  metric, mode = config.select
  with contextlib.ExitStack() as stack:
    latest, best = (
      stack.enter_context(
        contextlib.closing(
          checkpoint.Checkpointer(path / "checkpoints" / kind, max_to_keep=max_to_keep)
        )
      )
      for kind, max_to_keep in ((checkpoint.LATEST, 2), (checkpoint.BEST, 1))
    )
    yield loop.Checkpoints(latest, best, metric, mode)


def _train(config, path: pathlib.Path) -> loop.Outcome:
  """Builds everything, restores what there is, and runs the loop."""
  sets = build.data(config)
  schedule = loop.Schedule(
    **{
      stem: build.duration(config, stem, sets.train)
      for stem in ("total", "evaluate", "save", "log")
    }
  )
  if not schedule.total:
    raise ConfigError("the run has no step: set --config.total_steps (or _epochs, or _examples)")
  net = build.model(config, sets.train.num_classes)
  mesh = devices.make_mesh(config, net)
  step_fn = build.make_step(config, net, sets, mesh)
  with contextlib.ExitStack() as stack:
    checkpoints = stack.enter_context(open_checkpoints(config, path))
    initial = _initial_state(config, net, sets, mesh, checkpoints.latest)
    first_process = jax.process_index() == 0
    writer = metrics.NullWriter()
    if first_process:
      writer = metrics.MetricsWriter(
        path, resume_step=int(initial.step), tensorboard=config.tensorboard
      )
    stack.enter_context(contextlib.closing(writer))
    return loop.run(
      initial,
      step_fn=step_fn,
      make_batches=build.train_batches(config, sets, mesh),
      evaluate=make_evaluate(config, net, sets.heldout),
      schedule=schedule,
      checkpoints=checkpoints,
      writer=writer,
      batch_size=config.batch.size,
      leave=stack.enter_context(preemption(checkpoints.latest)),
      report=metrics.report if first_process else lambda line: None,
    )


def _initial_state(config, net, sets, mesh, latest: checkpoint.Checkpointer) -> state.TrainState:
  """The newest state of the workdir, or else the config's, on the devices of the mesh."""
  if latest.latest_step() is None:
    fresh = build.initial_state(config, net, sets, init_from=config.init_from)
    return parallel.replicate(fresh, mesh)
  restored, _ = latest.restore(parallel.replicate(build.initial_state(config, net, sets), mesh))
  metrics.report(f"resuming from step {int(restored.step)}")
  return restored


def make_evaluate(config, net, source) -> Callable[[state.TrainState], dict[str, float]]:
  """`state -> {'clean', 'robust'}` of the averaged parameters, and 'noisy' with smoothing."""
  batch_size = parallel.padded_batch_size(config.evaluation.batch_size, source.num_examples)
  mesh = parallel.data_mesh(batch_size)
  scorer = make_scorer(config, net, mesh)
  names = [name for name in intervals.FLAGS if name != "noisy" or config.smoothing.sigma]
  eps = config.evaluation.attack.eps
  rng = jax.random.key_data(jax.random.key(config.seed))

  def evaluate(current: state.TrainState) -> dict[str, float]:
    weights = parallel.replicate(
      scoring.Weights(current.ema, current.model_state, jax.numpy.asarray(eps), rng), mesh
    )
    flags = scoring.score(
      scorer,
      weights,
      evaluation.eval_batches(source, batch_size=batch_size, process=process_shard()),
      place=functools.partial(parallel.shard_batch, mesh=mesh),
      names=names,
    )
    summary = intervals.summarise(flags)
    return {name: summary[name] for name in names}

  return evaluate


def make_scorer(config, net, mesh) -> Callable:
  """The compiled scorer of a config's evaluation attack, with the radius left open."""
  options = build.block(config.evaluation, "attack")
  apply_fn = state.make_apply_fn(net)
  body = scoring.make_scorer(
    apply_fn,
    lambda eps: build.attack(options, eps=eps),
    precision=config.evaluation.precision,
    sigma=config.smoothing.sigma,
  )
  return parallel.map_step(lambda axis_name: body, mesh, mode=config.parallel, per_row=True)


def process_shard() -> tuple[int, int]:
  """This process and how many there are."""
  return jax.process_index(), jax.process_count()


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
