"""How an attack moves: step sizes over the steps, and Adam on the input."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import optax
from jaxtyping import Array

Schedule = Callable[[Array | int], Array]


def piecewise_constant(step_sizes: Mapping[int | str, float | int]) -> Schedule:
  """A schedule given as the step size in force from each step on.

  Sizes, not factors: `optax.piecewise_constant_schedule` multiplies its factors up, and the
  released TRADES evaluation, {20: .1, 30: .01} from .1, so ends at 1e-4 where 1e-3 was meant.

  Args:
    step_sizes: `{first step: size}`, with step 0; keys may be strings, as JSON makes them.

  Returns:
    `schedule(step) -> size`, for `step_size=` or any optax optimiser.

  Raises:
    ValueError: step 0 is missing, or a step is negative.

  >>> schedule = piecewise_constant({0: 0.5, 5: 0.25})
  >>> [float(schedule(step)) for step in (0, 4, 5, 9)]
  [0.5, 0.5, 0.25, 0.25]
  """
  sizes = sorted((int(first), float(size)) for first, size in step_sizes.items())
  if not sizes or sizes[0][0] != 0:
    raise ValueError(
      f"step_sizes={dict(step_sizes)}: expected {{first step: size}} whose smallest step is 0"
    )

  def schedule(step):
    size = jnp.asarray(sizes[0][1])
    for first, later_size in sizes[1:]:
      size = jnp.where(step >= first, later_size, size)
    return size

  return schedule


def adam(step_sizes: Mapping[int | str, float | int]) -> optax.GradientTransformation:
  """Adam on the input as the released TRADES code runs it: b1 .9, b2 .999, eps 1e-9.

  A first step of .1 takes nearly every pixel to the face of an 8/255 ball; the later ones refine.

  >>> optimizer = adam({0: 0.1, 5: 0.01})  # ten steps of the released TRADES recipe
  """
  return optax.adam(piecewise_constant(step_sizes), b1=0.9, b2=0.999, eps=1e-9)
