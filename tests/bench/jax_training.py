"""Our side of a benchmark of training steps: a batch, compilation, and the steps."""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from side_process import tell, timed

from jax_robust.train import parallel


def prepare(raw, key):
  """Images in [0, 1] and one-hot targets; augmentation is not what is timed."""
  del key
  image = raw["image"].astype(jnp.float32) / 255
  target = jax.nn.one_hot(raw["label"], 10)
  return {"image": image, "target": target, "label": raw["label"], "row": raw["row"]}


def random_batch(size, shape):
  """What a pipeline would give: uint8 images `[size, *shape]`, labels and rows."""
  rng = np.random.default_rng(0)
  return {
    "image": rng.integers(0, 256, (size, *shape), dtype=np.uint8),
    "label": rng.integers(0, 10, size, dtype=np.int32),
    "row": np.arange(size, dtype=np.int32),
  }


def serve(update, state, raw, *, repeat=1):
  """Compiles, warms up and says so, then does `repeat` steps for every line on stdin.

  Each is waited for, as the loop waits on a CPU and as the other side does by reading its loss.
  """
  mesh = parallel.data_mesh(len(raw["row"]))  # JAX_NUM_CPU_DEVICES: as many as main makes
  state, raw = parallel.replicate(state, mesh), parallel.shard_batch(raw, mesh)
  start = time.perf_counter()
  mapped = parallel.map_step(lambda axis_name: update, mesh, mode="jit", donate=True)
  lowered = mapped.lower(state, raw)
  step = lowered.compile()
  compile_seconds = time.perf_counter() - start

  def work():
    nonlocal state
    state, metrics = step(state, raw)
    return {"loss": float(jax.block_until_ready((state, metrics))[1]["loss"])}

  tell(
    **timed(work),
    what=f"jax {jax.__version__}, {mesh.devices.size} {jax.default_backend()} devices",
    compile_seconds=compile_seconds,
    convolutions=lowered.as_text().count("stablehlo.convolution"),
    compiled_convolutions=step.as_text().count(" convolution("),
  )
  for _ in sys.stdin:
    tell(**timed(work, repeat))
