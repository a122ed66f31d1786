"""A set of images, each augmented once: what an augmentation makes of a data set, as a set."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from jax_robust.data.augment import make_prepare
from jax_robust.errors import check_name
from jax_robust.generate.constructed import to_nearest_bytes

AUGMENTATIONS: dict[str, Callable[[int], dict[str, Any]]] = {
  "crop_flip": lambda side: {"pad": side // 8, "flip": True},
  "cutout": lambda side: {"cutout": side // 2},
  "mixup": lambda side: {"mixup_alpha": 1.0},
  "cutmix": lambda side: {"cutmix": True},
  "autoaugment": lambda side: {"policy": "autoaugment"},
  "randaugment": lambda side: {"policy": "randaugment"},
}
"""Options of `make_prepare` by the height of an image, beside no crop and no flip: at 32 pixels
those of CIFAR-10, a crop of 4, a square of 16."""

_GROUP = 10
"""Images that share a draw of CutMix or mixup, and are one another's partners."""

_AT_ONCE = 50
"""Groups of a batch."""


def augment_once(
  images: UInt8[np.ndarray, "n h w c"], name: str, *, seed: int
) -> UInt8[np.ndarray, "n h w c"]:
  """Every image augmented once, by one augmentation alone.

  Guarantees:
    `rows_are_their_images`: image i is made of image i; with CutMix and mixup, of another one of
      its ten, too.
    `same_for_one_seed`: and if images follow, the first ones stay.

  Args:
    images: the originals.
    name: of the augmentation, as in `AUGMENTATIONS`.
    seed: of the draws.

  Raises:
    ValueError: no such augmentation.
  """
  check_name("augmentation", name, AUGMENTATIONS)
  num_groups = -(-len(images) // _GROUP)
  # The last group is filled up from the front, so that its partners are images of the set.
  filled = np.resize(images, (num_groups * _GROUP, *images.shape[1:]))
  groups = filled.reshape(num_groups, _GROUP, *images.shape[1:])
  make, key, made = _compiled(name, images.shape[1]), jax.random.key(seed), []
  for start in range(0, num_groups, _AT_ONCE):
    numbers = np.arange(start, start + _AT_ONCE)
    some = groups[np.minimum(numbers, num_groups - 1)]
    made.append(np.asarray(make(some, numbers, key))[: num_groups - start])
  return np.concatenate(made).reshape(filled.shape)[: len(images)]


@functools.cache
def _compiled(name: str, height: int) -> Callable:
  """`make(images [g, 10, h, w, c], numbers of the groups, key) -> images`, one program."""
  options: dict[str, Any] = {"pad": 0, "flip": False, **AUGMENTATIONS[name](height)}
  prepare = make_prepare(num_classes=2, smoothing_scope="none", **options)

  def of_group(images, number, key):
    rows = jnp.arange(_GROUP, dtype=jnp.int32)
    batch = {"image": images, "label": 0 * rows, "generated": rows < 0, "row": rows}
    return to_nearest_bytes(prepare(batch, jax.random.fold_in(key, number))["image"])

  return jax.jit(jax.vmap(of_group, (0, 0, None)))
