"""jax_robust: train, attack and certify robust image classifiers in JAX.

Importing it loads JAX and the pure parts: `attacks`, `errors`, `losses`, `nets` and `smoothing`.
Models, data and the training loop are imported by name, such as `from jax_robust import models`.
"""

from jax_robust import attacks, errors, losses, nets, smoothing

__version__ = "0.1.0"

__all__ = ["attacks", "errors", "load", "losses", "nets", "smoothing"]


def load(folder: str, *, checkpoint: str = "best"):
  """Loads a trained run as a `logits_fn`: float images in [0, 1] in, logits out.

  Args:
    folder: the workdir of a run.
    checkpoint: 'best' or 'latest'.

  Returns:
    `logits_fn(x)`, with the averaged parameters, in eval mode.

  Raises:
    jax_robust.errors.ConfigError: the folder is no workdir, or has no checkpoint yet.
  """
  from jax_robust.jobs import export

  return export.load(folder, checkpoint=checkpoint)
