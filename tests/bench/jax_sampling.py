"""Heun's sampler with a small diffusion net: what `torch_sampling.py` is compared with."""

import itertools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from side_process import read_flags, tell, timed

from jax_robust import models
from jax_robust.generate import diffusion
from jax_robust.train import parallel


def make_net(width):
  """The net of `configs/diffusion.py` for MNIST."""
  return models.create(
    "unet", width=width, multipliers=(1, 2), num_blocks=1, attention=(1,), num_labels=10,
    patch_size=2,
  )  # fmt: skip


def make_sampler(net, num_steps):
  """`sample(variables, keys, label)`, a program for a step, as the job has it."""
  levels = diffusion.edm_sigmas(num_steps).astype(np.float32)

  def advance(variables, x, label, keys, sigma, then, is_last):
    def denoise_fn(x, sigma, label):
      return net.apply(variables, x, sigma, label)

    return diffusion.advance(
      denoise_fn, x, label, keys, 0, sigma, then, sampler="heun", is_last=is_last
    )

  begin = jax.jit(lambda keys: diffusion.start(keys, (28, 28, 1), levels[0]))
  advance = jax.jit(advance, static_argnames="is_last")

  def sample(variables, keys, label):
    x = begin(keys)
    for sigma, then in itertools.pairwise(levels):
      x = advance(variables, x, label, keys, sigma, then, is_last=bool(then == 0))
    return x

  return sample


def main():
  """One batch of samples per line on stdin."""
  flags = read_flags(batch=100, steps=18, width=32)
  net = make_net(flags.width)
  label = jnp.arange(flags.batch) % 10
  rows = jnp.zeros((1, 28, 28, 1)), jnp.ones(1), label[:1]
  mesh = parallel.data_mesh(flags.batch)
  variables = parallel.replicate(jax.jit(net.init)(jax.random.key(0), *rows), mesh)
  sample, seeds = make_sampler(net, flags.steps), itertools.count()
  label = parallel.shard_batch(label, mesh)

  def work():
    keys = jax.random.split(jax.random.key(next(seeds)), flags.batch)
    return {"mean": float(sample(variables, parallel.shard_batch(keys, mesh), label).mean())}

  start = time.perf_counter()
  work()
  compile_seconds = time.perf_counter() - start
  what = f"jax {jax.__version__}, {mesh.devices.size} {jax.default_backend()} devices"
  tell(**timed(work), what=what, compile_seconds=compile_seconds)
  for _ in sys.stdin:
    tell(**timed(work))


if __name__ == "__main__":
  main()
