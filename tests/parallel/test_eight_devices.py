"""Eight devices train as one does: the job's own update, in float64, on the same random numbers."""

import itertools

import jax
import pytest
import tiny_config
from mapped_problems import assert_same, in_float64

from jax_robust.errors import ConfigError
from jax_robust.runs import build, devices
from jax_robust.runs.training import make_training
from jax_robust.train import parallel

STEPS = 3
CONVOLUTION = {"name": "small_cnn", "channels": (4,), "strides": (3,)}
DENSE = {"name": "mlp", "hidden": (8,), "norm": True}


def make_config(model, **changes):
  """TRADES on batches of 32, in float64."""
  config = tiny_config.get_config()
  with config.unlocked(), config.ignore_type():
    config.batch.size = 32
    config.model = {**model, "dtype": "float64"}
    config.augment.dtype, config.attack.num_steps = "float64", 1
    for key, value in changes.items():
      block, _, name = key.rpartition("__")
      (config[block] if block else config)[name] = value
  return config


def train(config, mesh, initial, batches):
  """State and last metrics after three updates, on the devices of a mesh."""
  training = make_training(config, mesh=mesh)
  current = parallel.place_state(initial, training.mesh)
  for batch in batches:
    current, metrics = training.step_fn(current, parallel.shard_batch(batch, training.mesh))
  assert training.mesh.devices.size == len(current.step.sharding.device_set)
  return jax.device_get((current, metrics))


def assert_eight_are_one(modes, model, **changes):
  """Compares the modes on eight devices with one device, which sees the batch undivided."""
  with jax.enable_x64(True):
    undivided = make_config(model, **{**changes, "batch__microbatch": 0})
    one = parallel.data_mesh(1)
    training = make_training(undivided, mesh=one)
    initial = jax.device_get(in_float64(training.make_state()))
    batches = jax.device_get(list(itertools.islice(training.make_batches(0), STEPS)))
    expected = train(undivided, one, initial, batches)
    assert int(expected[0].step) == STEPS and expected[1]["finite"]
    for mode in modes:
      config = make_config(model, parallel=mode, **changes)
      assert_same(train(config, None, initial, batches), expected)


@pytest.mark.parametrize(
  "modes", [("shard_map",), pytest.param(("jit", "pmap"), marks=pytest.mark.slow)]
)
def test_whole_batch_statistics(modes):
  """By default in the mode that the other tests of this file leave out."""
  assert_eight_are_one(modes, CONVOLUTION)


@pytest.mark.thorough
def test_groups_microbatches_and_cutmix():
  """In the protocol of the 2019 paper, which updates the statistics in both passes."""
  assert_eight_are_one(
    ("jit", "pmap"),
    DENSE | {"bn_group_size": 2, "bn_debias": True},
    objective__attack_statistics="running",
    objective__clean_pass_updates=True,
    batch__microbatch=16,
    augment__cutmix=True,
    augment__group_size=4,
  )


@pytest.mark.thorough
def test_groups_wider_than_a_device():
  """The quickstart's groups of 64 on a machine with eight devices, in small."""
  assert_eight_are_one(("jit",), DENSE | {"bn_group_size": 16})


def test_mapped_modes_keep_groups_on_one_device(caplog):
  caplog.set_level("INFO", "jax_robust")
  config = make_config(DENSE | {"bn_group_size": 16}, parallel="pmap")
  mesh = devices.make_mesh(config, build.model(config, 10))
  assert mesh.devices.size == 2
  assert "32 rows, in groups of 16, can't be shared out evenly among 8 devices" in caplog.text
  assert "running on 2" in caplog.text


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
@pytest.mark.parametrize("group_size", [None, 8])
def test_mixing_across_devices_is_refused(mode, group_size):
  """CutMix over the whole batch would become CutMix over a device's rows, silently."""
  config = make_config(DENSE, parallel=mode, augment__cutmix=True, augment__group_size=group_size)
  net = build.model(config, 10)
  with pytest.raises(ConfigError, match=r"augment.group_size=.* 4 rows of a device"):
    devices.num_microbatches(config, net, devices.make_mesh(config, net))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"batch__microbatch": 12}, "batch.microbatch=12: expected a divisor of batch.size=32"),
    ({"batch__microbatch": 16}, "whole-batch BatchNorm would change its statistics"),
  ],
)
def test_microbatches_that_do_not_fit_are_refused(changes, message):
  config = make_config(DENSE, **changes)
  net = build.model(config, 10)
  with pytest.raises(ConfigError, match=message):
    devices.num_microbatches(config, net, devices.make_mesh(config, net))


def test_group_that_does_not_divide_the_batch_is_refused():
  config = make_config(DENSE | {"bn_group_size": 5}, parallel="pmap")
  with pytest.raises(ConfigError, match=r"model.bn_group_size=5: .*groups of 5 rows"):
    devices.make_mesh(config, build.model(config, 10))
