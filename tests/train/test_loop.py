"""The loop: its order, resuming, choosing the best, stopping on what is not finite, its clock."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows import mostly_slow

from jax_robust.train import checkpoint, loop, metrics
from jax_robust.train.state import TrainState

CADENCES = (3, 2, 2)  # evaluate, save, log, of 7 steps


class Crash(Exception):
  """Stands for a kill."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The folder of a run that nothing interrupts, by backend."""
  return functools.cache(lambda backend: tmp_path_factory.mktemp(f"whole_{backend}") / "run")


@pytest.mark.parametrize(
  ("backend", "ending"),
  mostly_slow(
    itertools.product(["resident", "tfdata"], ["asked", "crashed"]),
    ("resident", "asked"),
    ("tfdata", "crashed"),
  ),
)
def test_resume_is_bit_exact(start, left_behind, whole, tmp_path, backend, ending):
  reference = whole(backend)
  if not reference.exists():
    start(reference, backend=backend, schedule=CADENCES)
  expected = left_behind(reference)
  assert [row["step"] for row in expected["metrics"]] == [2, 3, 4, 6, 6, 7, 7]
  # Before the first step, and at an evaluation; the next test stops after every step. A reader of
  # TensorFlow's takes long to start: one stop stands for all.
  for stop in (0, 3) if backend == "resident" else (3,):
    folder = tmp_path / str(stop)

    def leave(step, stop=stop):
      if step == stop and ending == "crashed":
        raise Crash
      return step == stop

    if ending == "crashed":
      with pytest.raises(Crash):
        start(folder, backend=backend, schedule=CADENCES, leave=leave)
    else:
      outcome = start(folder, backend=backend, schedule=CADENCES, leave=leave)
      assert (outcome.step, outcome.preempted) == (stop, True)
    outcome = start(folder, backend=backend, schedule=CADENCES)
    assert (outcome.step, outcome.preempted) == (7, False)
    assert left_behind(folder) == expected


def test_resume_after_every_single_step(start, left_behind, whole, tmp_path):
  reference = whole("resident")
  if not reference.exists():
    start(reference, schedule=CADENCES)
  for stop in range(1, 7):
    assert start(
      tmp_path / "run", schedule=CADENCES, leave=lambda s, stop=stop: s == stop
    ).preempted
  start(tmp_path / "run", schedule=CADENCES)
  assert left_behind(tmp_path / "run") == left_behind(reference)


def test_a_finished_run_is_left_alone(start, left_behind, tmp_path):
  first = start(tmp_path / "run")
  before = left_behind(tmp_path / "run")

  def refuse(*_):
    raise AssertionError("there was nothing left to do")

  again = start(tmp_path / "run", step_fn=refuse, evaluate=refuse)
  assert (again.step, again.preempted, again.best) == (first.step, False, first.best)
  assert left_behind(tmp_path / "run") == before


class Folder:
  """A checkpoint folder in memory, which notes what is asked of it."""

  def __init__(self, name="", trace=None):
    self.name, self.trace, self.saved = name, [] if trace is None else trace, {}

  def latest_step(self):
    return max(self.saved, default=None)

  def save(self, step, state, info=None):
    self.trace.append(f"save {self.name} {step}")
    self.saved[step] = info

  def info(self):
    return self.saved[self.latest_step()]

  def wait(self):
    pass


def fake_run(
  trace=None, *, total=4, value_at=lambda step: 0.5, finite=lambda step: True, state=None, **changes
):
  """The loop on a state that only counts, in memory."""
  trace = [] if trace is None else trace

  def step_fn(state, batch):
    trace.append(f"update {batch}")
    new = int(state.step) + 1
    metrics_of_step = {"loss": jnp.asarray(1.0 / new), "finite": jnp.asarray(finite(new))}
    return state._replace(step=np.asarray(new)), metrics_of_step

  def batches(step):
    while True:
      trace.append(f"batch {step}")
      yield step
      step += 1

  class Writer:
    def write(self, step, kind, values):
      trace.append(f"write {kind} {step}")

  def measure(state):
    trace.append(f"evaluate {state.step}")
    return {"clean": value_at(int(state.step))}

  state = state or TrainState(np.asarray(0), {}, {}, {}, {}, {}, np.asarray([3, 5], np.uint32))
  arguments = {
    "step_fn": step_fn,
    "make_batches": batches,
    "evaluate": measure,
    "cadence": loop.Cadence(total, 2, 2, 2),
    "checkpoints": loop.Checkpoints(Folder("latest", trace), Folder("best", trace), "clean", "max"),
    "writer": Writer(),
    "batch_size": 10,
    "report": lambda line: None,
    **changes,
  }
  return loop.run(state, **arguments)


def test_the_order_is_the_contract():
  trace = []

  def leave(step):
    trace.append(f"leave {step}?")
    return False

  fake_run(trace, leave=leave)
  assert trace == [
    "leave 0?", "batch 0", "update 0", "leave 1?", "batch 1", "update 1", "write train 2",
    "evaluate 2", "write evaluate 2", "save best 2", "save latest 2",
    "leave 2?", "batch 2", "update 2", "leave 3?", "batch 3", "update 3", "write train 4",
    "evaluate 4", "write evaluate 4", "save latest 4",
  ]  # fmt: skip


def test_the_end_is_evaluated_logged_and_saved_whatever_the_cadence():
  trace = []
  fake_run(trace, total=3, cadence=loop.Cadence(3, 0, 0, 0))
  assert trace[-5:] == [
    "write train 3", "evaluate 3", "write evaluate 3", "save best 3", "save latest 3",
  ]  # fmt: skip
  assert sum(item.startswith(("evaluate", "save")) for item in trace) == 3


@pytest.mark.parametrize(
  "mode, values, best",
  [
    ("max", {2: 0.1, 4: 0.4, 6: 0.4, 8: 0.2}, 4),
    ("min", {2: 0.3, 4: 0.2, 6: 0.5, 8: 0.2}, 4),
    ("max", {2: 0.1, 4: float("nan"), 6: 0.4, 8: 0.2}, 6),
  ],
)
def test_the_best_is_the_first_of_the_extreme_values(mode, values, best):
  checkpoints = loop.Checkpoints(Folder(), Folder(), "clean", mode)
  outcome = fake_run(total=8, value_at=values.get, checkpoints=checkpoints)
  assert outcome.best == {"step": best, "metric": "clean", "value": values[best]}


def test_an_unknown_metric_is_named_with_those_there_are():
  checkpoints = loop.Checkpoints(Folder(), Folder(), "clear", "max")
  with pytest.raises(ValueError, match=r"'clear'.*\['clean'\]"):
    fake_run(checkpoints=checkpoints)


@pytest.mark.parametrize("bad", [3, 4])
def test_non_finite_stops(bad):
  trace = []
  with pytest.raises(loop.NonFiniteError) as caught:
    fake_run(trace, total=8, finite=lambda step: step < bad)
  message = str(caught.value)
  assert f"update {bad} " in message
  assert "the last good one is of step 2" in message
  assert f"[3, 5], and step {bad - 1}" in message
  assert [item for item in trace if item.startswith(("save", "write"))] == [
    "write train 2", "write evaluate 2", "save best 2", "save latest 2",
  ]  # fmt: skip


def test_non_finite_stops_before_the_state_is_saved_on_leaving():
  trace = []
  with pytest.raises(loop.NonFiniteError, match=r"update 3 "):
    fake_run(trace, total=8, finite=lambda step: step < 3, leave=lambda step: step == 3)
  assert "save latest 3" not in trace


def test_non_finite_from_the_start_says_that_there_is_no_checkpoint():
  with pytest.raises(loop.NonFiniteError, match=r"update 1 .*there is no checkpoint yet"):
    fake_run(finite=lambda step: False)


def test_a_nan_image_stops_a_real_update(start, problem, left_behind, tmp_path):
  base = problem("resident")

  def poisoned(state, batch):
    poison = jnp.where(state.step == 4, jnp.nan, 1.0)
    params = jax.tree.map(lambda leaf: leaf * poison, state.params)
    return base.step_fn(state._replace(params=params), batch)

  with pytest.raises(loop.NonFiniteError, match=r"update 5 .*last good one is of step 4"):
    start(tmp_path / "run", step_fn=poisoned)
  start(tmp_path / "run")
  start(tmp_path / "whole")
  assert left_behind(tmp_path / "run") == left_behind(tmp_path / "whole")


class Clock:
  """A clock that only moves when it is told to."""

  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock(monkeypatch):
  """The clock of the loop's progress."""
  clock = Clock()
  monkeypatch.setattr(metrics, "Pace", functools.partial(metrics.Pace, clock=clock))
  return clock


class Rows:
  """A writer that keeps the rows of training."""

  def __init__(self):
    self.rows = {}

  def write(self, step, kind, values):
    if kind == "train":
      self.rows[step] = values


def test_the_rate_counts_updates_only(clock):
  def step_fn(state, batch):
    step = int(state.step) + 1
    clock.now += 100.0 if step == 1 else 2.0  # the first call compiles
    return state._replace(step=np.asarray(step)), {"finite": jnp.asarray(True)}

  def evaluate(state):
    clock.now += 1000.0
    return {"clean": 0.0}

  class SlowFolder(Folder):
    def save(self, step, state, info=None):
      clock.now += 500.0
      super().save(step, state, info)

  writer = Rows()
  fake_run(
    total=8,
    step_fn=step_fn,
    writer=writer,
    cadence=loop.Cadence(8, 2, 1, 4),
    checkpoints=loop.Checkpoints(SlowFolder(), SlowFolder(), "clean", "max"),
    evaluate=evaluate,
  )
  # 4 updates of 10 images in 6 s (the first is not timed), then 4 in 8 s.
  assert writer.rows[4]["time/images_per_second"] == pytest.approx(40 / 6)
  assert writer.rows[8]["time/images_per_second"] == pytest.approx(5.0)
  assert writer.rows[4]["time/eta_seconds"] == pytest.approx(6.0)
  assert writer.rows[8]["time/eta_seconds"] == 0.0


@pytest.mark.parametrize("busy, share", [(False, 0.25), (True, 0.0)])
def test_waiting_counts_only_while_the_devices_idle(clock, busy, share):
  class Flag:
    def is_ready(self):
      return not busy

    def block_until_ready(self):
      pass

    def __bool__(self):
      return True

  def batches(step):
    while True:
      clock.now += 1.0
      yield step

  def step_fn(state, batch):
    clock.now += 3.0
    return state._replace(step=np.asarray(int(state.step) + 1)), {"finite": Flag()}

  writer = Rows()
  fake_run(
    total=9,
    step_fn=step_fn,
    make_batches=batches,
    writer=writer,
    cadence=loop.Cadence(9, 0, 0, 3),
  )
  # After a check nothing is in flight, so one batch in three is waited for whatever `busy` says.
  assert writer.rows[6]["time/data_wait_share"] == pytest.approx(share or 1 / 12)


def test_a_failing_evaluation_leaves_the_checkpoints_usable(start, left_behind, tmp_path):
  def fail(state):
    raise Crash

  with pytest.raises(Crash):
    start(tmp_path / "run", evaluate=fail)
  assert checkpoint.Checkpointer(tmp_path / "run" / "latest", read_only=True).latest_step() == 2
  start(tmp_path / "run")
  start(tmp_path / "whole")
  assert left_behind(tmp_path / "run") == left_behind(tmp_path / "whole")


@pytest.mark.parametrize(("backend", "expected"), [("cpu", 1), ("gpu", 2)])
def test_few_updates_are_under_way(start, problem, tmp_path, monkeypatch, backend, expected):
  """Queues of many made XLA's CPU devices wait for one another until the process was ended."""
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  under_way, most = set(), 0

  class Flag:
    """What says whether an update was finite; asking it waits for the update."""

    def __init__(self, value):
      self.value = value
      under_way.add(self)

    def is_ready(self):
      return self not in under_way

    def block_until_ready(self):
      under_way.discard(self)

    def __bool__(self):
      self.block_until_ready()
      return bool(self.value)

  def step_fn(state, batch):
    nonlocal most
    state, values = problem("resident").step_fn(state, batch)
    values = values | {"finite": Flag(values["finite"])}
    most = max(most, len(under_way))
    return state, values

  start(tmp_path / "run", schedule=(0, 0, 0), step_fn=step_fn)
  assert most == expected and not under_way
