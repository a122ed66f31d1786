"""Projections of a batch of images onto {z : ||z - x|| <= eps} ∩ [0, 1], example by example.

Every `onto_*` takes
  x_adv: the points to project, `[b, ...]`;
  x: the centres in [0, 1], `[b, ...]`;
  eps: the radius in units of the image, a number or `[b]`; `onto_linf` takes one per pixel too;
and returns the projected points z, `[b, ...]`, of the dtype of x. Rounding goes towards x, so that
no entry of z - x exceeds in float32 what it was meant to be: the usual clip of x + delta leaves up
to 6e-8 more than eps on many pixels. float16 and bfloat16 are projected in float32, and then
rounded towards x: the ball holds for the numbers that are returned.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from jax_robust.errors import check_per_image

Images = Float[Array, "b *dims"]
Radius = Shaped[Array | np.ndarray, "..."] | float


def per_example(value: Radius, x: Array, name: str = "eps") -> Array:
  """Returns a scalar or a `[b]` array in the dtype and rank of x, to broadcast over pixels.

  What has more axes is one value per pixel, of one image or of all.

  Raises:
    ValueError: a vector of another length than x; `name` is what it is called.
  """
  value = jnp.asarray(value, x.dtype)
  if value.ndim < 2:
    check_per_image(len(x), **{name: value})
    return jnp.reshape(value, (-1,) + (1,) * (x.ndim - 1))
  return value if value.ndim == x.ndim else jnp.expand_dims(value, range(x.ndim - value.ndim))


def sum_pixels(values: Array) -> Array:
  """Sums everything but the batch axis, keeping the rank."""
  return jnp.sum(values, axis=tuple(range(1, values.ndim)), keepdims=True)


def max_pixels(values: Array) -> Array:
  """The largest entry of each example, keeping the rank."""
  return jnp.max(values, axis=tuple(range(1, values.ndim)), keepdims=True)


def l2_norm(values: Array) -> Array:
  """Euclidean norm of each example, keeping the rank."""
  # Scaled first: squares of 1e-20 vanish in float32, squares of 1e20 are infinite.
  largest = max_pixels(jnp.abs(values))
  scale = jnp.where(largest > 0, largest, 1.0)
  return largest * jnp.sqrt(sum_pixels((values / scale) ** 2))


def _add_towards(x: Array, delta: Array) -> Array:
  """x + delta, with each entry rounded so that it lies no further from x than delta says."""
  # Without the barrier XLA simplifies (x + delta) - x to delta where x is a constant.
  total = jax.lax.optimization_barrier(x + delta)
  z, centre = jax.lax.stop_gradient((total, x))  # nextafter has no derivative
  one_ulp = jnp.where(jnp.abs(z - centre) > jnp.abs(delta), jnp.nextafter(z, centre) - z, 0.0)
  return total + jax.lax.stop_gradient(one_ulp)


def _room(x: Array, delta: Array) -> Array:
  """How far each pixel can go in the direction of delta before it leaves [0, 1]."""
  return jnp.where(delta > 0, 1 - x, x)


def _in_float32(
  onto: Callable[[Images, Images, Radius], Images],
) -> Callable[[Images, Images, Radius], Images]:
  """The projection, of float16 and bfloat16 in float32, with the result rounded towards x."""

  @functools.wraps(onto)
  def project(x_adv: Images, x: Images, eps: Radius) -> Images:
    if jnp.finfo(x.dtype).bits >= 32:
      return onto(x_adv, x, eps)
    centre = x.astype(jnp.float32)
    exact = onto(x_adv.astype(jnp.float32), centre, eps)
    z = exact.astype(x.dtype)
    is_too_far = jnp.abs(z.astype(jnp.float32) - centre) > jnp.abs(exact - centre)
    return jnp.where(is_too_far, jnp.nextafter(*jax.lax.stop_gradient((z, x))), z)

  return project


@_in_float32
def onto_linf(x_adv: Images, x: Images, eps: Radius) -> Images:
  """Euclidean projection onto the l-infinity ball and the box: two clips, exact.

  Guarantees:
    `linf_result_is_in_ball_and_box`: |z - x| <= eps as the array's own arithmetic computes it.
    `linf_projection_keeps_what_is_inside`: bitwise.

  >>> onto_linf(jnp.array([[0.9, 0.1]]), jnp.array([[0.5, 0.0]]), 0.25).tolist()
  [[0.75, 0.10000000149011612]]
  """
  eps = jnp.broadcast_to(per_example(eps, x), x.shape)
  inside_ball = jnp.clip(x_adv, _add_towards(x, -eps), _add_towards(x, eps))
  return jnp.clip(inside_ball, 0.0, 1.0)


@_in_float32
def onto_l2(x_adv: Images, x: Images, eps: Radius) -> Images:
  """Radial projection onto the l2 ball, then the clip to [0, 1], as is usual.

  The clip only moves pixels towards x, so both constraints hold. It is not the Euclidean projection
  onto their intersection (`onto_l2_and_box` is): where the box clips, part of eps stays unused.

  Guarantees:
    `l2_result_is_in_ball_and_box`: up to rounding of the norm, 1e-6 of eps.

  >>> onto_l2(jnp.array([[0.75, 1.0]]), jnp.array([[0.0, 0.0]]), 0.625).tolist()
  [[0.375, 0.5]]
  """
  delta = x_adv - x
  norm = l2_norm(delta)
  eps = per_example(eps, x)
  shrunk = _add_towards(x, delta * (eps / jnp.where(norm > 0, norm, 1.0)))
  return jnp.clip(jnp.where(norm <= eps, x_adv, shrunk), 0.0, 1.0)


@_in_float32
def onto_l2_and_box(x_adv: Images, x: Images, eps: Radius) -> Images:
  """Euclidean projection onto the intersection of the l2 ball and the box.

  The minimiser is z = clip(x + t (x_adv - x), 0, 1) with the largest t in [0, 1] that keeps
  ||z - x|| <= eps; t is found by bisection.

  Guarantees:
    `l2_projection_is_euclidean`: agrees with a float64 reference solver.
    `l2_result_is_in_ball_and_box`: up to rounding of the norm, 1e-6 of eps.

  >>> onto_l2_and_box(jnp.array([[2.0, 1.0]]), jnp.array([[0.875, 0.0]]), 0.625).round(2).tolist()
  [[1.0, 0.6100000143051147]]
  """
  delta = x_adv - x
  size, room = jnp.abs(delta), _room(x, delta)
  eps = per_example(eps, x)

  def shift(fraction):
    return jnp.minimum(fraction * size, room)

  zero = jnp.zeros_like(max_pixels(size))
  shift = _largest_shift_inside(shift, l2_norm, eps, inside=zero, outside=zero + 1)
  return _clipped_or_shifted(x_adv, x, l2_norm, eps, jnp.sign(delta) * shift)


@_in_float32
def onto_l1(x_adv: Images, x: Images, eps: Radius) -> Images:
  """Euclidean projection onto the intersection of the l1 ball and the box.

  With d = x_adv - x and c the room up to the box in the direction of d, the minimiser moves pixel i
  by sign(d_i) min(max(|d_i| - a, 0), c_i), with the smallest a >= 0 that keeps the sum within eps;
  a is found by bisection. Clipping before or after a plain l1 projection is not the same, and
  weakens attacks (Croce and Hein, 2021).

  Guarantees:
    `l1_projection_is_euclidean`: agrees with a float64 reference solver.
    `l1_result_is_in_ball_and_box`: up to rounding of the sum, 1e-6 of eps.

  Reference: Croce and Hein, 2021, "Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image
  Classifiers", https://arxiv.org/abs/2103.01208.

  >>> onto_l1(jnp.array([[2.0, 0.75, 0.5]]), jnp.array([[0.75, 0.0, 0.0]]), 1.0).round(2).tolist()
  [[1.0, 0.5, 0.25]]
  """
  delta = x_adv - x
  size, room = jnp.abs(delta), _room(x, delta)
  eps = per_example(eps, x)

  def shift(threshold):
    return jnp.minimum(jnp.maximum(size - threshold, 0.0), room)

  highest = max_pixels(size)
  shift = _largest_shift_inside(
    shift, sum_pixels, eps, inside=highest, outside=jnp.zeros_like(highest)
  )
  return _clipped_or_shifted(x_adv, x, _l1_norm, eps, jnp.sign(delta) * shift)


def _l1_norm(values):
  """The sum of absolute values of each example, keeping the rank."""
  return sum_pixels(jnp.abs(values))


def _clipped_or_shifted(x_adv, x, norm_fn, eps, shift):
  """x_adv clipped to the box where that lies in the ball, else x + shift."""
  in_box = jnp.clip(x_adv, 0.0, 1.0)
  projected = jnp.clip(_add_towards(x, shift), 0.0, 1.0)
  return jnp.where(norm_fn(in_box - x) <= eps, in_box, projected)


def _largest_shift_inside(
  shift_fn: Callable[[Array], Array],
  norm_fn: Callable[[Array], Array],
  eps: Array,
  *,
  inside: Array,
  outside: Array,
) -> Array:
  """`shift_fn(a)` of norm <= eps, with a as near to `outside` as bisection gets from `inside`.

  Bisection rather than a sort of the break points: 40 passes over the pixels are cheaper on
  accelerators, and end at neighbouring floats. Differentiation holds a constant.
  """
  num_halvings = jnp.finfo(inside.dtype).nmant + 17

  def halve(_, bounds):
    inside, outside = bounds
    middle = inside + 0.5 * (outside - inside)
    is_inside = norm_fn(shift_fn(middle)) <= eps
    return jnp.where(is_inside, middle, inside), jnp.where(is_inside, outside, middle)

  inside, _ = jax.lax.fori_loop(0, num_halvings, halve, (inside, outside))
  # With eps = 0: XLA may compute the inputs of the shift again here, rounded differently.
  return jnp.where(eps > 0, shift_fn(inside), 0.0)
