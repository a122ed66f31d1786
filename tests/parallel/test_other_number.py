"""A run that goes on with another number of devices ends where an undisturbed one does."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pair_config
import pytest
from pair_process import ARGUMENT, PATIENCE, STEPS
from quick_compilation import XLA_FLAGS

from jax_robust.train import checkpoint

LARGEST_DEVIATION = 4e-6  # relative to the largest entry of an array


@pytest.fixture
def start(tmp_path):
  """`start(name, num_devices)` starts a run in a process of its own, or one that resumes."""
  processes = []

  def start(name, num_devices):
    environment = os.environ | {
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices} {XLA_FLAGS}",
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-m", "jax_robust.main", f"--workdir={tmp_path / name}"]
    command += [f"--config={pair_config.__file__}:{ARGUMENT}"]
    processes.append(
      subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
      )
    )
    return processes[-1]

  yield start
  for process in processes:
    process.kill()
    process.communicate()


def stop(process, folder, number, num_rows):
  """Sends a signal as soon as so many rows of metrics are written; the exit code and the output."""
  path, end = folder / "metrics.jsonl", time.monotonic() + PATIENCE
  while not path.exists() or len(path.read_text().splitlines()) < num_rows:
    assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
    time.sleep(0.005)
  process.send_signal(number)
  printed, _ = process.communicate(timeout=PATIENCE)
  return process.returncode, printed


def finish(process):
  """What a process that ends well has printed."""
  printed, _ = process.communicate(timeout=PATIENCE)
  assert process.returncode == 0, printed
  return printed


def parameters_of(folder):
  """The parameters of the newest checkpoint."""
  reader = checkpoint.Checkpointer(folder / "checkpoints" / "latest", read_only=True)
  arrays, _ = reader.read(("params", "step"))
  reader.close()
  assert int(arrays.pop("step")) == STEPS
  return arrays


def deviation(ours, theirs):
  """The largest, relative to the largest entry of its array."""
  assert ours.keys() == theirs.keys()
  return max(
    np.max(np.abs(ours[name] - array)) / np.max(np.abs(array)) for name, array in theirs.items()
  )


@pytest.mark.slow
def test_one_device_then_four_then_two(start, tmp_path):
  """Asked to stop on one device, killed on four, finished on two."""
  moved, whole = tmp_path / "moved", tmp_path / "whole"
  code, printed = stop(start("moved", 1), moved, signal.SIGTERM, 1)
  assert code == 143, printed
  code, printed = stop(start("moved", 4), moved, signal.SIGKILL, 4)
  assert code == -signal.SIGKILL and "resuming from step" in printed
  assert "resuming from step" in finish(start("moved", 2))
  assert "resuming" not in finish(start("whole", 1))
  largest = deviation(parameters_of(moved), parameters_of(whole))
  print(f"largest deviation {largest:.1e}")
  assert 0 < largest <= LARGEST_DEVIATION, "0: the devices were the same"
