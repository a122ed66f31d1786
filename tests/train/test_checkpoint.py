"""Checkpoints: round trips, what does not fit, a full disk, damaged files, readers."""

import contextlib
import os
import pathlib
import resource
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jax_robust.train import checkpoint
from jax_robust.train.checkpoint import Checkpointer


@pytest.fixture
def opened(tmp_path):
  """`opened(**options)`: checkpointers of one folder, closed in the end."""
  with contextlib.ExitStack() as stack:

    def make(**options):
      return stack.enter_context(contextlib.closing(Checkpointer(tmp_path / "kept", **options)))

    yield make


def tree(value=0.0):
  return {
    "params": {"dense": {"kernel": jnp.full((40, 50), value), "bias": jnp.arange(3.0)}},
    "opt_state": (jnp.asarray(7, jnp.int32), {"trace": jnp.full((2, 2), value, jnp.bfloat16)}),
    "rng": jax.random.key_data(jax.random.key(3)),
  }


def assert_equal(left, right):
  assert jax.tree.structure(left) == jax.tree.structure(right)
  for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_state_comes_back_with_names_types_and_info(opened):
  kept = opened()
  kept.save(3, tree(0.5), {"value": 0.25})
  kept.wait()
  restored, info = kept.restore(jax.tree.map(jnp.zeros_like, tree()))
  assert_equal(restored, tree(0.5))
  assert info == {"value": 0.25} == kept.info()
  arrays, _ = kept.read(("opt_state",))
  assert sorted(arrays) == ["opt_state/0", "opt_state/1/trace"]
  assert_equal(checkpoint.unflatten(checkpoint.flatten(tree(2.0)), tree()), tree(2.0))


def test_a_state_returns_to_the_devices_of_the_one_it_replaces(opened):
  mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
  placed = NamedSharding(mesh, PartitionSpec())
  kept = opened()
  kept.save(1, tree(1.0))
  kept.wait()
  restored, _ = kept.restore(jax.device_put(tree(), placed))
  assert {leaf.sharding for leaf in jax.tree.leaves(restored)} == {placed}
  assert_equal(restored, tree(1.0))


def test_a_state_may_be_overwritten_as_soon_as_save_returns(opened):
  kept = opened()
  bump = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
  state = {f"w{i}": jnp.zeros((300, 301)) for i in range(8)}
  for step in range(4):
    kept.save(step, state)
    for _ in range(3):
      state = bump(state)
  kept.wait()
  for step in range(4):
    restored, _ = kept.restore(state, step=step)
    assert {float(x) for leaf in restored.values() for x in (leaf.min(), leaf.max())} == {
      3.0 * step
    }


def test_only_the_newest_are_kept_and_a_step_is_saved_once(opened):
  kept = opened(max_to_keep=2)
  for step in (1, 2, 5):
    kept.save(step, tree(float(step)))
  kept.save(5, tree(9.0))
  kept.wait()
  assert kept.latest_step() == 5
  assert_equal(kept.restore(tree())[0], tree(5.0))
  with pytest.raises(FileNotFoundError, match=r"of step 1 in .*its steps are \[2, 5\]"):
    kept.restore(tree(), step=1)


def test_an_empty_folder_says_so(opened):
  with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*its steps are \[\]"):
    opened().restore(tree())
  assert opened().latest_step() is None


def test_what_does_not_fit_is_named_with_its_shape(opened):
  kept = opened()
  kept.save(2, tree())
  kept.wait()
  other = tree()
  other["params"] = {"dense": {"kernel": jnp.zeros((40, 51))}, "extra": jnp.zeros(4)}
  with pytest.raises(checkpoint.CheckpointMismatchError) as caught:
    kept.restore(other)
  message = str(caught.value)
  assert "step 2" in message and str(pathlib.Path("kept")) in message
  assert "params/dense/kernel: (40, 50) in the checkpoint, (40, 51) in the model" in message
  assert "params/dense/bias: (3,) in the checkpoint, unknown to the model" in message
  assert "params/extra: missing from the checkpoint, the model has (4,)" in message
  assert "opt_state" not in message


def test_a_long_list_of_differences_is_cut():
  lines = checkpoint.differences({f"a{i}": (1,) for i in range(30)}, {})
  assert len(lines) == 21 and lines[-1] == "and 10 more"


@contextlib.contextmanager
def small_files(folder):
  """No file may grow beyond 2 kB: what a quota does, and root may do to itself."""
  del folder
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def full_disk(folder):
  """All of the disk is taken by somebody else."""
  filler = folder / "filler"
  with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
    while True:
      file.write(bytes(1 << 12))
  try:
    yield
  finally:
    filler.unlink()


@pytest.fixture
def disk(tmp_path):
  """A disk of 1 MB."""
  place = tmp_path / "disk"
  place.mkdir()
  command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
  try:
    mounted = subprocess.run(command, capture_output=True).returncode == 0
  except FileNotFoundError:
    mounted = False
  if not mounted:
    pytest.skip("mounting a disk of its own needs root")
  yield place
  subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("limit", [small_files, full_disk])
@pytest.mark.parametrize("when", ["wait", "next save"])
def test_a_full_disk_is_an_error_and_loses_nothing(request, tmp_path, limit, when):
  folder = request.getfixturevalue("disk") if limit is full_disk else tmp_path
  rng = np.random.default_rng(0)
  states = [{"w": jnp.asarray(rng.normal(size=(50, 60)))} for _ in range(4)]
  kept = Checkpointer(folder / "kept", max_to_keep=2)
  kept.save(1, states[1])
  kept.wait()
  with limit(folder):
    with pytest.raises(checkpoint.CheckpointWriteError) as caught:
      kept.save(2, states[2])
      if when == "wait":
        kept.wait()
      else:
        kept.save(3, states[3])
    with contextlib.suppress(checkpoint.CheckpointWriteError):
      kept.close()
  message = str(caught.value)
  assert str(folder / "kept") in message
  assert "the one of step 1 is untouched" in message
  assert "free space and start the same command again" in message
  again = Checkpointer(folder / "kept", max_to_keep=2)
  assert again.latest_step() == 1
  assert_equal(again.restore(states[0])[0], states[1])
  again.save(2, states[2])
  again.wait()
  assert_equal(again.restore(states[0])[0], states[2])
  assert sorted(os.listdir(folder / "kept")) == ["1", "2"]
  again.close()


def _truncate(folder):
  files = (path for path in folder.rglob("*") if path.is_file())
  largest = max(files, key=lambda path: path.stat().st_size)
  os.truncate(largest, largest.stat().st_size // 2)


@pytest.mark.parametrize(
  "damage",
  [_truncate, lambda folder: shutil.rmtree(folder / "state")],
  ids=["truncated", "array files gone"],
)
def test_a_damaged_checkpoint_is_named_with_the_way_out(opened, tmp_path, damage):
  kept = opened()
  state = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(50, 60)))}
  for step in (1, 2):
    kept.save(step, state)
  kept.wait()
  damage(tmp_path / "kept" / "2")
  again = opened()
  with pytest.raises(checkpoint.CheckpointDamagedError, match=r"kept/2 can't .* on from step 1$"):
    again.restore(state)
  with pytest.raises(checkpoint.CheckpointDamagedError, match=r"on from step 1$"):
    again.read(("w",))
  shutil.rmtree(tmp_path / "kept" / "2")
  assert_equal(opened().restore(state)[0], state)


def test_a_reader_leaves_the_folder_of_a_running_job_alone(opened, tmp_path):
  writer = opened()
  writer.save(1, tree(1.0))
  writer.wait()
  being_written = tmp_path / "kept" / "2.orbax-checkpoint-tmp"
  being_written.mkdir()
  reader = opened(read_only=True)
  assert reader.latest_step() == 1
  reader.read(("params",))
  reader.close()
  assert being_written.exists()
  with (
    pytest.raises(FileNotFoundError),
    contextlib.closing(Checkpointer(tmp_path / "nowhere", read_only=True)) as reader,
  ):
    reader.read(("params",))
  assert not (tmp_path / "nowhere").exists()
