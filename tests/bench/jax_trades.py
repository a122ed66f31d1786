"""A released-TRADES training step of PreActResNet-18: what `torch_trades.py` is compared with.

Protocol: warm up, print one JSON line, then for every line on stdin do one step and print its
seconds, CPU seconds, loss and the peak of the resident memory so far.
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
from jax_robust.attacks import adam, linf_ball, pgd
from jax_robust.objectives.trades import trades
from jax_robust.train import optim, parallel
from jax_robust.train.state import create_state, make_apply_fn
from jax_robust.train.step import make_update


def prepare(raw, key):
  """Images in [0, 1] and one-hot targets; augmentation is not what is timed."""
  del key
  image = raw["image"].astype(jnp.float32) / 255
  target = jax.nn.one_hot(raw["label"], 10)
  return {"image": image, "target": target, "label": raw["label"], "row": raw["row"]}


def make_step(*, batch, width, num_steps):
  """Returns the update, the first state and a batch."""
  model = models.create(
    "preact_resnet18", num_classes=10, width=width, mean=(0.5,) * 3, std=(0.25,) * 3
  )
  optimizer = optim.make_optimizer(optim.make_schedule(name="constant", peak=0.1, total_steps=9))
  attack = functools.partial(
    pgd, ball=linf_ball(8 / 255), num_steps=num_steps, optimizer=adam({0: 0.1, 5: 0.01})
  )
  update = make_update(
    functools.partial(trades, attack=attack),
    make_apply_fn(model),
    optimizer,
    prepare=prepare,
    steps_per_epoch=100,
    ema={"decay": 0.995},
  )
  rng = np.random.default_rng(0)
  raw = {
    "image": rng.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8),
    "label": rng.integers(0, 10, batch, dtype=np.int32),
    "row": np.arange(batch, dtype=np.int32),
  }
  return update, create_state(model, optimizer, (32, 32, 3), seed=0), raw


def main():
  """Compiles, warms up, says so, then does one step per line on stdin."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--width", type=int, default=64)
  parser.add_argument("--num_steps", type=int, default=10)
  args = parser.parse_args()
  update, state, raw = make_step(**vars(args))
  mesh = parallel.data_mesh(args.batch)  # JAX_NUM_CPU_DEVICES: as many as main makes
  state, raw = parallel.replicate(state, mesh), parallel.shard_batch(raw, mesh)
  start = time.perf_counter()
  lowered = parallel.map_step(lambda axis_name: update, mesh, mode="jit", donate=True).lower(
    state, raw
  )
  step = lowered.compile()
  compile_seconds = time.perf_counter() - start

  def report(state, **extra):
    start, cpu = time.perf_counter(), time.process_time()
    state, metrics = step(state, raw)
    loss = float(jax.block_until_ready((state, metrics))[1]["loss"])
    used = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**used, "loss": loss, "peak_mib": peak, **extra}), flush=True)
    return state

  convolutions = lowered.as_text().count("stablehlo.convolution")
  state = report(
    state,
    what=f"jax {jax.__version__}, {mesh.devices.size} CPU devices",
    compile_seconds=compile_seconds,
    convolutions=convolutions,
    compiled_convolutions=step.as_text().count(" convolution("),
  )
  for _ in sys.stdin:
    state = report(state)


if __name__ == "__main__":
  main()
