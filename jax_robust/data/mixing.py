"""CutMix and mixup: one random draw per step, shared by all groups of a batch."""

import jax
import jax.numpy as jnp
from jax import Array

from jax_robust.errors import check_positive


def _beta(rng: Array, alpha: float, beta: float) -> Array:
  """A float32 Beta(alpha, beta) draw; Beta(1, 1) is uniform, without the sampler's second of
  compilation."""
  if alpha == beta == 1:
    return jax.random.uniform(rng, dtype=jnp.float32)
  return jax.random.beta(rng, alpha, beta, dtype=jnp.float32)


def _group(num_rows: int, group_size: int | None) -> int:
  """The rows of one group; None is the whole batch."""
  size = num_rows if group_size is None else group_size
  if size < 1 or num_rows % size:
    raise ValueError(f"group_size={group_size}: expected a divisor of the batch's {num_rows} rows")
  return size


def _partners(values: Array, permutation: Array) -> Array:
  """Every row's partner: the same permutation within each contiguous group."""
  groups = values.reshape(-1, permutation.shape[0], *values.shape[1:])
  return jnp.take(groups, permutation, axis=1, mode="clip").reshape(values.shape)


def cutmix_box(
  rng: Array, *, height: int, width: int, alpha: float = 1.0, beta: float = 1.0
) -> tuple[Array, Array, Array, Array]:
  """Draws CutMix' box, (top, bottom, left, right), half-open, in int32 scalars.

  Its side is sqrt(1 - λ) of the image's, λ ~ Beta(alpha, beta), its centre uniform. Sides are
  rounded down to whole and then to even numbers of pixels, as in the released TRADES code, and the
  box is clipped at the image's border.
  """
  check_positive(alpha=alpha, beta=beta)
  share_key, centre_key = jax.random.split(rng)
  share = jnp.sqrt(1.0 - _beta(share_key, alpha, beta))
  draws = jax.random.uniform(centre_key, (2,), jnp.float32)

  def interval(draw: Array, length: int) -> tuple[Array, Array]:
    half = (length * share).astype(jnp.int32) // 2
    centre = (length * draw).astype(jnp.int32)
    return jnp.clip(centre - half, 0, length), jnp.clip(centre + half, 0, length)

  return *interval(draws[0], height), *interval(draws[1], width)


def cutmix(
  images: Array,
  targets: Array,
  rng: Array,
  *,
  alpha: float = 1.0,
  beta: float = 1.0,
  group_size: int | None = None,
) -> tuple[Array, Array]:
  """Replaces one box of every image by its partner's: one λ, one box, one permutation per step.

  `x_i' = x_π(i)` inside the box and `x_i` outside; `t_i' = λ t_i + (1 - λ) t_π(i)`, where λ is the
  share of the image that is left outside the clipped box. π permutes within each contiguous group
  of `group_size` rows, the same way in each, which is how emulated workers act: no row meets a
  partner of another worker.

  Guarantees:
    `cutmix_labels_follow_the_pixels`: λ is the share of unchanged pixels.
    `cutmix_box_has_its_law`: the mean area is that of side sqrt(1 - λ), clipped.
    `cutmix_groups_act_alike`: a group's rows are what they are with the group alone.

  Args:
    images: `[b, h, w, c]`.
    targets: probabilities `[b, k]`.
    rng: one typed key of the step, the same on all devices.
    alpha: first parameter of λ's Beta law.
    beta: second parameter of λ's Beta law.
    group_size: rows of a group; None is the whole batch.

  Returns:
    Images and targets, mixed.

  Raises:
    ValueError: alpha or beta is not above 0; group_size does not divide the batch.

  >>> import jax, jax.numpy as jnp
  >>> x, t = jnp.zeros((4, 8, 8, 3)), jax.nn.one_hot(jnp.arange(4), 10)
  >>> mixed, soft = cutmix(x, t, jax.random.key(0))
  >>> mixed.shape, bool(jnp.allclose(soft.sum(1), 1))
  ((4, 8, 8, 3), True)

  Reference: Yun et al., "CutMix", 2019 (arXiv:1905.04899); Rebuffi et al., 2021 (arXiv:2103.01946).
  """
  box_key, permutation_key = jax.random.split(rng)
  permutation = jax.random.permutation(permutation_key, _group(images.shape[0], group_size))
  height, width = images.shape[1:3]
  top, bottom, left, right = cutmix_box(box_key, height=height, width=width, alpha=alpha, beta=beta)
  y, x = jnp.arange(height), jnp.arange(width)
  inside = ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))[None, :]
  cut = ((bottom - top) * (right - left)).astype(targets.dtype) / (height * width)
  mixed = jnp.where(inside[None, :, :, None], _partners(images, permutation), images)
  return mixed, targets + cut * (_partners(targets, permutation) - targets)


def mixup(
  images: Array,
  targets: Array,
  rng: Array,
  *,
  alpha: float = 1.0,
  group_size: int | None = None,
) -> tuple[Array, Array]:
  """`x_i' = λ x_i + (1 - λ) x_π(i)` and the same for targets: one λ ~ Beta(alpha, alpha) per step.

  Guarantees:
    `mixup_mixes_images_and_targets_alike`: both are one and the same convex combination.

  Args:
    images: floating, `[b, h, w, c]`.
    targets: probabilities `[b, k]`.
    rng: one typed key of the step, the same on all devices.
    alpha: both parameters of λ's Beta law.
    group_size: rows of a group, within which π permutes; None is the whole batch.

  Returns:
    Images and targets, mixed.

  Raises:
    ValueError: alpha is not above 0; group_size does not divide the batch.

  >>> import jax, jax.numpy as jnp
  >>> x, t = jnp.zeros((4, 8, 8, 3)), jax.nn.one_hot(jnp.arange(4), 10)
  >>> mixed, soft = mixup(x, t, jax.random.key(0), alpha=0.2)
  >>> bool(jnp.allclose(soft.sum(1), 1))
  True

  Reference: Zhang et al., "mixup", 2018 (arXiv:1710.09412).
  """
  check_positive(alpha=alpha)
  share_key, permutation_key = jax.random.split(rng)
  permutation = jax.random.permutation(permutation_key, _group(images.shape[0], group_size))
  share = _beta(share_key, alpha, alpha)

  def mix(values: Array) -> Array:
    weight = share.astype(values.dtype)
    return weight * values + (1 - weight) * _partners(values, permutation)

  return mix(images), mix(targets)
