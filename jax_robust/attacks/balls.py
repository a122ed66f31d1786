"""Threat models: the norm balls that an attack may not leave, always intersected with [0, 1]."""

import dataclasses
import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jax_robust.attacks import projections
from jax_robust.attacks.projections import Images, l2_norm, max_pixels, per_example, sum_pixels
from jax_robust.errors import (
  as_numbers,
  check_eps,
  check_flag,
  check_name,
  check_per_image,
  is_traced,
  warn,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ball:
  """The set {z in [0, 1] : ||z - x|| <= eps}, a pytree whose radius is traced.

  Build it with `linf_ball`, `l2_ball` or `l1_ball`. Since `eps` is a leaf, a jitted function that
  takes a ball compiles once for a whole curve of radii.

  Attributes:
    eps: radius in units of the image (8/255, not 8); scalar, or `[b]` for one per example. In linf
      also one per pixel, an array of two axes or more that broadcasts to the images: 0 leaves a
      pixel alone. PGD, its relatives and APGD take it.
    sparsity: l1 only: the share of pixels that one ascent step moves, scalar or `[b]`.
    norm: 'linf', 'l2' or 'l1'; static.
    exact: l2 only: project onto the intersection of ball and box rather than onto one after the
      other; static.
  """

  eps: Any  # not typed: a pytree's leaves are sometimes specs or tracers
  sparsity: Any = None
  norm: str = dataclasses.field(default="linf", metadata={"static": True})
  exact: bool = dataclasses.field(default=False, metadata={"static": True})

  def sample(self, keys: Key[Array, " b"], x: Images) -> Images:
    """Draws a perturbation uniformly from the ball of each example, whatever the box.

    Args:
      keys: one key per example, `[b]`: row i depends on nothing else.
      x: images, `[b, ...]`; only shape and dtype matter.

    Returns:
      Perturbations delta, `[b, ...]`, to be added to x and projected.
    """
    # bfloat16 draws would take 128 values only.
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    draw = jax.vmap(lambda key: _UNIT_SAMPLES[self.norm](key, x.shape[1:], dtype))(keys)
    return draw.astype(x.dtype) * per_example(self.eps, x)

  def ascent(self, gradient: Images) -> Images:
    """The direction of steepest ascent, of unit length in the ball's own norm, per example.

    - linf: sign(g).
    - l2: g / ||g||_2.
    - l1: sign(g) / k on the k pixels of largest |g|, a share `sparsity` of all (`sparsity=0`: the
      largest only, which is the true steepest ascent, but moves one pixel a step). Ties with the
      k-th are moved too.

    Guarantees:
      `zero_gradient_gives_zero`: no division by zero.
      `non_finite_gradient_counts_as_zero`: NaN or infinite entries do not move their pixel, and do
        not touch the others.
      `ascent_has_unit_norm`: for every gradient with a finite non-zero entry, down to 1e-37.

    Args:
      gradient: of the loss to ascend, `[b, ...]`.

    Returns:
      Directions, `[b, ...]`.
    """
    gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
    if self.norm == "linf":
      return jnp.sign(gradient)
    if self.norm == "l2":
      # Scaled first: the square of 1e-20, a gradient that saturated softmax gives, is 0.
      scaled = gradient / _nonzero(max_pixels(jnp.abs(gradient)))
      return scaled / _nonzero(jnp.sqrt(sum_pixels(scaled**2)))
    return _sparse_sign(gradient, self.sparsity)

  def project(self, x_adv: Images, x: Images) -> Images:
    """Projects `x_adv` onto the ball around x intersected with [0, 1], per example.

    Guarantees:
      `result_is_in_ball_and_box`: distance(z, x) <= eps (1 + 1e-6), 0 <= z <= 1, computed in
        float64 from the numbers that are returned, be they float64, float32, float16 or bfloat16.
      `zero_radius_is_the_identity`: eps = 0 returns x, bitwise.

    Args:
      x_adv: points to project, `[b, ...]`.
      x: centres, `[b, ...]`, in [0, 1].

    Returns:
      `[b, ...]`. linf and l1: the nearest point of the intersection. l2: see `exact`.
    """
    projection = _PROJECTIONS[self.norm, self.exact]
    return projection(x_adv, x, self.eps)

  def distance(self, x_adv: Images, x: Images) -> Float[Array, " b"]:
    """||x_adv - x|| of each example in the ball's norm, `[b]`."""
    return _NORMS[self.norm](x_adv - x).reshape(-1)


def linf_ball(eps: Any) -> Ball:
  """The ball |z_i - x_i| <= eps of every pixel; eps in units of the image.

  Args:
    eps: radius, at most 1; scalar, `[b]`, or one per pixel: see `Ball`.

  Raises:
    TypeError, ValueError: as `errors.check_eps`; so do `l2_ball` and `l1_ball`.

  >>> ball = linf_ball(0.25)
  >>> ball.project(jnp.array([[0.9, 0.1]]), jnp.array([[0.5, 0.5]])).tolist()
  [[0.75, 0.25]]
  """
  return Ball(_radius(eps, "linf"), norm="linf")


def l2_ball(eps: Any, *, exact: bool = False) -> Ball:
  """The ball ||z - x||_2 <= eps; eps in units of the image.

  Args:
    eps: radius; scalar or `[b]`.
    exact: project onto the intersection with [0, 1] (bisection, about 40 passes over the pixels).
      The default scales, then clips, as published attacks do, and leaves part of eps unused where
      the box clips.

  >>> l2_ball(1.0).ascent(jnp.array([[0.0, -4.0], [0.0, 0.0]])).tolist()
  [[0.0, -1.0], [0.0, 0.0]]
  """
  check_flag(exact=exact)
  return Ball(_radius(eps, "l2"), norm="l2", exact=exact)


def l1_ball(eps: Any, *, sparsity: Any = 0.01) -> Ball:
  """The ball ||z - x||_1 <= eps; eps in units of the image.

  Args:
    eps: radius; scalar or `[b]`.
    sparsity: share in [0, 1] of the pixels that an ascent step moves, scalar or `[b]`. The default
      is the 99 % quantile of SLIDE; APGD starts at 0.2 and adapts it.

  Reference: Tramèr and Boneh, 2019, "Adversarial Training and Robustness for Multiple
  Perturbations", https://arxiv.org/abs/1904.13000.

  >>> l1_ball(1.0, sparsity=0.5).ascent(jnp.array([[3.0, -4.0, 1.0, 0.0]])).tolist()
  [[0.5, -0.5, 0.0, 0.0]]
  """
  if not is_traced(sparsity):
    shares = as_numbers(sparsity, "sparsity")
    if shares.ndim > 1 or not ((shares >= 0) & (shares <= 1)).all():
      raise ValueError(f"sparsity={sparsity}: expected a share of the pixels, in [0, 1]")
  return Ball(_radius(eps, "l1"), sparsity=sparsity, norm="l1")


BALLS = {"linf": linf_ball, "l2": l2_ball, "l1": l1_ball}
"""The balls by the name a config gives their norm."""


def check_norm(name: str, ball: Ball, norm: str, otherwise: str = "") -> None:
  """Raises ValueError where the ball is not of the norm that the attack `name` is made for."""
  check_is_ball(ball)
  if ball.norm != norm:
    raise ValueError(f"ball.norm={ball.norm!r}: {name} needs an {norm}_ball{otherwise}")


def check_is_ball(ball: Any) -> Ball:
  """The ball itself; raises TypeError for anything else, such as a radius."""
  if not isinstance(ball, Ball):
    raise TypeError(f"ball={ball!r}: expected a ball, such as attacks.linf_ball(8 / 255)")
  return ball


def check_ball(name: str, ball: Any, x: Any, *, per_pixel: bool, minimum_norm: bool) -> None:
  """Raises unless an attack can keep its images in a ball; warns where that holds all images.

  Args:
    name: of the attack.
    ball: the ball; values of its radius are looked at where they are concrete.
    x: the images; only shape and dtype matter.
    per_pixel: whether the attack takes a radius for each pixel.
    minimum_norm: whether it looks for the nearest point, so that any ball will do.

  Raises:
    TypeError: it is no ball; as `errors.check_eps`.
    ValueError: as `errors.check_eps`; radii of a shape that does not fit the images.
  """
  check_is_ball(ball)
  check_name("ball.norm", ball.norm, BALLS)
  check_eps(ball.eps, ball.norm)
  if ball.norm == "l1":
    check_per_image(x.shape[0], **{"ball.sparsity": ball.sparsity})
  shape = np.shape(ball.eps)
  if len(shape) > 1:
    if ball.norm != "linf" or not per_pixel:
      raise ValueError(
        f"ball.eps has shape {shape}: {name} in {ball.norm} takes one radius, or one per image "
        f"[{x.shape[0]}]; one per pixel is for pgd, its relatives and apgd in linf, "
        "without large_radii"
      )
    if not _broadcasts(shape, x.shape):
      raise ValueError(f"ball.eps has shape {shape}: expected one that broadcasts to {x.shape}")
  elif shape not in ((), (1,), x.shape[:1]):
    raise ValueError(
      f"ball.eps has shape {shape}: expected one radius, or one for each of {x.shape[0]} images; "
      "one per pixel has at least two axes, such as eps[None]"
    )
  if is_traced(ball.eps) or minimum_norm or ball.norm == "linf":
    return
  num_pixels = math.prod(x.shape[1:])
  farthest = num_pixels if ball.norm == "l1" else math.sqrt(num_pixels)
  largest = float(np.max(ball.eps))
  if largest > farthest:
    warn(
      f"{name}: ball.eps={largest:g} is larger than the box [0, 1] of {num_pixels} pixels, whose "
      f"corners are {farthest:.3g} apart in {ball.norm}: was {largest:g}/255 meant?"
    )


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
  """Whether an array broadcasts to a shape, without making it larger."""
  try:
    return np.broadcast_shapes(shape, to) == to
  except ValueError:
    return False


def _radius(eps: Any, norm: str) -> Any:
  """Checked; Python numbers, fractions among them, become floats."""
  check_eps(eps, norm)
  return float(eps) if isinstance(eps, numbers.Real) else eps


def _nonzero(values: Array) -> Array:
  """Replaces 0 by 1, for divisions of 0 by 0 that should give 0."""
  return jnp.where(values > 0, values, 1.0)


def _sparse_sign(gradient: Array, sparsity: Any) -> Array:
  """The signs of the largest entries, spread so that their absolute values sum to one."""
  flat = jnp.abs(gradient).reshape(gradient.shape[0], -1)
  num_pixels = flat.shape[1]
  # The rank of the threshold as APGD for l1 has it; sparsity 0 still keeps the largest.
  share = jnp.broadcast_to(jnp.asarray(sparsity, gradient.dtype), flat.shape[:1])
  rank = jnp.clip(((1 - share) * num_pixels).astype(jnp.int32), 0, num_pixels - 1)
  threshold = jnp.take_along_axis(jnp.sort(flat, axis=1), rank[:, None], axis=1)
  kept = jnp.abs(gradient) >= per_example(threshold[:, 0], gradient)
  signs = jnp.sign(jnp.where(kept, gradient, 0.0))
  return signs / _nonzero(sum_pixels(jnp.abs(signs)))


def _sample_linf(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
  """Uniform in [-1, 1) per pixel."""
  return jax.random.uniform(key, shape, dtype, minval=-1.0, maxval=1.0)


def _sample_l2(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
  """Uniform in the unit l2 ball of dimension d: d coordinates of the sphere in d + 2."""
  size = math.prod(shape)
  normal = jax.random.normal(key, (size + 2,), dtype)
  return (normal[:size] / jnp.linalg.norm(normal)).reshape(shape)


def _sample_l1(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
  """Uniform in the unit l1 ball of dimension d: d coordinates of the l1 sphere in d + 1."""
  size = math.prod(shape)
  laplace = jax.random.laplace(key, (size + 1,), dtype)
  return (laplace[:size] / jnp.sum(jnp.abs(laplace))).reshape(shape)


_UNIT_SAMPLES = {"linf": _sample_linf, "l2": _sample_l2, "l1": _sample_l1}

_PROJECTIONS = {
  ("linf", False): projections.onto_linf,
  ("l2", False): projections.onto_l2,
  ("l2", True): projections.onto_l2_and_box,
  ("l1", False): projections.onto_l1,
}

_NORMS = {
  "linf": lambda delta: max_pixels(jnp.abs(delta)),
  "l2": l2_norm,
  "l1": lambda delta: sum_pixels(jnp.abs(delta)),
}
