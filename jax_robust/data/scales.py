"""The scale of pixels: what is not 8-bit becomes so exactly, or is refused with a remedy."""

import numpy as np


def exact_uint8(images: np.ndarray) -> np.ndarray:
  """Images of another dtype as uint8, where each value is exactly a level of 8 bits.

  A float x is the level k if it is k / 255 to within one unit in the last place; a 16-bit integer
  is the level k if it is 257 k, since 257 · 255 = 65535.

  Guarantees:
    `nothing_is_rounded`: k is returned for k / 255 and 257 k, and all else is refused.

  Args:
    images: floating or uint16, of any shape; uint8 is returned as it is.

  Raises:
    ValueError: a value is no such level; the message gives the range, and what keeps the image.

  >>> exact_uint8(np.float32([0, 0.2, 1])).tolist(), exact_uint8(np.uint16([257, 65535])).tolist()
  ([0, 51, 255], [1, 255])
  """
  if images.dtype == np.uint8:
    return images
  if images.dtype == np.uint16:
    levels, exact = (images + np.uint32(128)) // 257, images % np.uint16(257) == 0
  elif np.issubdtype(images.dtype, np.floating):
    with np.errstate(invalid="ignore", over="ignore"):
      levels = np.clip(np.nan_to_num(np.rint(images.astype(np.float64) * 255)), 0, 255)
      nearest = (levels / 255).astype(images.dtype)
      exact = np.abs(images - nearest) <= np.spacing(np.abs(nearest))
  else:
    raise ValueError(f"the images' dtype is {images.dtype}, expected uint8{remedy(images.dtype)}")
  if not exact.all():
    raise ValueError(
      f"the images' dtype is {images.dtype}, with values from {images.min():.6g} to "
      f"{images.max():.6g} that are no levels of 8 bits{remedy(images.dtype, images)}"
    )
  return levels.astype(np.uint8)


def remedy(dtype: np.dtype, images: np.ndarray | None = None) -> str:
  """`: …` with what makes uint8 of a dtype and keeps the image; values, if given, tell more."""
  rounding = "numpy.round(255 * images).astype(numpy.uint8)"
  if dtype == np.uint16:
    return (
      ": numpy.round(images / 257).astype(numpy.uint8) keeps the upper 8 of 16 bits; where fewer "
      "than 16 are used, scale by 255 / the largest value that is possible (a plain cast would "
      "keep the lower bits only)"
    )
  if not np.issubdtype(dtype, np.floating):
    return (
      ": numpy.asarray(images, numpy.uint8) keeps values of 0 to 255; scale others to that range"
    )
  if images is None:
    return f": {rounding} keeps images in [0, 1]; a plain cast makes them black"
  if not np.isfinite(images).all():
    return ": replace what is NaN or infinite"
  if images.min() < 0:
    return f": undo the normalisation (images * std + mean, which is in [0, 1]), then {rounding}"
  if images.max() > 1:
    return ": numpy.round(images).astype(numpy.uint8) keeps images in [0, 255]"
  return f": {rounding} keeps them to within 1/510"
