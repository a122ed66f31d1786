"""Representation inversion: images whose features are those of other images.

`invert` does it in one call. Its steps can be driven from the host instead, some at a time, which
on a CPU is far quicker for a net with convolutions (`nets.loops.default_unroll`):

  state = begin_inversion(features_fn, x, start)
  for _ in range(num_steps // 20):
    state = continue_inversion(features_fn, state, num_steps=20)
  result, distance = end_inversion(features_fn, state)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_robust.attacks.balls import l2_ball
from jax_robust.attacks.entry import check_start
from jax_robust.attacks.projections import l2_norm, per_example
from jax_robust.attacks.stepwise import select
from jax_robust.errors import check_count, check_flag, check_images, check_step_size, shown
from jax_robust.nets.loops import default_unroll, scan
from jax_robust.types import Images

FeaturesFn = Callable[[Any], Any]
"""`features_fn(x) -> features [b, ...]`, floating-point: such as what a net's last layer reads."""


class Inversion(NamedTuple):
  """How far an inversion is; every leaf has the batch as its first axis.

  Attributes:
    goal: the features that are looked for, `[b, ...]`.
    z: the iterate, `[b, h, w, c]` in [0, 1].
    best: the iterate of least distance so far, `[b, h, w, c]`.
    distance: its distance `[b]`, infinite before the first step.
  """

  goal: Array
  z: Array
  best: Array
  distance: Array


def invert(
  features_fn: FeaturesFn,
  x: Images,
  start: Any,
  *,
  num_steps: int = 1000,
  step_size: Any = 0.1,
  keep_best: bool = True,
  unroll: int | None = None,
) -> Float[Array, "b *dims"]:
  """Images z with the features of x, from another start: min ||g(z) - g(x)|| / ||g(x)||, z in box.

  `z <- clip(z - step_size u, 0, 1)`, u the gradient over its l2 norm, for each image by itself. No
  ball holds z: what of x the features do not tell stays that of the start.

  Guarantees:
    `result_is_in_box`: 0 <= z <= 1.
    `distance_never_grows`: with `keep_best`, more steps never give a larger distance, and none is
      larger than that of the start.
    `result_is_independent_of_the_batch`: row i depends on image and start i only.
    `no_gradient_flows_out`: the result is a constant for whatever differentiates around it.

  Args:
    features_fn: g, `x -> features [b, ...]`; of our nets see `models.representation`.
    x: images in [0, 1] whose features are looked for, `[b, ...]`.
    start: images to start from, of that shape; independent of x, unless what it shares with x may
      stay.
    num_steps: gradient steps; static.
    step_size: in l2, in units of the image; one or one per image.
    keep_best: return the iterate of least distance, the start and the last included; else the last.
    unroll: steps per iteration of the compiled loop; default: see `default_unroll`.

  Returns:
    z, `[b, ...]`, of the dtype of x.

  Raises:
    TypeError: x, the start or the features are not floating-point.
    ValueError: x leaves [0, 1]; a start of another shape; features without the axis of the batch;
      no step.

  Reference: Engstrom et al., 2019, "Adversarial Robustness as a Prior for Learned Representations",
  https://arxiv.org/abs/1906.00945; Ilyas et al., 2019, "Adversarial Examples Are Not Bugs, They Are
  Features", https://arxiv.org/abs/1905.02175, which make their robust and non-robust data so.

  >>> x, start = jnp.array([[0.25, 0.75]]), jnp.array([[0.5, 0.5]])
  >>> invert(lambda x: x[:, :1], x, start, num_steps=5, step_size=0.125).tolist()
  [[0.25, 0.5]]
  """
  check_flag(keep_best=keep_best)
  state = begin_inversion(features_fn, x, start)
  state = continue_inversion(
    features_fn, state, num_steps=num_steps, step_size=step_size, unroll=unroll
  )
  if not keep_best:
    return jax.lax.stop_gradient(state.z)
  return end_inversion(features_fn, state)[0]


def begin_inversion(features_fn: FeaturesFn, x: Images, start: Any) -> Inversion:
  """The state before the first step. Args and Raises: those of `invert`."""
  check_images(x)
  check_start(start, x)
  x = jax.lax.stop_gradient(jnp.asarray(x))
  z = jnp.clip(jax.lax.stop_gradient(jnp.asarray(start)).astype(x.dtype), 0.0, 1.0)
  goal = features_fn(x)
  if not hasattr(goal, "dtype") or not jnp.issubdtype(goal.dtype, jnp.floating):
    kind = f"dtype {goal.dtype}" if hasattr(goal, "dtype") else f"a {type(goal).__name__}"
    raise TypeError(f"features_fn returned {kind}: expected one floating-point array [b, ...]")
  if goal.ndim < 2 or len(goal) != len(x):
    raise ValueError(
      f"features_fn returned shape {goal.shape} for {len(x)} images: expected [{len(x)}, ...]"
    )
  return Inversion(
    jax.lax.stop_gradient(goal), z, z, jnp.full_like(goal, jnp.inf, shape=goal.shape[:1])
  )


def continue_inversion(
  features_fn: FeaturesFn,
  state: Inversion,
  *,
  num_steps: int,
  step_size: Any = 0.1,
  unroll: int | None = None,
) -> Inversion:
  """The state after so many more steps. Args and Raises: those of `invert`."""
  check_count(num_steps=num_steps)
  check_step_size(step_size=step_size)
  if step_size is None or callable(step_size):
    raise TypeError(f"step_size={shown(step_size)}: expected a number, or one for each image")

  def distance_at(z, goal):
    distance = feature_distance(features_fn(z), goal)
    return jnp.sum(distance), distance

  def step(state, _):
    gradient, distance = jax.grad(distance_at, has_aux=True)(state.z, state.goal)
    state = _keep_nearer(state, distance)
    move = per_example(step_size, state.z, "step_size") * l2_ball(1.0).ascent(gradient)
    return state._replace(z=jnp.clip(state.z - move, 0.0, 1.0)), None

  unroll = default_unroll(num_steps) if unroll is None else unroll
  return jax.lax.stop_gradient(scan(step, state, length=num_steps, unroll=unroll)[0])


def end_inversion(features_fn: FeaturesFn, state: Inversion) -> tuple[Array, Array]:
  """The nearest images `[b, ...]` of all steps, the last included, and their distances `[b]`."""
  distance = feature_distance(features_fn(state.z), state.goal)
  state = _keep_nearer(state, distance)
  return jax.lax.stop_gradient((state.best, state.distance))


def feature_distance(
  features: Float[Array, "b *dims"], goal: Float[Array, "b *dims"]
) -> Float[Array, " b"]:
  """||features - goal|| / ||goal|| in l2, `[b]`; of a goal of norm 0, the distance itself.

  >>> feature_distance(jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 4.0]])).tolist()
  [0.75]
  """
  size = l2_norm(goal).reshape(-1)
  return l2_norm(features - goal).reshape(-1) / jnp.where(size > 0, size, 1.0)


def _keep_nearer(state: Inversion, distance: Array) -> Inversion:
  """Replaces the best iterate of each image where the present one is nearer; NaN never is."""
  nearer = distance < state.distance
  return state._replace(
    best=select(nearer, state.z, state.best),
    distance=jnp.where(nearer, distance, state.distance),
  )
