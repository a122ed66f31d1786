"""How the iterate of a gradient attack moves: step sizes, momentum, optimisers."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jax_robust.attacks.balls import Ball
from jax_robust.attacks.projections import max_pixels, per_example
from jax_robust.errors import check_count, check_step_size, shown

StepSize: TypeAlias = Callable[[Any], Any] | Array | np.ndarray | float
"""In units of the image, in the norm of the ball: a number, or a function of the step number."""

# Folded into the keys that a randomised model gets. Larger than any number of pixels: folding 7
# into a key gives the very bits that pixel 7 of a start drawn with that key is made of.
MODEL_NOISE = 2**30


def piecewise_constant(step_sizes: Mapping[int | str, float | int]) -> Callable[[Any], Array]:
  """A function of the step number, given as the step size in force from each step on.

  Sizes, not factors: `optax.piecewise_constant_schedule` multiplies its factors up, so that the
  released TRADES evaluation, {20: .1, 30: .01} from .1, ends at 1e-4 where 1e-3 was meant.

  Args:
    step_sizes: `{first step: size}`, with step 0; keys may be strings, as JSON makes them.

  Returns:
    `step -> size`, for `step_size=` or any optax optimiser.

  Raises:
    TypeError: it is no mapping of steps to sizes, which are numbers.
    ValueError: step 0 is missing, or a step is no whole number of at least 0; a size is negative,
      infinite or NaN.

  >>> schedule = piecewise_constant({0: 0.5, 5: 0.25})
  >>> [float(schedule(step)) for step in (0, 4, 5, 9)]
  [0.5, 0.5, 0.25, 0.25]
  """
  if not isinstance(step_sizes, Mapping):
    raise TypeError(f"step_sizes={shown(step_sizes)}: expected {{first step: size}}")
  for first, size in step_sizes.items():
    check_step_size(step_size=size)
    if not (isinstance(first, str) and first.isdecimal()):
      check_count(0, **{"first step of step_sizes": first})
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


def make_move(
  ball: Ball,
  step_size: StepSize | None,
  optimizer: optax.GradientTransformation | None,
  num_steps: int,
  momentum: Array | float | None = None,
) -> tuple[Callable, Callable]:
  """Returns `init(x) -> memory` and `move(gradient, memory, x_adv, count) -> (x_adv, memory)`.

  The memory has the batch as the first axis of its leaves; `count` is one number, or one per
  example. The arguments are those of `pgd`.

  Raises:
    ValueError: an optimiser, which has its own step size and momentum, and one of these.
  """
  check_step_size(step_size=step_size, momentum=momentum)
  for name, value in (("step_size", step_size), ("momentum", momentum)):
    if value is not None and optimizer is not None:
      raise ValueError(
        f"{name} and optimizer are both given: expected one of them, as the optimizer has its own"
      )
  if optimizer is not None:
    # One optimiser per image: nothing it measures, such as a norm, may couple the examples.
    def move(gradient, memory, x_adv, count):
      del count
      descent = -jnp.where(jnp.isfinite(gradient), gradient, 0.0)
      updates, memory = jax.vmap(optimizer.update)(descent, memory, x_adv)
      return optax.apply_updates(x_adv, updates), memory

    return jax.vmap(optimizer.init), move

  def ascend(gradient, velocity, x_adv, count):
    size = size_of_step(ball, step_size, num_steps, count)
    if momentum is not None:
      gradient = velocity = per_example(momentum, x_adv, "momentum") * velocity + _of_mean_size_one(
        gradient
      )
    return x_adv + per_example(size, x_adv, "step_size") * ball.ascent(gradient), velocity

  return (lambda x: ()) if momentum is None else jnp.zeros_like, ascend


def size_of_step(ball: Ball, step_size: StepSize | None, num_steps: int, count: Any) -> Any:
  """The step size at one step: that which is given, or 2.5 eps / num_steps."""
  if step_size is None:
    return 2.5 * ball.eps / max(num_steps, 1)
  return step_size(count) if callable(step_size) else step_size


def _of_mean_size_one(gradient):
  """The gradient of each example over its mean absolute value; not finite counts as zero."""
  gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
  largest = max_pixels(jnp.abs(gradient))
  gradient = gradient / jnp.where(largest > 0, largest, 1.0)  # their sum may not overflow
  mean = jnp.mean(jnp.abs(gradient), axis=tuple(range(1, gradient.ndim)), keepdims=True)
  return gradient / jnp.where(mean > 0, mean, 1.0)


def read_restarts(num_restarts: int, start: Any) -> int:
  """How many restarts there are; raises ValueError unless there is one, or where several start at
  the same point.
  """
  check_count(num_restarts=num_restarts)
  name = start if isinstance(start, str) else "an array"
  if num_restarts > 1 and start is not None and name not in ("uniform", "one_step", "normal"):
    raise ValueError(
      f"num_restarts={num_restarts} with start={name}: expected a random start, else all are alike"
    )
  return int(num_restarts)
