"""A SmoothMix training step of LeNet: what `torch_smoothmix.py` is compared with.

Protocol: warm up, print one JSON line, then for every line on stdin do a few steps and print the
seconds and CPU seconds of one, the last loss and the peak of the resident memory so far.
"""

import argparse
import functools
import json
import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust import models
from jax_robust.objectives.smoothmix import smoothmix
from jax_robust.train import optim, parallel
from jax_robust.train.state import create_state, make_apply_fn
from jax_robust.train.step import make_update


def prepare(raw, key):
  """Images in [0, 1] and one-hot targets: MNIST is not augmented."""
  del key
  image = raw["image"].astype(jnp.float32) / 255
  target = jax.nn.one_hot(raw["label"], 10)
  return {"image": image, "target": target, "label": raw["label"], "row": raw["row"]}


def make_step(*, batch, noises, num_steps):
  """Returns the update, the first state and a batch."""
  model = models.create("lenet", num_classes=10)
  optimizer = optim.make_optimizer(
    optim.make_schedule(name="constant", peak=0.01, total_steps=9), name="sgd", nesterov=False,
    momentum=0.9, weight_decay=1e-4, decay_batchnorm=True,
  )  # fmt: skip
  update = make_update(
    functools.partial(
      smoothmix, sigma=1.0, num_noise_vec=noises, num_steps=num_steps, alpha=8 / num_steps
    ),
    make_apply_fn(model),
    optimizer,
    prepare=prepare,
    steps_per_epoch=940,
    ema={"decay": 0.0},
  )
  rng = np.random.default_rng(0)
  raw = {
    "image": rng.integers(0, 256, (batch, 28, 28, 1), dtype=np.uint8),
    "label": rng.integers(0, 10, batch, dtype=np.int32),
    "row": np.arange(batch, dtype=np.int32),
  }
  return update, create_state(model, optimizer, (28, 28, 1), seed=0), raw


def main():
  """Compiles, warms up, says so, then does a few steps per line on stdin."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--noises", type=int, default=4)
  parser.add_argument("--num_steps", type=int, default=1)
  parser.add_argument("--repeat", type=int, default=20)
  args = parser.parse_args()
  update, state, raw = make_step(batch=args.batch, noises=args.noises, num_steps=args.num_steps)
  mesh = parallel.data_mesh(args.batch)  # JAX_NUM_CPU_DEVICES: as many as main makes
  state, raw = parallel.replicate(state, mesh), parallel.shard_batch(raw, mesh)
  start = time.perf_counter()
  step = (
    parallel.map_step(lambda axis_name: update, mesh, mode="jit", donate=True)
    .lower(state, raw)
    .compile()
  )
  compile_seconds = time.perf_counter() - start

  def report(state, repeat, **extra):
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeat):
      state, metrics = step(state, raw)
    loss = float(jax.block_until_ready((state, metrics))[1]["loss"])
    used = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    used = {name: value / repeat for name, value in used.items()}
    print(json.dumps({**used, "loss": loss, "peak_mib": peak, **extra}), flush=True)
    return state

  what = f"jax {jax.__version__}, {mesh.devices.size} {jax.default_backend()} devices"
  state = report(state, 1, what=what, compile_seconds=compile_seconds)
  for _ in sys.stdin:
    state = report(state, args.repeat)


if __name__ == "__main__":
  main()
