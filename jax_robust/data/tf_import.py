"""Imports TensorFlow when it is first needed: quietly, and without the accelerators."""

import contextlib
import os


def import_tensorflow():
  """Imports TensorFlow and hides the accelerators from it, which JAX uses.

  Raises:
    ImportError: it is not installed; the message says how to do without it.
  """
  # Its messages at the start are about kernels that nothing here uses.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  try:
    import tensorflow as tf
  except ImportError as error:
    raise ImportError(
      f"tf.data pipelines and TFDS need TensorFlow ({error}): pip install 'jax_robust[train]', or "
      "train from shards, npz files or arrays with batch.backend='resident'"
    ) from error
  for kind in ("GPU", "TPU"):
    with contextlib.suppress(RuntimeError):  # TensorFlow is already running: too late to hide
      tf.config.set_visible_devices([], kind)
  return tf
