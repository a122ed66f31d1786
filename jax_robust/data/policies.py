"""AutoAugment and RandAugment: random sequences of image operations, inside the jitted step.

The five geometric operations are one gather whose matrix is looked up, so that an image costs one
gather, one histogram and a few element-wise maps per operation of its sequence.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jax_robust.data import image_ops
from jax_robust.errors import check_count, check_name

Policy: TypeAlias = Callable[[Array, Array], Array]
"""`policy(image, key) -> image`: one uint8 image `[h, w, c]`, one typed key."""

# (operation, probability, level 0..9) twice: AutoAugment's supplement, the best policies found on
# reduced CIFAR-10 and on reduced SVHN. Operations without a magnitude carry level 0.
SUBPOLICIES = {
  "autoaugment": """
    invert .1 0 contrast .2 6; rotate .7 2 translate_x .3 9; sharpness .8 1 sharpness .9 3
    shear_y .5 8 translate_y .7 9; autocontrast .5 0 equalize .9 0; shear_y .2 7 posterize .3 7
    color .4 3 brightness .6 7; sharpness .3 9 brightness .7 9; equalize .6 0 equalize .5 0
    contrast .6 7 sharpness .6 5; color .7 7 translate_x .5 8; equalize .3 0 autocontrast .4 0
    translate_y .4 3 sharpness .2 6; brightness .9 6 color .2 8; solarize .5 2 invert 0 0
    equalize .2 0 autocontrast .6 0; equalize .2 0 equalize .6 0; color .9 9 equalize .6 0
    autocontrast .8 0 solarize .2 8; brightness .1 3 color .7 0; solarize .4 5 autocontrast .9 0
    translate_y .9 9 translate_y .7 9; autocontrast .9 0 solarize .8 3; equalize .8 0 invert .1 0
    translate_y .7 9 autocontrast .9 0""",
  "autoaugment_svhn": """
    shear_x .9 4 invert .2 0; shear_y .9 8 invert .7 0; equalize .6 0 solarize .6 6
    invert .9 0 equalize .6 0; equalize .6 0 rotate .9 3; shear_x .9 4 autocontrast .8 0
    shear_y .9 8 invert .4 0; shear_y .9 5 solarize .2 6; invert .9 0 autocontrast .8 0
    equalize .6 0 rotate .9 3; shear_x .9 4 solarize .3 3; shear_y .8 8 invert .7 0
    equalize .9 0 translate_y .6 6; invert .9 0 equalize .6 0; contrast .3 3 rotate .8 4
    invert .8 0 translate_y 0 2; shear_y .7 6 solarize .4 8; invert .6 0 rotate .8 4
    shear_y .3 7 translate_x .9 3; shear_x .1 6 invert .6 0; solarize .7 2 translate_y .6 7
    shear_y .8 4 invert .8 0; shear_x .7 9 translate_y .8 3; shear_y .8 5 autocontrast .7 0
    shear_x .7 2 invert .1 0""",
}

RANDAUGMENT_OPS = (
  *("identity", "autocontrast", "equalize", "rotate", "solarize", "color", "posterize"),
  *("contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)

MAX_MAGNITUDE = 30

POLICIES = (*SUBPOLICIES, "randaugment")

_TONES = {
  "posterize": image_ops.posterize,
  "solarize": image_ops.solarize,
  "brightness": image_ops.brightness,
  "contrast": image_ops.contrast,
  "color": image_ops.color,
  "sharpness": image_ops.sharpness,
  "invert": lambda image, _: image_ops.invert(image),
  "autocontrast": lambda image, _: image_ops.autocontrast(image),
  "equalize": lambda image, _: image_ops.equalize(image),
}
_GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_IDENTITY, _AFFINE = 0, 1
_BRANCH = {
  "identity": _IDENTITY,
  **dict.fromkeys(_GEOMETRIC, _AFFINE),
  **{name: number + 2 for number, name in enumerate(_TONES)},
}


class _Table(NamedTuple):
  """What a policy draws from: one row per operation at one strength, one column per sign."""

  branch: Array  # [n]
  probability: Array  # [n]
  amount: Array  # [n, 2]
  matrix: Array  # [n, 2, 6]


def op_amount(name: str, strength: float, sign: int, *, height: int, width: int) -> float:
  """An operation's amount at `strength` in [0, 1]: the ranges of AutoAugment's table 6."""
  signed = {
    "shear_x": 0.3 * strength,
    "shear_y": 0.3 * strength,
    "translate_x": int(150 / 331 * width * strength),
    "translate_y": int(150 / 331 * height * strength),
    "rotate": 30.0 * strength,
  }
  if name in signed:
    return sign * signed[name]
  if name in ("brightness", "contrast", "color", "sharpness"):
    return 1.0 + sign * 0.9 * strength
  return {"posterize": 8 - round(4 * strength), "solarize": 256 * (1 - strength)}.get(name, 0.0)


def op_matrix(name: str, amount: float, *, height: int, width: int) -> tuple[float, ...]:
  """The 2x3 matrix of a geometric operation, from output to input pixels; else the identity."""
  if name == "rotate":
    return image_ops.rotate_matrix(amount, height=height, width=width)
  shear_x, shear_y, dx, dy = (float(amount) if name == op else 0.0 for op in _GEOMETRIC[:4])
  return (1.0, shear_x, dx, shear_y, 1.0, dy)


def apply_op(image: Array, branch: Array, amount: Array, matrix: Array, *, fill: int) -> Array:
  """One operation, chosen by a traced branch number; `matrix` is in fixed point."""

  tones = [lambda x, tone=tone: tone(x, amount) for tone in _TONES.values()]
  branches = [lambda x: x, lambda x: image_ops.affine(x, matrix, fill=fill), *tones]
  return lax.switch(branch, branches, image)


def _parse(text: str) -> list[tuple[str, float, float]]:
  """`op p level op p level; ...` into (operation, probability, strength in [0, 1])."""
  words = text.replace(";", " ").split()
  return [
    (op, float(p), int(level) / 9)
    for op, p, level in zip(words[::3], words[1::3], words[2::3], strict=True)
  ]


def _table(rows: list[tuple[str, float, float]], height: int, width: int) -> _Table:
  """Amounts and matrices, made on the host in float64 at trace time."""
  size = {"height": height, "width": width}
  ops, probabilities, strengths = zip(*rows, strict=True)
  amounts = [
    [op_amount(op, strength, sign, **size) for sign in (-1, 1)]
    for op, strength in zip(ops, strengths, strict=True)
  ]
  matrices = [
    [image_ops.fixed_point(op_matrix(op, amount, **size)) for amount in pair]
    for op, pair in zip(ops, amounts, strict=True)
  ]
  return _Table(
    branch=jnp.array([_BRANCH[op] for op in ops], jnp.int32),
    probability=jnp.array(probabilities, jnp.float32),
    amount=jnp.array(amounts, jnp.float32),
    matrix=jnp.array(np.array(matrices)),
  )


def make_policy(name: str, *, num_ops: int = 2, magnitude: int = 9, fill: int = 128) -> Policy:
  """Makes an augmentation policy for single images.

  AutoAugment draws one of 25 sub-policies, two operations each with its own probability and level;
  RandAugment draws `num_ops` of 14 operations with replacement, all at the same magnitude. Signs
  (of shears, shifts, rotations, and of the change of brightness, contrast, color, sharpness) are
  fair coins, so that the last four have factors 1 ± .9 strength, table 6's range [.1, 1.9].

  Guarantees:
    `ops_agree_with_pillow`: every operation, at every level, to within one grey level.
    `policy_applies_the_drawn_ops`: the result is one of the sequences that the policy allows.
    `subpolicies_are_the_published_ones`: 25 pairs, with their probabilities.

  Args:
    name: "autoaugment" (found on CIFAR-10), "autoaugment_svhn" or "randaugment".
    num_ops: RandAugment's N, operations per image.
    magnitude: RandAugment's M, 0 to 30; strength M / 30 of the largest magnitude.
    fill: grey level [0, 255] that shears, shifts and rotations uncover. The default mid-grey is
      close to the mean colour, which the authors' code uncovers.

  Returns:
    `policy(image, key) -> image` on uint8 `[h, w, c]`, c = 1 or 3; map it over a batch with `vmap`.
    Resampling is nearest neighbour. On one channel `color` is the identity.

  Raises:
    ValueError: an unknown name, or num_ops, magnitude or fill out of range; on call, an image that
      is not uint8 with one or three channels.

  >>> import jax, jax.numpy as jnp
  >>> policy = make_policy("randaugment", num_ops=2, magnitude=9)
  >>> policy(jnp.zeros((32, 32, 3), jnp.uint8), jax.random.key(0)).shape
  (32, 32, 3)

  Reference: Cubuk et al., "AutoAugment", 2019 (arXiv:1805.09501); Cubuk et al., "RandAugment", 2020
  (arXiv:1909.13719).
  """
  check_name("policy", name, POLICIES)
  check_count(num_ops=num_ops)
  if not 0 <= magnitude <= MAX_MAGNITUDE:
    raise ValueError(f"magnitude={magnitude}: expected 0 to {MAX_MAGNITUDE}")
  if not 0 <= fill <= 255:
    raise ValueError(f"fill={fill}: expected a grey level, 0 to 255")
  if name == "randaugment":
    rows = [(op, 1.0, magnitude / MAX_MAGNITUDE) for op in RANDAUGMENT_OPS]
  else:
    rows = _parse(SUBPOLICIES[name])
  num_draws = num_ops if name == "randaugment" else 2

  def pick(draws: Array) -> Array:
    if name == "randaugment":
      return (draws * len(rows)).astype(jnp.int32)
    return 2 * (draws[0] * (len(rows) // 2)).astype(jnp.int32) + jnp.arange(2)

  def policy(image: Array, key: Array) -> Array:
    if image.dtype != jnp.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3):
      raise ValueError(
        f"image is {image.dtype}{list(image.shape)}: a policy expects uint8 [h, w, c], c = 1 or 3"
      )
    table = _table(rows, *image.shape[:2])
    draws = jax.random.uniform(key, (3, num_draws), jnp.float32)
    drawn, signs = pick(draws[0]), (draws[1] < 0.5).astype(jnp.int32)
    gates = draws[2] < table.probability[drawn]
    branches = jnp.where(gates, table.branch[drawn], _IDENTITY)
    amounts, matrices = table.amount[drawn, signs], table.matrix[drawn, signs]
    # A scan, because XLA:CPU fuses unrolled operations and recomputes the first in the second.
    image, _ = lax.scan(
      lambda x, drawn: (apply_op(x, *drawn, fill=fill), None), image, (branches, amounts, matrices)
    )
    return image

  return policy
