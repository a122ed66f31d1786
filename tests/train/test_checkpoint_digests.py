"""Every array of a checkpoint is what was saved, or the checkpoint is refused."""

import contextlib
import json
import random
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jax_robust.train import checkpoint
from jax_robust.train.checkpoint import CheckpointDamagedError, Checkpointer

INFO = {"value": 0.25, "metric": "robust"}


def make_state():
  """Arrays of every kind that a train state has."""
  rng = np.random.default_rng(0)
  return {
    "params": {f"w{i}": jnp.asarray(rng.normal(size=(20, 30)), jnp.float32) for i in range(3)},
    "half": jnp.asarray(rng.normal(size=50), jnp.bfloat16),
    "step": jnp.asarray(7, jnp.int32),
  }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """The folder of a checkpoint: look, don't touch."""
  folder = tmp_path_factory.mktemp("saved") / "kept"
  with contextlib.closing(Checkpointer(folder)) as writer:
    writer.save(1, make_state(), INFO)
  return folder


def restored(folder, like=None):
  """State and info of a checkpoint."""
  with contextlib.closing(Checkpointer(folder, read_only=True)) as reader:
    return reader.restore(make_state() if like is None else like)


def is_equal(state, info):
  """Whether they are what was saved."""
  pairs = zip(jax.tree.leaves(state), jax.tree.leaves(make_state()), strict=True)
  return info == INFO and all(
    a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs
  )


def largest(folder):
  """The largest file of a checkpoint, which holds the arrays."""
  files = (path for path in folder.rglob("*") if path.is_file())
  return max(files, key=lambda path: path.stat().st_size)


def count_outcomes(saved, folder, draw, count, choose):
  """Flips a bit so often, in a copy each time; how often that was noticed, or changed nothing."""
  outcomes = {"refused": 0, "harmless": 0}
  for _ in range(count):
    shutil.copytree(saved, folder)
    path = choose(folder)
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    began = time.monotonic()
    try:
      assert is_equal(*restored(folder)), f"{path} was changed and read all the same"
      outcomes["harmless"] += 1
    except (CheckpointDamagedError, checkpoint.CheckpointMismatchError) as error:
      assert str(folder) in str(error) and len(str(error)) < 3000
      outcomes["refused"] += 1
    assert time.monotonic() - began < 10
    shutil.rmtree(folder)
  return outcomes


@pytest.mark.parametrize("count", [12, pytest.param(150, marks=pytest.mark.slow)])
def test_a_flipped_bit_of_the_arrays_is_refused(saved, tmp_path, count):
  draw = random.Random(count)
  outcomes = count_outcomes(saved, tmp_path / "copy", draw, count, largest)
  assert outcomes["refused"] >= 0.9 * count  # the others are of bytes that hold nothing


@pytest.mark.parametrize("count", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_a_flipped_bit_anywhere_is_refused_or_harmless(saved, tmp_path, count):
  draw = random.Random(count)

  def choose(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return draw.choice(sorted(files))

  count_outcomes(saved, tmp_path / "copy", draw, count, choose)


@pytest.fixture
def copy(saved, tmp_path):
  """A copy of it."""
  return shutil.copytree(saved, tmp_path / "copy")


def change_json(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


@pytest.mark.parametrize(
  ("item", "change", "message"),
  [
    ("info", lambda info: info.update(value=0.5), "its info is not what its sha256 says"),
    ("digests", lambda each: each["arrays"].update({"step": "0" * 64}), "step is not what its sha"),
    ("digests", lambda each: each["arrays"].pop("half"), "can't be read: 'half'"),
    ("digests", lambda each: each.pop("arrays"), "can't be read: 'arrays'"),
  ],
)
def test_what_is_no_array_is_verified_too(copy, item, change, message):
  change_json(copy / "1" / item / "metadata", change)
  with pytest.raises(CheckpointDamagedError, match=message):
    restored(copy)


def test_reading_by_name_verifies_everything(copy):
  change_json(
    copy / "1/digests/metadata", lambda each: each["arrays"].update({"params/w1": "0" * 64})
  )
  with (
    contextlib.closing(Checkpointer(copy, read_only=True)) as reader,
    pytest.raises(CheckpointDamagedError, match=r"params/w1 is not .* \(1 of 5 arrays are"),
  ):
    reader.read(("step",))


def test_a_checkpoint_of_an_earlier_version_is_read_and_that_is_said_once(copy, capsys):
  shutil.rmtree(copy / "1" / "digests")
  with contextlib.closing(Checkpointer(copy)) as reader:
    for _ in range(2):
      state, info = reader.restore(make_state())
      assert is_equal(state, info)
    assert capsys.readouterr().err.count("an earlier version, which has no digests") == 1


@pytest.mark.parametrize("spec", [PartitionSpec(), PartitionSpec("data")])
def test_digests_hold_on_any_number_of_devices(tmp_path, spec):
  state = {"rows": jnp.asarray(np.random.default_rng(0).normal(size=(8, 5)), jnp.float32)}
  for count in (4, 1, 8, 2):
    mesh = jax.make_mesh((count,), ("data",), devices=jax.devices()[:count])
    placed = jax.device_put(state, NamedSharding(mesh, spec))
    with contextlib.closing(Checkpointer(tmp_path / "kept")) as kept:
      kept.save(count, placed)
      kept.wait()
      for step in kept._manager.all_steps():
        found, _ = kept.restore(placed, step=step)
        np.testing.assert_array_equal(found["rows"], state["rows"])
        assert found["rows"].sharding == placed["rows"].sharding


def test_another_type_is_verified_before_it_is_converted(saved):
  like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), make_state())
  state, _ = restored(saved, like)
  assert state["half"].dtype == np.float32 and state["step"] == 7
  np.testing.assert_array_equal(state["half"], make_state()["half"].astype(np.float32))
