"""The shortest move from a point in [0, 1] onto a hyperplane, without leaving [0, 1].

FAB linearises the boundary between two classes: `normal` is the gradient w of the difference of
their logits, `excess` the value <w, z> - b of the linearisation at the point z. The move d has the
least norm with <w, d> = -excess and 0 <= z + d <= 1. Where even the corner of the box that is
nearest to the hyperplane does not reach it, the move goes to that corner.

Every `move_*` takes
  point: z in [0, 1], `[b, ...]`;
  normal: w, `[b, ...]`; pixels whose entry is 0 are not moved;
  excess: <w, z> - b, `[b]`;
and returns d, `[b, ...]`. `move_lands_on_the_hyperplane_in_the_box`, up to rounding, and
`out_of_reach_goes_to_the_nearest_corner`.

Reference: Croce and Hein, 2020, "Minimally distorted Adversarial Examples with a Fast Adaptive
Boundary Attack", https://arxiv.org/abs/1907.02044.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_robust.attacks.projections import Images, max_pixels, per_example, sum_pixels


def move_linf(point: Images, normal: Images, excess: Float[Array, " b"]) -> Images:
  """The move of least l-infinity norm: d_i = -sign(w_i) min(a, room_i), with one a for all pixels.

  Guarantees:
    `linf_move_is_shortest`: agrees with a float64 linear program.

  >>> point, normal = jnp.array([[0.5, 0.125]]), jnp.array([[1.0, 1.0]])
  >>> move_linf(point, normal, jnp.array([0.5])).tolist()
  [[-0.375, -0.125]]
  """
  direction, weight, room, need = _towards(point, normal, excess)
  return direction * _fill_evenly(weight, jnp.ones_like(weight), room, need)


def move_l2(point: Images, normal: Images, excess: Float[Array, " b"]) -> Images:
  """The move of least Euclidean norm: d_i = -sign(w_i) min(a |w_i|, room_i), with one a for all.

  Guarantees:
    `l2_move_is_shortest`: agrees with a float64 root finder.

  >>> point, normal = jnp.array([[0.5, 0.5]]), jnp.array([[2.0, 1.0]])
  >>> move_l2(point, normal, jnp.array([0.625])).tolist()
  [[-0.25, -0.125]]
  """
  direction, weight, room, need = _towards(point, normal, excess)
  return direction * _fill_evenly(weight, weight, room, need)


def move_l1(point: Images, normal: Images, excess: Float[Array, " b"]) -> Images:
  """The move of least l1 norm: pixels of largest |w_i| go to the face of the box, one by one.

  The last of them goes part of the way; pixels that tie with it share that part.

  Guarantees:
    `l1_move_is_shortest`: agrees with a float64 linear program.

  >>> point, normal = jnp.array([[0.5, 0.5, 0.5]]), jnp.array([[2.0, 1.0, 4.0]])
  >>> move_l1(point, normal, jnp.array([2.5])).tolist()
  [[-0.25, -0.0, -0.5]]
  """
  direction, weight, room, need = _towards(point, normal, excess)
  return direction * _fill_heaviest(weight, room, need)


def _towards(point, normal, excess):
  """Signs of the move, |w| over its largest entry, room up to the box, and the gap to be closed."""
  size = jnp.abs(normal)
  largest = max_pixels(size)
  largest = jnp.where(largest > 0, largest, 1.0)  # scaled, or squares of 1e-20 vanish
  # Smaller ones are zero in some products and not in others.
  weight = jnp.where(size / largest > jnp.finfo(point.dtype).tiny, size / largest, 0.0)
  direction = -jnp.sign(normal) * jnp.sign(per_example(excess, point))
  room = jnp.maximum(jnp.where(direction > 0, 1 - point, point), 0.0)
  room = jnp.where((direction == 0) | (weight == 0), 0.0, room)
  return direction, weight, room, per_example(jnp.abs(excess), point) / largest


def _fill_evenly(weight, speed, room, need):
  """min(a speed, room) with the a >= 0 that makes sum weight min(a speed, room) = need.

  Newton's method from a = 0. The sum is concave and piecewise linear in a, so that a never
  overshoots, and each round divides gap times slope by four at least; a round that finds the slope
  of the last one has solved the piece that the solution lies on. A row stops by itself, whatever
  the rows beside it need.
  """
  speed = jnp.where(weight > 0, speed, 1.0)  # infinity times zero

  def newton(carry):
    a, last_slope, going = carry
    filled = sum_pixels(weight * jnp.minimum(a * speed, room))
    slope = sum_pixels(jnp.where(a * speed < room, weight * speed, 0.0))
    # Where all are full the hyperplane is out of reach.
    better = jnp.where(slope > 0, a + (need - filled) / jnp.where(slope > 0, slope, 1.0), jnp.inf)
    going = going & (better > a) & (slope != last_slope)
    return jnp.where(going, better, a), slope, going

  start = jnp.zeros_like(need), jnp.full_like(need, -1.0), need > 0
  a, _, _ = jax.lax.while_loop(lambda carry: jnp.any(carry[2]), newton, start)
  return jnp.minimum(a * speed, room)


def _fill_heaviest(weight, room, need):
  """room where weight is above a threshold, a share of it at the threshold, 0 below.

  The threshold is bisected down to neighbouring floats: cheaper than to sort the pixels.
  """

  def halve(_, bounds):
    above, below = bounds
    middle = below + 0.5 * (above - below)
    enough = sum_pixels(jnp.where(weight > middle, weight * room, 0.0)) > need
    return jnp.where(enough, above, middle), jnp.where(enough, middle, below)

  bounds = jnp.ones_like(need), jnp.full_like(need, 0.0)
  num_halvings = jnp.finfo(need.dtype).nmant + 17
  above, below = jax.lax.fori_loop(0, num_halvings, halve, bounds)
  whole, tied = weight > above, (weight > below) & (weight <= above)
  left = need - sum_pixels(jnp.where(whole, weight * room, 0.0))
  capacity = sum_pixels(jnp.where(tied, weight * room, 0.0))
  share = jnp.clip(left / jnp.where(capacity > 0, capacity, 1.0), 0.0, 1.0)
  return jnp.where(whole, room, jnp.where(tied, share * room, 0.0))


MOVES = {"linf": move_linf, "l2": move_l2, "l1": move_l1}
"""The moves by the norm of a ball."""
