"""Files that are larger than memory become shards in constant memory."""

import os
import subprocess
import sys

import pytest

IMPORT = """
import sys, numpy as np
from jax_robust.data import convert
kind, root, small, large = sys.argv[1], sys.argv[2], 2_000, 60_000
rng = np.random.default_rng(0)

def write(folder, num):
  folder = f"{root}/{folder}"
  import os; os.mkdir(folder)
  images = rng.integers(0, 256, (num, 32, 32, 3), np.uint8)
  labels = np.sort(np.arange(num) % 10)
  if kind == "hdf5":
    import h5py
    with h5py.File(f"{folder}/set.h5", "w") as file:
      file.create_dataset("image", data=images, chunks=(500, 32, 32, 3), compression="lzf")
      file.create_dataset("label", data=labels)
    return f"{folder}/set.h5"
  save = np.savez_compressed if kind == "deflated" else np.savez
  num_parts = 3 if kind == "parts" else 1
  for part in range(num_parts):
    rows = slice(part * num // num_parts, (part + 1) * num // num_parts)
    save(f"{folder}/part{part}.npz", image=images[rows], label=labels[rows])
  return folder

def anonymous():
  with open("/proc/self/smaps_rollup") as stream:
    return next(int(line.split()[1]) for line in stream if line.startswith("Anonymous:"))

paths = [write(f"{kind}{run}", num) for run, num in enumerate((small, small, large))]
for run, path in enumerate(paths):  # the first one also pays for the imports
  seen = []
  convert.make_shards(path, f"{root}/shards{run}", progress_fn=lambda *_: seen.append(anonymous()))
  print(max(seen))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux's smaps")
@pytest.mark.parametrize("kind", ["stored", "deflated", "parts", "hdf5"])
def test_constant_memory(tmp_path, kind):
  """For 184 MB of images in place of 6 MB, no more memory than 8 bytes a sample and some blocks."""
  if kind == "hdf5":
    pytest.importorskip("h5py")
  command = [sys.executable, "-c", IMPORT, kind, str(tmp_path)]
  run = subprocess.run(command, capture_output=True, text=True, check=True)
  _, small, large = (int(line) * 1024 for line in run.stdout.split())
  assert large - small < 12e6, f"anonymous memory grew by {(large - small) / 1e6:.1f} MB"
