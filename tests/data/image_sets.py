"""Tiny folders of images for tests: the first pixel of each says which image it is."""

import numpy as np
from PIL import Image


def picture(value, size=4):
  """An RGB image of one colour."""
  return np.full((size, size, 3), value, np.uint8)


def save(path, image):
  """Saves an array or a PIL image, and makes its folder."""
  path.parent.mkdir(parents=True, exist_ok=True)
  image = image if isinstance(image, Image.Image) else Image.fromarray(image)
  image.save(path)
  return path


def class_folders(root, counts, first=0):
  """A folder for each class of `{name: number of images}`; the images' values count up."""
  value = first
  for name, count in counts.items():
    (root / name).mkdir(parents=True, exist_ok=True)
    for index in range(count):
      save(root / name / f"{index:03d}.png", picture(value % 256))
      value += 1
  return root


def values_by_class(source):
  """`{name of the class: sorted values of its images}` of a source."""
  images, labels = source.read(np.arange(source.num_examples))
  found = {}
  for image, label in zip(images, labels, strict=True):
    found.setdefault(source.class_names[label], []).append(int(image[0, 0, 0]))
  return {name: sorted(values) for name, values in found.items()}


def assert_reads(source, images, labels, *choices):
  """Raises unless a source has these images and labels, for each choice of rows."""
  for rows in choices:
    found, found_labels = source.read(rows)
    np.testing.assert_array_equal(found, images[rows])
    np.testing.assert_array_equal(found_labels, labels[rows])
    assert found_labels.dtype == np.int32
