"""PNG and JPEG files: what a header promises, what is refused and why, and the pixels."""

import concurrent.futures
import logging
import os
import struct
import time
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_robust.data import npy
from jax_robust.data.sources import ALPHA, ImageShape
from jax_robust.errors import DataFileError, brought_by

MOST_PIXELS = 1 << 25
"""Of an image: larger ones are made to fill the memory, or want to be scaled down first."""

_NUM_THREADS = 16
_SECONDS_BETWEEN_REPORTS = 5.0
_AT_ONCE = 256  # files that a thread takes at a time

_DEEP = (
  "Only 8 bits are read. Keep the picture: numpy.round(values / 257).astype(numpy.uint8) of 16 "
  "bits (where a sensor uses fewer, scale by 255 / its largest value), saved by "
  "PIL.Image.fromarray. PIL's convert('RGB') or convert('L') would clip it."
)
_ONE_PICTURE = "Save the picture that is meant as a file of its own."
_ORIENTATION, _LAST_UPRIGHT = 0x0112, 4  # EXIF's; from 5 on, height and width change places
_REMEDIES = {
  "LA": ALPHA,
  "PA": ALPHA,
  "RGBA": ALPHA,
  "RGBa": ALPHA,
  "La": ALPHA,
  "CMYK": (
    "these are amounts of ink: PIL.Image.open(path).convert('RGB') gives the colours of a screen, "
    "without a colour profile approximately"
  ),
  "YCbCr": "PIL.Image.open(path).convert('RGB') keeps it",
}


def header(file: Any, where: str) -> ImageShape:
  """The shape of an image, read from its header.

  Args:
    file: a path, or the bytes as a stream.
    where: what error messages call it.

  Raises:
    DataFileError: it is no PNG or JPEG, too large, or not 8-bit grey or RGB.
  """
  with _opened(file, where) as image:
    return _shape(image, where)


def decode(file: Any, where: str) -> np.ndarray:
  """An image file as uint8 [h, w, 1 or 3]; arguments and errors as in `header`.

  A palette or one bit a pixel stand for RGB or grey, and are converted without loss. A photo that a
  camera marks as lying on its side (EXIF) is turned, as programs that show it do.
  """
  with brought_by("train"):
    from PIL import ImageOps

  with _opened(file, where) as image:
    shape = _shape(image, where)
    try:
      image.load()
      if _orientation(image) > 1:
        image = ImageOps.exif_transpose(image)
      if image.mode in ("P", "1"):
        image = image.convert("L" if image.mode == "1" else "RGB")
      return np.asarray(image).reshape(shape)
    except _errors() as error:
      raise _damaged(where, error) from error


def check_headers(files: Sequence[str], name: str, image_size: int | None = None) -> ImageShape:
  """Looks at the headers of all files, in parallel, and returns the one shape that they have.

  Args:
    files: paths.
    name: what they are, in what is told meanwhile.
    image_size: height and width that they will be brought to; None asks for one size.

  Raises:
    DataFileError: a file can't be used, or has another shape than the first one.
  """

  def shape_of(file: str) -> ImageShape:
    height, width, channels = header(file, file)
    return (image_size or height, image_size or width, channels)

  first = shape_of(files[0])
  began = told = time.monotonic()

  def look(start: int) -> None:
    for index in range(start, min(start + _AT_ONCE, len(files))):
      shape = shape_of(files[index])
      if shape != first:
        reason = f"image {index} has shape {list(shape)}, the first one ({files[0]}) {list(first)}"
        raise DataFileError(files[index], reason, one_shape(shape, first))

  with concurrent.futures.ThreadPoolExecutor(min(_NUM_THREADS, len(files))) as pool:
    jobs = pool.map(look, range(0, len(files), _AT_ONCE))
    try:
      for number, _ in enumerate(jobs, 1):
        if time.monotonic() - told > _SECONDS_BETWEEN_REPORTS:
          told, done = time.monotonic(), min(number * _AT_ONCE, len(files))
          rate = done / (told - began)
          logging.getLogger(__name__).info(
            "%s: the headers of %s of %s images are right, %.0f s to go",
            name, f"{done:,}", f"{len(files):,}", (len(files) - done) / rate,
          )  # fmt: skip
    finally:
      pool.shutdown(wait=False, cancel_futures=True)
  return first


def one_shape(shape: ImageShape, first: ImageShape) -> str:
  """What to do about images of two shapes."""
  if shape[2] != first[2]:
    return (
      "All images of a set must be grey, or all in colour: PIL.Image.open(path).convert('RGB')."
    )
  return (
    "All images of a set must have one size and kind: --config.data.image_size=64 brings them to "
    "one, in Python image_size=64."
  )


def _opened(file, where):
  """PIL's image of a file, of which only the header is read."""
  with brought_by("train"):
    from PIL import Image

  if isinstance(file, (str, os.PathLike)):
    npy.open_file(file).close()  # no pipe or device, which would hang
  try:
    return Image.open(file, formats=("PNG", "JPEG"))
  except Image.DecompressionBombError as error:
    raise _too_large(where, str(error)) from error
  except _errors() as error:
    raise _damaged(where, error) from error


def _shape(image, where: str) -> ImageShape:
  """The shape of an opened image, unless its pixels can't be kept."""
  width, height = image.size
  if width * height > MOST_PIXELS:
    raise _too_large(where, f"{width} × {height} pixels")
  mode = image.mode
  if mode.startswith(("I", "F")) or any(";16" in str(tile[3]) for tile in image.tile):
    raise DataFileError(where, f"is of mode {mode} with more than 8 bits a channel", _DEEP)
  if "transparency" in image.info:
    raise DataFileError(where, f"is of mode {mode} with transparent pixels", _sentence(ALPHA))
  if image.format == "PNG" and getattr(image, "is_animated", False):
    raise DataFileError(where, f"is an animation of {image.n_frames} pictures", _ONE_PICTURE)
  if mode not in ("L", "RGB", "P", "1"):
    remedy = _REMEDIES.get(mode, "PIL.Image.open(path).convert('RGB')")
    reason = f"is of mode {mode}, expected 8-bit grey (L) or RGB"
    raise DataFileError(where, reason, _sentence(remedy))
  if _orientation(image) > _LAST_UPRIGHT:
    height, width = width, height
  return height, width, 1 if mode in ("L", "1") else 3


def _orientation(image) -> int:
  """EXIF's number for how an opened image lies, 1 (as it is) to 8; 1 where none stands."""
  if "exif" not in image.info:  # asked for, PNG's would have all pixels read
    return 1
  try:
    number = image.getexif().get(_ORIENTATION, 1)
  except _errors():
    return 1
  return number if number in range(1, 9) else 1


def _sentence(text: str) -> str:
  """A remedy as a sentence."""
  return text[0].upper() * (not text.startswith("PIL")) + text[not text.startswith("PIL") :] + "."


def _too_large(where, what: str) -> DataFileError:
  """The error for an image of too many pixels."""
  reason = f"is too large: {what}, at most {MOST_PIXELS:,} are read"
  return DataFileError(where, reason, "Scale it down, or leave it out.")


def _damaged(where, error: Exception) -> DataFileError:
  """The error for what PIL can't read."""
  return DataFileError(where, f"cannot be decoded ({error})", "Make or fetch it again.")


def _errors() -> tuple[type[Exception], ...]:
  """What PIL raises for damaged files."""
  return (
    OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, AttributeError,
    OverflowError, MemoryError, struct.error, zlib.error,
  )  # fmt: skip
