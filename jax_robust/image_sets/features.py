"""What is true of every matrix of features: a row for each image, numbers that are finite."""

from typing import Any

import numpy as np
from jaxtyping import Float


def check_features(**features: Any) -> list[Float[np.ndarray, "n d"]]:
  """Matrices of features as NumPy arrays of one number type, in the order of the arguments.

  Args:
    features: matrices `[n, d]` by their arguments' names; all of the same d.

  Returns:
    The matrices, float32 unless they are float64.

  Raises:
    TypeError: one holds no real numbers.
    ValueError: one is no matrix, is empty, holds NaN or infinity, or has another d than the first.

  >>> check_features(queries=np.zeros((2, 3)), pool=np.zeros((4, 5)))
  Traceback (most recent call last):
  ...
  ValueError: pool has 5 features an image and queries has 3: take both from the same net
  """
  found: list[np.ndarray] = []
  first = ""
  for name, value in features.items():
    rows = np.asarray(value)
    if not (np.issubdtype(rows.dtype, np.floating) or np.issubdtype(rows.dtype, np.integer)):
      raise TypeError(f"{name} has dtype {rows.dtype}: expected real numbers, features [n, d]")
    if rows.ndim != 2 or 0 in rows.shape:
      raise ValueError(f"{name} has shape {rows.shape}: expected features [n, d], a row an image")
    if found and rows.shape[1] != found[0].shape[1]:
      raise ValueError(
        f"{name} has {rows.shape[1]} features an image and {first} has {found[0].shape[1]}: take "
        "both from the same net"
      )
    if not np.isfinite(rows).all():
      bad = np.flatnonzero(~np.isfinite(rows).all(1))
      raise ValueError(
        f"{name} holds NaN or infinity in row {bad[0]} ({len(bad)} such rows): look at that image "
        "and at the net's weights"
      )
    first = first or name
    found.append(rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float32))
  return found
