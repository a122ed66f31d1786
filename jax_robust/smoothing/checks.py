"""What smoothing says when it is called wrongly."""

import math

import numpy as np


def check_sigma(sigma: float) -> None:
  """Raises ValueError unless sigma is a standard deviation."""
  if not 0 < sigma < math.inf:
    raise ValueError(f"sigma={sigma}: expected a positive number, in units of the image")


def check_alpha(alpha: float, name: str = "alpha") -> None:
  """Raises ValueError unless alpha is a probability that something can be held at."""
  if not 0 < alpha < 1:
    raise ValueError(f"{name}={alpha}: expected a probability inside (0, 1)")


def check_budget(*, n: int | float, alpha: float, n0: int | float = 1) -> None:
  """Raises ValueError where CERTIFY could not decide for any image: alpha^(1/n) < 1/2.

  >>> check_budget(n=9, alpha=0.001)
  Traceback (most recent call last):
  ...
  ValueError: n=9: too few votes to certify any image at alpha=0.001; expected at least 10
  """
  check_alpha(alpha)
  for name, value in (("n0", n0), ("n", n)):
    if value < 1 or value != int(value):
      raise ValueError(f"{name}={value}: expected a whole number of draws, at least 1")
  if n0 > n:
    raise ValueError(f"n0={n0}: expected at most n={n}, the draws that are certified from")
  least = math.ceil(math.log2(1 / alpha) - 1e-12)
  if n < least:
    raise ValueError(
      f"n={n}: too few votes to certify any image at alpha={alpha}; expected at least {least}"
    )


def check_predict_budget(*, n: int, alpha: float) -> None:
  """Raises ValueError where PREDICT would abstain on every image: 2 * 0.5^n > alpha.

  >>> check_predict_budget(n=10, alpha=0.001)
  Traceback (most recent call last):
  ...
  ValueError: n=10: too few votes to predict any class at alpha=0.001; expected at least 11
  """
  check_alpha(alpha)
  least = math.ceil(math.log2(2 / alpha) - 1e-12)
  if n < 1 or n < least:
    raise ValueError(
      f"n={n}: too few votes to predict any class at alpha={alpha}; expected at least {least}"
    )


def check_counts(name: str, counts: np.ndarray) -> None:
  """Raises ValueError on votes that are negative or no integers, or on an image without any."""
  if not np.issubdtype(counts.dtype, np.integer):
    raise ValueError(f"{name} have dtype {counts.dtype}: expected integers")
  if counts.ndim == 0 or counts.size == 0 or counts.min() < 0 or counts.sum(axis=-1).min() < 1:
    raise ValueError(f"{name}: expected votes by class, none negative, at least one an image")


def check_images(x: np.ndarray) -> None:
  """Raises on images that are integers, outside [0, 1], NaN, or none at all."""
  if not np.issubdtype(x.dtype, np.floating):
    raise TypeError(f"x has dtype {x.dtype}: expected floating-point images in [0, 1]")
  if x.ndim < 2 or len(x) == 0:
    raise ValueError(f"x has shape {x.shape}: expected images, first axis the batch's, at least 1")
  # Not `x < 0 or x > 1`: a NaN must fail the comparison.
  bad = np.flatnonzero(~((x >= 0) & (x <= 1)).reshape(len(x), -1).all(1))
  if bad.size:
    worst = x[bad[0]].ravel()
    worst = worst[~((worst >= 0) & (worst <= 1))][0]
    raise ValueError(
      f"x: {bad.size} images leave [0, 1] or are not finite, such as image {bad[0]} with {worst}; "
      "sigma is in units of the image: put the normalisation into the model"
    )


def check_labels(labels: np.ndarray, num_classes: int) -> None:
  """Raises ValueError on labels that are no classes of the net."""
  bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
  if bad.size:
    raise ValueError(
      f"labels: {bad.size} are no classes of the net, such as {labels[bad[0]]} of image {bad[0]}; "
      f"expected 0 to {num_classes - 1}"
    )


def check_ids(ids: np.ndarray | None, num_images: int) -> np.ndarray:
  """The ids of images, by default their places; raises ValueError where two would share draws."""
  ids = np.arange(num_images) if ids is None else np.asarray(ids)
  if ids.shape != (num_images,) or not np.issubdtype(ids.dtype, np.integer):
    raise ValueError(
      f"ids have shape {ids.shape} and dtype {ids.dtype}: expected {num_images} integers, one an "
      "image"
    )
  if ids.size and not 0 <= ids.min() <= ids.max() < 2**32:
    raise ValueError(f"ids from {ids.min()} to {ids.max()}: expected 0 to 2^32 - 1")
  if len(np.unique(ids)) < num_images:
    raise ValueError("ids: expected each id once, as images with the same id share their noise")
  return ids
