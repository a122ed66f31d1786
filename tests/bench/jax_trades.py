"""A released-TRADES training step of PreActResNet-18: what `torch_trades.py` is compared with."""

import functools

import jax.numpy as jnp
from jax_training import prepare, random_batch, serve
from side_process import read_flags

from jax_robust import models
from jax_robust.attacks import adam, linf_ball, pgd
from jax_robust.objectives.trades import trades
from jax_robust.train import optim
from jax_robust.train.state import create_state, make_apply_fn
from jax_robust.train.step import make_update


def make_step(*, width, num_steps):
  """Returns the update and the first state."""
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
  return update, create_state(model, optimizer, [jnp.zeros((1, 32, 32, 3))], seed=0)


def main():
  """One step per line on stdin."""
  flags = read_flags(batch=64, width=64, num_steps=10)
  update, state = make_step(width=flags.width, num_steps=flags.num_steps)
  serve(update, state, random_batch(flags.batch, (32, 32, 3)))


if __name__ == "__main__":
  main()
