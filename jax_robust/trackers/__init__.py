"""Trackers: where the numbers of a run go besides its workdir, by name."""

from collections.abc import Callable

from jax_robust.trackers.mlflow import MLflow
from jax_robust.trackers.tensorboard import TensorBoard
from jax_robust.trackers.wandb import WandB
from jax_robust.types import Tracker

TRACKERS: dict[str, Callable[..., Tracker]] = {
  "tensorboard": TensorBoard,
  "mlflow": MLflow,
  "wandb": WandB,
}
"""What `config.trackers` may name; see `types.Tracker`. None is imported before it is chosen."""
