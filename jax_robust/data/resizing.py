"""Images brought to one size: the shorter side is scaled, then the centre is cut out."""

import dataclasses

import numpy as np

from jax_robust.data.sources import Source, subset
from jax_robust.errors import brought_by, check_count


def fit(image: np.ndarray, size: int) -> np.ndarray:
  """An image scaled to a shorter side of `size`, of which the central square is kept.

  Bilinear with antialiasing, as Pillow does it: to within a few grey levels of what is done to
  images of TFDS.

  Guarantees:
    `a_square_of_that_size_stays`: an image of that size is returned as it is.

  Args:
    image: uint8 `[h, w, c]`, c = 1 or 3.
    size: in pixels.

  Returns:
    uint8 `[size, size, c]`.

  >>> fit(np.full((4, 8, 1), 9, np.uint8), 2).tolist()
  [[[9], [9]], [[9], [9]]]
  """
  check_count(size=size)
  height, width, channels = image.shape
  if (height, width) == (size, size):
    return image
  with brought_by("train"):
    from PIL import Image

  shorter = min(height, width)
  rows, columns = (max(round(side * size / shorter), size) for side in (height, width))
  picture = Image.fromarray(image[..., 0] if channels == 1 else image)
  scaled = np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR))
  top, left = (rows - size) // 2, (columns - size) // 2
  return scaled.reshape(rows, columns, channels)[top : top + size, left : left + size]


def sized(source: Source, size: int) -> Source:
  """A view of a source whose images have that size; one whose images have it is returned as it is.

  Args:
    source: images and labels.
    size: height and width of its images.
  """
  channels = source.image_shape[2]
  if source.image_shape == (size, size, channels):
    return source

  whole = subset(source, 0, source.num_examples)  # which reads no shard past `read`

  def read(indices):
    images, labels = whole.read(indices)
    resized = np.empty((len(images), size, size, channels), np.uint8)
    for row, image in enumerate(images):
      resized[row] = fit(image, size)
    return resized, labels

  return dataclasses.replace(whole, name=source.name, image_shape=(size, size, channels), read=read)
