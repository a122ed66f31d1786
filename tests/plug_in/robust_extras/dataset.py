"""A data set: stripes, across or along."""

import numpy as np

from jax_robust import data
from jax_robust.data.sources import array_source


def stripes(split):
  labels = np.arange(64 if split == "train" else 32) % 2
  images = np.zeros((len(labels), 8, 8, 1), np.uint8)
  images[labels == 0, ::2], images[labels == 1, :, ::2] = 200, 200
  return array_source(images, labels, num_classes=2, name="stripes")


data.DATASETS["stripes"] = stripes
