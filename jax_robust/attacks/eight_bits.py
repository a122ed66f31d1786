"""Adversarial examples as bytes: rounded towards the image, so that they stay in the ball."""

from typing import Any

import numpy as np
from jaxtyping import Shaped

from jax_robust.attacks.balls import Ball, check_ball
from jax_robust.attacks.entry import check_not_half
from jax_robust.errors import check_images, first_few

_LEVELS = 255

_OFF_THE_GRID = 1e-3  # in levels: float32 holds k / 255 to this, float16 and bfloat16 do not

_TOLERANCE = 1e-6  # of eps, as for every result of an attack


def to_uint8(x_adv: Any, x: Any, ball: Ball) -> Shaped[np.ndarray, "b *dims"]:
  """Adversarial examples of 8-bit images as bytes, in the ball still: `x_adv = result / 255`.

  Every pixel is rounded towards that of the image: what `(255 * x_adv).round()` writes is outside
  the ball on many pixels wherever 255 eps is no whole number.
  Rounding changes the image that the model sees: whether it is still misclassified is for a pass
  over `result / 255` to say. A host function, not for use under `jit`.

  Guarantees:
    `bytes_are_in_the_ball`: the distance between integers, over 255, is at most eps (1 + 1e-6).
    `bytes_are_no_further_than_the_point`: no pixel moves further from x than in `x_adv`, by more
      than a thousandth of a level.

  Args:
    x_adv: adversarial examples in [0, 1], inside the ball, `[b, ...]`.
    x: the images, multiples of 1/255 as bytes give them, `[b, ...]`.
    ball: the threat model.

  Returns:
    uint8, `[b, ...]`.

  Raises:
    TypeError: as the attacks; images of less than 32 bits, which can't hold k / 255.
    ValueError: as the attacks; shapes differ; images off the grid; points outside the ball, as
      `n_fgsm` makes them.

  >>> from jax_robust.attacks import linf_ball
  >>> x = np.array([[100, 200]]) / 255
  >>> to_uint8(x + 0.03 * np.array([[1, -1]]), x, linf_ball(0.03)).tolist()  # 7.65 levels
  [[107, 193]]
  """
  for images in (x_adv, x):
    check_images(images)
    check_not_half("to_uint8", images)
  check_ball("to_uint8", ball, x, per_pixel=True, minimum_norm=True)
  x_adv, x = np.asarray(x_adv, np.float64), np.asarray(x, np.float64)
  if x_adv.shape != x.shape:
    raise ValueError(f"x_adv has shape {x_adv.shape}: expected that of x, {x.shape}")
  levels = np.rint(x * _LEVELS)
  _raise_at(
    "x", np.abs(x * _LEVELS - levels) > _OFF_THE_GRID, "no multiple of 1/255: round x first"
  )
  _raise_at("x_adv", ~_inside(x_adv - x, ball), "outside the ball")
  moved = x_adv * _LEVELS - levels
  nearest = np.rint(moved)
  # 8/255 in float32 may be 7.999999 levels, which is 8.
  inward = np.where(np.abs(moved - nearest) <= _OFF_THE_GRID, nearest, np.trunc(moved))
  fits = np.reshape(_inside(inward / _LEVELS, ball), (-1,) + (1,) * (x.ndim - 1))
  moved = np.where(fits, inward, np.trunc(moved))
  _raise_at("x_adv", ~_inside(moved / _LEVELS, ball), "outside the ball when rounded")
  return (levels + moved).astype(np.uint8)


def _inside(delta: np.ndarray, ball: Ball) -> np.ndarray:
  """Whether each perturbation is in the ball, in float64, `[b]`."""
  most = np.asarray(ball.eps, np.float64) * (1 + _TOLERANCE)
  if ball.norm == "linf":
    most = most.reshape(-1, *(1,) * (delta.ndim - 1)) if most.ndim < 2 else most
    return np.all((np.abs(delta) <= most).reshape(len(delta), -1), axis=1)
  order = {"l2": 2, "l1": 1}[ball.norm]
  return np.linalg.norm(delta.reshape(len(delta), -1), ord=order, axis=1) <= most


def _raise_at(name: str, is_bad: np.ndarray, what: str) -> None:
  """Raises ValueError, with the rows, where anything is bad."""
  rows = np.flatnonzero(is_bad.reshape(len(is_bad), -1).any(1))
  if rows.size:
    raise ValueError(f"{name}: images {first_few(rows)} are {what}")
