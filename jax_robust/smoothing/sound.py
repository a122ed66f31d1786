"""Sound noise: integers of an exact distribution, whose certificates hold in floating point.

Voráček and Hein show that float32 noise is unsound in principle: the last bits of `x + noise`
reveal x, and a model that reads them can be certified at radii where it is wrong. That is excluded
if images lie on a grid, as 8-bit images do, and the model's inputs do too: with R(z) the grid point
nearest to z,

    g(x') = argmax_c P(f(R(x' + sigma * normal)) = c)        for every real x'

is smoothed in the sense of Cohen et al., and at an x of the grid `R(x + sigma * normal)` is x plus
R(sigma * normal), an integer number of grid steps that can be drawn with the right probabilities.
"""

import functools
import math
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from jax_robust.errors import check_count, check_images, check_positive
from jax_robust.smoothing.noise import CHUNK, Noise

_BITS = 63
"""Random bits behind the size of a step; a further one is its sign."""

_PRECISION = 256
"""Bits of the fixed-point arithmetic behind the table. The largest term of the series is e^41, or
2^60, and there are about 200 terms: errors stay below 2^-180."""

_LEAST_ENTRIES = 4096
"""Tables for sigma up to 1.7 get the same shape, so that one program serves them."""

_LARGEST_SIGMA = 4000
"""In grid steps; up to there the guess in `invert` is off by less than half a step."""

# y(v) = v P(v) / Q(v) is the y with erfc(y) = exp(-v^2), to 3e-5: our own least-squares fit.
_P = (-9.52787338e-06, 8.86759766e-01, 1.36620871e00, 1.50502615e00, 6.13476932e-01)
_Q = (1.0, 1.54911744, 2.16213392, 1.54198036, 6.12413620e-01)


class Table(NamedTuple):
  """The distribution of the size m of a draw, for the device.

  Attributes:
    entries: row j holds `thresholds[j]` and `thresholds[j + 1]`, each as its upper 31 and its lower
      32 bits.
    scale: sigma * sqrt(2), in grid steps.
  """

  entries: UInt32[np.ndarray | Array, "j 4"]
  scale: Float[np.ndarray | Array, ""] | np.float32


def make_sound(levels: int = 256) -> Noise:
  """Noise for images of so many levels, whose certificates hold in floating point.

  What is claimed. Let f be a function of the integer image (`logits_fn` of integers times
  `1 / (levels - 1)`, in float32, as compiled), and the random bits independent and fair. Then with
  probability at least 1 - alpha over the votes, g above predicts `label` at every real x' nearer to
  the image than `radius`. No step assumes that floating-point numbers behave as real ones:

  - a draw is an integer m and a sign, m the number of thresholds `P(|normal| sigma >= j - 1/2)`, as
    integers of 63 bits, above 63 random bits; float32 only gives a first guess at m, which is then
    compared with the thresholds in integers;
  - the thresholds come from integer arithmetic, right to the last of 63 bits; so the distribution
    of a pixel is within L * 2^-63 of the one above in total variation, with L (9.1 sigma steps) the
    number of thresholds, and that of an image of d pixels within d * L * 2^-63 (MNIST, sigma = 1:
    2e-13; ImageNet: 4e-11);
  - that much is subtracted from p_L: no event's probability differs by more. PREDICT adds n times
    as much to its p-value.

  What is not claimed: that threefry's bits are fair coins; that the compiled model gives an integer
  image the same class at each place of a batch, or on other hardware; and nothing about an x' off
  the grid that is rounded before g sees it, which may move it further than the attacker did.
  SciPy's quantiles behind p_L and the radius are right to about 1e-14.

  Guarantees:
    `draws_are_the_inverse_of_the_table`: for all random bits.
    `table_is_exact`: entries are the real thresholds rounded to 63 bits.

  Args:
    levels: of an image in [0, 1], black and white included: 256 for 8 bits.

  Returns:
    The noise. Its `check` raises ValueError on images off the grid.

  Raises:
    ValueError: fewer than two levels.

  Reference: Voráček and Hein, 2023, "Sound randomized smoothing in floating-point arithmetics",
  ICLR, https://arxiv.org/abs/2207.07209.

  >>> make_sound().total_variation(1.0, 28 * 28) < 3e-13
  True
  """
  check_count(2, levels=levels)
  steps = levels - 1

  def check(x: np.ndarray) -> None:
    check_images(x)
    off = np.abs(np.asarray(x, np.float64) * steps - np.rint(np.asarray(x, np.float64) * steps))
    if off.max() > 1e-4 * steps / 255:
      place = np.unravel_index(np.argmax(off), x.shape)
      raise ValueError(
        f"x{list(map(int, place))}={x[place]}: expected a multiple of 1/{steps}, as sound noise "
        f"certifies images of {levels} levels; round them first"
      )

  def draw(table: Table, key: Array, image: Array) -> Array:
    high, low = jax.random.bits(key, (2, CHUNK, *image.shape), jnp.uint32)
    size = invert(table, high & 0x7FFFFFFF, low)
    moved = (
      jnp.where(high >> 31 == 1, -size, size) + jnp.rint(image * steps).astype(jnp.int32)[None]
    )
    return moved.astype(jnp.float32) / steps

  def total_variation(sigma: float | int, num_pixels: int) -> float:
    return num_pixels * len(thresholds(sigma, steps)) * 2.0**-_BITS

  return Noise(check, lambda sigma: law_table(sigma, steps), draw, total_variation)


def invert(table: Table, high: UInt32[Array, "*n"], low: UInt32[Array, "*n"]) -> Int[Array, "*n"]:
  """How many thresholds are above a number of 63 bits.

  Args:
    table: from `law_table`.
    high, low: the upper 31 bits, and the lower 32.

  Returns:
    The counts, int32.
  """
  tail = high.astype(jnp.float32) * 2.0**-31 + (low.astype(jnp.float32) + 0.5) * 2.0**-63
  v = jnp.sqrt(jnp.maximum(-jnp.log(tail), 0.0))
  y = v * _polynomial(_P, v) / _polynomial(_Q, v)
  guess = jnp.floor(table.scale * y + 0.5).astype(jnp.int32)
  # The guess is off by one at most: the two thresholds around it decide.
  guess = jnp.clip(guess, 1, table.entries.shape[0] - 1)
  entry = table.entries[guess]
  above = [
    (high < entry[..., i]) | ((high == entry[..., i]) & (low < entry[..., i + 1])) for i in (0, 2)
  ]
  return guess - 1 + above[0] + above[1]


@functools.lru_cache(maxsize=8)
def law_table(sigma: float | int, steps: int) -> Table:
  """The table of a sigma in units of the image, for a grid of so many steps.

  >>> law_table(0.5, 255).entries.shape
  (4096, 4)
  """
  found = thresholds(sigma, steps)
  size = max(_LEAST_ENTRIES, 1 << (len(found) + 1).bit_length())
  # Above all comes 1, which every draw is below, and zeros follow.
  padded = [1 << _BITS, *found] + [0] * (size - len(found))
  words = np.array([(each >> 32, each & 0xFFFFFFFF) for each in padded], np.uint32)
  return Table(np.concatenate([words[:-1], words[1:]], axis=1), np.float32(sigma * steps * 2**0.5))


@functools.lru_cache(maxsize=8)
def thresholds(sigma: float | int, steps: int) -> tuple[int, ...]:
  """`P(|normal| * sigma * steps >= j - 1/2)` for j = 1, 2, ... in units of 2^-63, until they are 0.

  Raises:
    ValueError: sigma not positive, or too large.

  >>> thresholds(0.001, 255)[0] / 2**63  # half a step is nearly two sigma
  0.0499...
  """
  check_positive(sigma=sigma)
  if sigma * steps > _LARGEST_SIGMA:
    raise ValueError(f"sigma={sigma}: expected at most {_LARGEST_SIGMA / steps:.1f} in sound mode")
  unit, found = 8 * (Fraction(sigma) * steps) ** 2, []
  while True:
    j = len(found) + 1
    square = Fraction((2 * j - 1) ** 2) / unit  # of the argument of erfc
    value = _erfc_of_root(square.numerator, square.denominator)
    value = (value + (1 << (_PRECISION - _BITS - 1))) >> (_PRECISION - _BITS)
    if value == 0:
      return tuple(found)
    found.append(value)


def _erfc_of_root(numerator: int, denominator: int) -> int:
  """erfc(sqrt(numerator / denominator)) in units of 2^-256, by the power series of erf."""
  square = (numerator << _PRECISION) // denominator
  term = math.isqrt(square << _PRECISION)
  total, n = term, 0
  while term:
    n += 1
    term = ((term * square) >> _PRECISION) // n
    total += (-1) ** n * (term // (2 * n + 1))
  return (1 << _PRECISION) - (total << (_PRECISION + 1)) // _root_of_pi()


@functools.cache
def _root_of_pi() -> int:
  """sqrt(pi) in units of 2^-256, by Machin's formula."""

  def arctan_of_inverse(number):
    total, power, n = 0, (1 << (_PRECISION + 32)) // number, 0
    while power:
      total += (-1) ** n * (power // (2 * n + 1))
      power, n = power // number**2, n + 1
    return total

  pi = (16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)) >> 32
  return math.isqrt(pi << _PRECISION)


def _polynomial(coefficients, v: Array) -> Array:
  """By Horner's rule, the constant first."""
  total = jnp.float32(coefficients[-1])
  for each in coefficients[-2::-1]:
    total = total * v + jnp.float32(each)
  return total


SOUND = make_sound()
"""Sound noise for images of 8 bits."""
