"""Labelled images on disk, and batches of them; importing it loads no TensorFlow."""

import importlib

_HOMES = {
  "DATASETS": "named",
  "composition": "mixture",
  "eval_batches": "evaluation",
  "make_train_batches": "pipeline",
  "permute": "permutation",
  "train_batches": "pipeline",
}

__all__ = sorted(_HOMES)


def __getattr__(name):
  """Loads the module that holds a public name when the name is first used."""
  if name not in _HOMES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
