"""FGSM training of a multi-exit net from interleaved shards, really killed and resumed.

A tiny MSDNet from the tf.data pipeline, half of each batch original and half generated images.
"""

import random
import signal

import numpy as np
import pytest

from jax_robust.data.shard_writer import write_shards
from jax_robust.data.sources import array_source
from jax_robust.train import checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
  """The command line of the run, but for its workdir."""
  folder = tmp_path_factory.mktemp("generated") / "shards"
  draw = np.random.default_rng(0)
  images = draw.integers(0, 256, (96, 12, 12, 3), np.uint8)
  samples = array_source(images, np.arange(96) % 10, num_classes=10, name="made")
  write_shards(folder, samples, generator="noise", licence="CC0", seed=0, num_shards=4)
  return [
    "--config=fast_training:method=multi_exit,start=zero,share=0.5,smoke",
    f"--config.generated.path={folder}", "--config.batch.size=8", "--config.total_steps=40",
    "--config.save_steps=4", "--config.evaluate_steps=20", "--config.log_steps=2",
    "--config.trackers=",
  ]  # fmt: skip


def newest(folder):
  """The step of the newest checkpoint."""
  reader = checkpoint.Checkpointer(folder / "checkpoints" / "latest", read_only=True)
  step = reader.latest_step()
  reader.close()
  return step


def test_killed_and_resumed_it_ends_bit_equal(command, flags, left_behind, tmp_path):
  whole = command([*flags, f"--workdir={tmp_path / 'whole'}"])
  assert whole.code == 0, whole.printed
  draw, folder, steps = random.Random(0), tmp_path / "run", []
  for _ in range(4):
    end = (signal.SIGKILL, "save", 2, draw.uniform(0.0, 0.06))
    assert command([*flags, f"--workdir={folder}"], end).code == -signal.SIGKILL
    steps.append(newest(folder))
  assert len(set(steps)) > 1, steps
  resumed = command([*flags, f"--workdir={folder}"])
  assert resumed.code == 0, resumed.printed
  found, expected = left_behind(folder), left_behind(tmp_path / "whole")
  names = [name for name in expected["latest"][2] if name.startswith("params/")]
  assert any("exit_0/logits/kernel" in name for name in names)
  assert any("exit_1/logits/kernel" in name for name in names)
  assert found == expected
