"""A SmoothMix training step of LeNet: what `torch_smoothmix.py` is compared with."""

import functools

import jax.numpy as jnp
from jax_training import prepare, random_batch, serve
from side_process import read_flags

from jax_robust import models
from jax_robust.objectives.smoothmix import smoothmix
from jax_robust.train import optim
from jax_robust.train.state import create_state, make_apply_fn
from jax_robust.train.step import make_update


def make_step(*, noises, num_steps):
  """Returns the update and the first state."""
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
  return update, create_state(model, optimizer, [jnp.zeros((1, 28, 28, 1))], seed=0)


def main():
  """A few steps per line on stdin; what is printed is one's."""
  flags = read_flags(batch=64, noises=4, num_steps=1, repeat=20)
  update, state = make_step(noises=flags.noises, num_steps=flags.num_steps)
  serve(update, state, random_batch(flags.batch, (28, 28, 1)), repeat=flags.repeat)


if __name__ == "__main__":
  main()
