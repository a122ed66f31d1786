"""What the command line can do: each job is a function `(config, workdir) -> result`."""

from jax_robust.config import ConfigError
from jax_robust.data.sources import DataFileError
from jax_robust.jobs.compare import compare
from jax_robust.jobs.evaluate import evaluate
from jax_robust.jobs.export import export
from jax_robust.jobs.generate import generate
from jax_robust.jobs.train import train
from jax_robust.jobs.workdir import WorkdirError
from jax_robust.train.checkpoint import CheckpointMismatchError

JOBS = {
  "train": train,
  "evaluate": evaluate,
  "generate": generate,
  "export": export,
  "compare": compare,
}
"""The jobs by the name `config.job` gives them."""

MISTAKES = (ConfigError, DataFileError, WorkdirError, CheckpointMismatchError)
"""Errors that tell the user what to change; the command line prints them without a traceback."""
