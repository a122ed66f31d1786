"""Adapters of a `logits_fn`: exits, randomness, weights as arguments, rows shared by devices."""

from jax_robust.nets.exits import (
  Exit,
  exits_of,
  mean_of_exits,
  predictions,
  select_exit,
  single_exit,
)

__all__ = ["Exit", "exits_of", "mean_of_exits", "predictions", "select_exit", "single_exit"]
