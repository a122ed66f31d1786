"""MSDNet's forward pass, or its FGSM training step: what `torch_msdnet.py` is compared with."""

import functools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax_training import prepare, random_batch, serve
from side_process import read_flags, tell, timed

from jax_robust import models
from jax_robust.attacks import linf_ball, rs_fgsm
from jax_robust.objectives.multi_exit import multi_exit
from jax_robust.train import optim, parallel
from jax_robust.train.state import create_state, make_apply_fn
from jax_robust.train.step import make_update


def make_training(net):
  """The update and the first state."""
  optimizer = optim.make_optimizer(optim.make_schedule(name="constant", peak=0.1, total_steps=9))
  attack = functools.partial(rs_fgsm, ball=linf_ball(8 / 255))
  update = make_update(
    functools.partial(multi_exit, attack=attack, penalties=[0.0]), make_apply_fn(net), optimizer,
    prepare=prepare, steps_per_epoch=100,
  )  # fmt: skip
  return update, create_state(net, optimizer, [jnp.zeros((1, 32, 32, 3))], seed=0)


def serve_forward(net, batch, repeat):
  """Compiles the forward pass, warms up and says so, then does it for every line on stdin."""
  variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  image = np.random.default_rng(0).random((batch, 32, 32, 3), np.float32)
  mesh = parallel.data_mesh(batch)
  variables, image = parallel.replicate(variables, mesh), parallel.shard_batch(image, mesh)
  start = time.perf_counter()
  forward = jax.jit(net.apply).lower(variables, image).compile()
  compile_seconds = time.perf_counter() - start

  def work():
    return {"loss": sum(float(logits.sum()) for logits in forward(variables, image))}

  what = f"jax {jax.__version__}, {mesh.devices.size} {jax.default_backend()} devices"
  tell(**timed(work), what=what, compile_seconds=compile_seconds)
  for _ in sys.stdin:
    tell(**timed(work, repeat))


def main():
  """One piece of work per line on stdin."""
  flags = read_flags(batch=64, work="forward", repeat=1, convolution="auto")
  net = models.create("msdnet", num_classes=10, convolution=flags.convolution)
  if flags.work == "forward":
    serve_forward(net, flags.batch, flags.repeat)
  else:
    serve(*make_training(net), random_batch(flags.batch, (32, 32, 3)), repeat=flags.repeat)


if __name__ == "__main__":
  main()
