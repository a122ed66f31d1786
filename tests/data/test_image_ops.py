"""Every image operation against Pillow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jax_robust.data import image_ops, policies

SHAPES = [(32, 32, 3), (28, 28, 1), (24, 40, 3)]
STRENGTHS = np.linspace(0, 1, 10)
EXACT = {"shear_x", "shear_y", "translate_x", "translate_y", "rotate"} | {
  *("posterize", "solarize", "invert", "equalize", "identity")
}
OPS = sorted(policies._BRANCH)
equalize = jax.jit(image_ops.equalize)


def make_image(shape, seed=0):
  """Ramps, a dull channel and noise: a histogram with gaps, so that equalize has work to do."""
  random = np.random.default_rng(seed)
  y, x = np.mgrid[: shape[0], : shape[1]]
  planes = [60 + 2 * x + 3 * y, 90 + 40 * np.sin(x / 4) * np.cos(y / 5), 100 + x - y]
  image = np.stack(planes[: shape[2]], -1) + random.normal(0, 6, shape)
  return np.clip(image, 0, 255).astype(np.uint8)


def to_pillow(image):
  return Image.fromarray(image[:, :, 0] if image.shape[-1] == 1 else image)


def pillow_op(name, image, amount, fill=128):
  """The operation as Pillow does it; geometry as in AutoAugment's released code."""
  picture = to_pillow(image)
  colour = fill if image.shape[-1] == 1 else (fill,) * 3
  warp = functools.partial(
    picture.transform, picture.size, Image.Transform.AFFINE, fillcolor=colour
  )
  ops = {
    "identity": lambda: picture,
    "shear_x": lambda: warp((1, amount, 0, 0, 1, 0)),
    "shear_y": lambda: warp((1, 0, 0, amount, 1, 0)),
    "translate_x": lambda: warp((1, 0, amount, 0, 1, 0)),
    "translate_y": lambda: warp((1, 0, 0, 0, 1, amount)),
    "rotate": lambda: picture.rotate(amount, fillcolor=colour),
    "posterize": lambda: ImageOps.posterize(picture, int(amount)),
    "solarize": lambda: ImageOps.solarize(picture, amount),
    "invert": lambda: ImageOps.invert(picture),
    "autocontrast": lambda: ImageOps.autocontrast(picture),
    "equalize": lambda: ImageOps.equalize(picture),
    "brightness": lambda: ImageEnhance.Brightness(picture).enhance(amount),
    "contrast": lambda: ImageEnhance.Contrast(picture).enhance(amount),
    "color": lambda: ImageEnhance.Color(picture).enhance(amount),
    "sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(amount),
  }
  return np.asarray(ops[name]()).reshape(image.shape)


@functools.cache
def _mapped():
  """`apply_op` over many (branch, amount, matrix) for one image; one compilation per shape."""
  return jax.jit(jax.vmap(functools.partial(policies.apply_op, fill=128), in_axes=(None, 0, 0, 0)))


@pytest.mark.parametrize("shape", SHAPES)
def test_ops_agree_with_pillow(shape):
  """Geometry, tone curves and equalize to the bit, blends and autocontrast within one level."""
  image, size = make_image(shape), {"height": shape[0], "width": shape[1]}
  names, amounts = zip(
    *(
      (name, policies.op_amount(name, strength, sign, **size))
      for name in OPS
      for strength in STRENGTHS
      for sign in (-1, 1)
    ),
    strict=True,
  )
  matrices = [
    image_ops.fixed_point(policies.op_matrix(name, amount, **size))
    for name, amount in zip(names, amounts, strict=True)
  ]
  branches = jnp.array([policies._BRANCH[name] for name in names])
  ours = _mapped()(image, branches, jnp.array(amounts, jnp.float32), jnp.array(matrices))
  for name, amount, got in zip(names, amounts, np.asarray(ours), strict=True):
    error = np.abs(got.astype(int) - pillow_op(name, image, amount).astype(int)).max()
    assert error <= (0 if name in EXACT else 1), (name, amount, error)


def test_amounts_are_those_of_the_papers_table():
  size = {"height": 32, "width": 40}
  amount = functools.partial(policies.op_amount, sign=1, **size)
  assert amount("shear_x", 1.0) == 0.3
  assert amount("translate_x", 1.0) == 18  # 150 of 331 pixels
  assert amount("translate_y", 1.0) == 14
  assert amount("rotate", 1.0) == 30
  assert [amount("posterize", level / 9) for level in range(10)] == [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]
  assert (amount("solarize", 0.0), amount("solarize", 1.0)) == (256, 0)
  assert amount("color", 1.0) == pytest.approx(1.9)
  assert policies.op_amount("color", 1.0, -1, **size) == pytest.approx(0.1)


def test_equalize_and_autocontrast_leave_constant_channels():
  image = np.full((16, 16, 3), 77, np.uint8)
  for op in (equalize, jax.jit(image_ops.autocontrast)):
    np.testing.assert_array_equal(op(image), image)


def test_equalize_with_few_levels_and_clipped_levels():
  """A brightest level with many pixels, where the step is small and levels pass 255."""
  random = np.random.default_rng(0)
  for levels, top in [(2, 3), (5, 100), (256, 700), (200, 30), (256, 260)]:
    values = random.integers(0, levels, 1024).astype(np.uint8)
    values[:top] = 255
    image = values.reshape(32, 32, 1)
    np.testing.assert_array_equal(equalize(image), pillow_op("equalize", image, 0))


def test_color_is_the_identity_on_one_channel():
  image = make_image((28, 28, 1))
  np.testing.assert_array_equal(image_ops.color(image, 1.9), image)


@pytest.mark.parametrize("degrees", [90.0, 180.0, -45.0, 0.0])
def test_rotate_by_large_angles(degrees):
  image = make_image((32, 32, 3))
  matrix = image_ops.fixed_point(image_ops.rotate_matrix(degrees, height=32, width=32))
  ours = image_ops.affine(jnp.asarray(image), jnp.asarray(matrix), fill=7)
  np.testing.assert_array_equal(ours, pillow_op("rotate", image, degrees, fill=7))
