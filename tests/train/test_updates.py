"""Updates that are more than one gradient: their carry, their steps, the devices, a resume."""

import functools
import itertools
import signal

import jax
import numpy as np
import optax
import pytest
import toy_update
from rows import mostly_slow, mostly_thorough

from jax_robust import jobs, objectives
from jax_robust.errors import ConfigError
from jax_robust.runs.training import make_optimizer, make_training
from jax_robust.train import checkpoint, optim, parallel, state

STEPS = 3
UPDATES = {
  "toy": {"sigma": 0.05},
  "free": {"eps": 0.05, "num_replays": 2, "step_size": 0.02},
}
"""The toy, which has all that the contract allows, and every update that ships; their options."""

every_update = pytest.mark.parametrize("name", UPDATES)


@pytest.fixture(autouse=True)
def known(monkeypatch):
  """The toy stands in the table during these tests."""
  monkeypatch.setitem(objectives.UPDATES, "toy", toy_update.TOY)


def make_config(arg="", **changes):
  config = toy_update.get_config(arg)
  with config.ignore_type():
    for key, value in changes.items():
      block, _, name = key.rpartition("__")
      (config[block] if block else config)[name] = value
  return config


def test_every_update_is_under_test():
  assert UPDATES.keys() == objectives.UPDATES.keys()


def objective(name):
  """The block of a config."""
  return {"name": name, **UPDATES[name]}


def run(name, mode, count):
  """The state after three batches on so many devices, from the same start and batches."""
  config = make_config(
    objective=objective(name), parallel=mode, model__dtype="float64", augment__dtype="float64"
  )
  training = make_training(config, mesh=parallel.data_mesh(8, devices=jax.devices()[:count]))
  current = training.make_state()
  for batch in itertools.islice(training.make_batches(0), STEPS):
    current, metrics = training.step_fn(current, batch)
  assert len(current.carry["rows"]["delta"].addressable_shards) == count
  return jax.device_get((current, metrics))


@functools.cache
def alone(name):
  with jax.enable_x64(True):
    return run(name, "jit", 1)


@pytest.mark.parametrize(
  ("name", "mode"),
  mostly_slow(
    itertools.product(UPDATES, parallel.MODES),
    ("toy", "shard_map"),
    thorough=[("toy", "jit"), ("free", "pmap")],
  ),
)
def test_same_on_four_devices(name, mode):
  """Rows and shared parts of the carry, weights and metrics."""
  with jax.enable_x64(True):
    (found, metrics), (expected, expected_metrics) = run(name, mode, 4), alone(name)
  assert found.carry["rows"]["delta"].shape == (8, 12, 12, 3)
  assert int(found.carry.get("count", 2 * STEPS)) == 2 * STEPS and int(found.step) == STEPS
  moved = np.abs(expected.carry["rows"]["delta"]).reshape(8, -1).max(1)
  assert np.all(moved > 0.01), "every row has its own perturbation"
  for one, other in zip(
    jax.tree.leaves((found, metrics)), jax.tree.leaves((expected, expected_metrics)), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * max(1e-3, np.abs(other).max()))


def test_the_schedule_counts_batches():
  config = make_config()
  rate = make_optimizer(config, make_training(config).sets.train)
  plain = optim.make_optimizer(optax.linear_schedule(0.0, 1.0, 10), momentum=0.0, weight_decay=0.0)
  double = optim.make_optimizer(
    optax.linear_schedule(0.0, 1.0, 10), momentum=0.0, weight_decay=0.0, updates_per_batch=2
  )

  def lengths(optimizer, num_steps):
    opt_state, found = optimizer.init(np.float32(1)), []
    for _ in range(num_steps):
      update, opt_state = optimizer.update(np.float32(-1), opt_state, np.float32(1))
      found.append(float(update))
    return found

  once = lengths(plain, 4)
  assert lengths(double, 8) == [length for length in once for _ in range(2)]
  assert rate.init({"w": np.zeros(2, np.float32)})


@every_update
def test_micro_batches_are_refused(name):
  config = make_config(batch__microbatch=4, objective=objective(name))
  with pytest.raises(ConfigError, match=f"batch.microbatch=4: objective '{name}' makes"):
    make_training(config, mesh=parallel.data_mesh(4))


def test_options_of_an_update_are_checked():
  with pytest.raises(ConfigError, match=r"'objective.sgima': did you mean 'sigma'"):
    make_training(make_config(objective={"name": "toy", "sgima": 1.0}))


def left_in(folder):
  """All arrays of the newest checkpoint."""
  reader = checkpoint.Checkpointer(folder / "checkpoints" / "latest", read_only=True)
  arrays, _ = reader.read(state.TrainState._fields)
  reader.close()
  return {name: array.tobytes() for name, array in arrays.items()}


class Killed(Exception):
  """Stands for a kill."""


RUN = "steps=5,save=2,evaluate=0,log=1"


@pytest.fixture(scope="module", params=mostly_thorough(UPDATES, "toy"))
def config(request):
  """A run by an update."""
  return make_config(RUN, objective=objective(request.param))


@pytest.fixture(scope="module")
def ready(config):
  """Its training, compiled once."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(objectives.UPDATES, "toy", toy_update.TOY)
    return make_training(config)


@pytest.fixture(scope="module")
def whole(config, ready, tmp_path_factory):
  """What is left by a run that nothing stopped."""
  folder = tmp_path_factory.mktemp("updates") / "whole"
  jobs.run(config, str(folder), training=ready)
  return left_in(folder)


@pytest.mark.parametrize("end", mostly_slow(["asked", "killed"], "killed"))
def test_stopped_and_resumed_it_ends_bit_equal(config, ready, whole, tmp_path, end):
  seen = []

  def step_fn(current, batch):
    seen.append(int(current.step))
    if len(seen) == 4:
      if end == "killed":
        raise Killed
      signal.raise_signal(signal.SIGTERM)
    return ready.step_fn(current, batch)

  folder = tmp_path / "run"
  interrupted = ready._replace(step_fn=step_fn)
  if end == "killed":
    with pytest.raises(Killed):
      jobs.run(config, str(folder), training=interrupted)
  else:
    assert jobs.run(config, str(folder), training=interrupted)["preempted"]
  assert jobs.run(config, str(folder), training=ready)["step"] == 5
  found = left_in(folder)
  assert "carry/rows/delta" in found
  assert found == whole
  assert ready.step_fn._cache_size() == 1, "compiled once, for all starts and resumes"


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda s, m: (s._replace(step=s.step + 3), m), r"moved state.step from 0 to 4: expected 1"),
    (lambda s, m: (s, {"loss": m["loss"]}), r"metrics \['loss'\] have no 'finite'"),
  ],
)
def test_an_update_that_breaks_the_contract_is_refused(config, ready, tmp_path, change, message):
  broken = ready._replace(step_fn=lambda *args: change(*ready.step_fn(*args)))
  with pytest.raises(ValueError, match=message):
    jobs.run(config, str(tmp_path), training=broken)
