"""The sets that a comparison of image sets is about: pools of real images, and candidates."""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_robust import paths
from jax_robust.data import draws
from jax_robust.data.sources import Source, array_source, labels_of, select
from jax_robust.errors import ConfigError, near_miss, near_path, shown
from jax_robust.generate.augmented import AUGMENTATIONS, augment_once
from jax_robust.runs import build, exits
from jax_robust.train import metrics

HELDOUT, NOISE, AUGMENT = "heldout", "noise", "augment"
CONTROLS = (HELDOUT, NOISE, AUGMENT)
"""What stands for a set that is made here, not read: test images outside the test pool, uniform
noise, and `augment:NAME`, or `augment` for all of them."""

TRAIN, TEST = "train", "test"
"""The pools, which no candidate may be called like."""

FEWEST = 10
"""Images of a pool, at least."""

_NAME = re.compile(r"[\w.+-]+")


class Pools(NamedTuple):
  """Sets of one size.

  Attributes:
    size: images of each.
    train, test: real images, those that the config's runs train and are tested on.
    candidates: by name.
    cut_by: the set that had no more images, where `size` is less than was asked for; else "".
  """

  size: int
  train: Source
  test: Source
  candidates: Mapping[str, Source]
  cut_by: str


def read_names(items: Sequence[str], *, key: str) -> dict[str, str]:
  """Where each candidate is from, by name: a path, or one of `CONTROLS`.

  Args:
    items: `NAME=PATH`, a path, 'heldout', 'noise', 'augment:NAME' or 'augment'.
    key: of the config, for messages.

  Raises:
    ConfigError: there are none, two have one name, an augmentation or a path is unknown, or a name
      is no word.

  >>> read_names(("heldout", "augment:cutout"), key="candidates")
  {'heldout': 'heldout', 'cutout': 'augment:cutout'}
  """
  found: dict[str, str] = {}
  for item in items:
    for name, origin in _named(item, key):
      if name in found or name in (TRAIN, TEST):
        taken = "is the name of a pool" if name in (TRAIN, TEST) else "stands for two sets"
        raise ConfigError(f"config.{key}: {name!r} {taken}: write NAME=PATH with another name")
      if not _NAME.fullmatch(name):
        raise ConfigError(
          f"config.{key}: {shown(name)} can't name a set: expected letters, digits, _, ., + or -"
        )
      found[name] = origin
  if not found:
    raise ConfigError(
      f"config.{key} is empty: name sets, as --config.{key}='MINE=SHARDS/generated,heldout,noise'"
    )
  return found


def _named(item: str, key: str) -> list[tuple[str, str]]:
  """What an item of the list stands for: names, and where the sets are from."""
  kind, _, name = item.partition(":")
  if item in (HELDOUT, NOISE):
    return [(item, item)]
  if item == AUGMENT:
    return [(name, f"{AUGMENT}:{name}") for name in AUGMENTATIONS]
  if kind == AUGMENT:
    if name not in AUGMENTATIONS:
      hint = near_miss(name, AUGMENTATIONS)
      raise ConfigError(f"config.{key}: there is no augmentation {shown(name)}{hint}")
    return [(name, item)]
  name, path = paths.named_run(item)
  if not pathlib.Path(path).exists():
    hint = near_path(pathlib.Path(path)) or near_miss(item, CONTROLS)
    raise ConfigError(f"config.{key}: there is no set of images {shown(path)}{hint}")
  return [(name, path)]


def open_pools(config: Any, origins: Mapping[str, str], *, size: int, key: str) -> Pools:
  """Draws so many images of each set by class; fewer, and says so, where one has no more.

  What is drawn of train, of test and of each candidate is the same whatever the other candidates
  are, unless one of them is smaller.

  Args:
    config: says what train and test are, and the seed of what is made.
    origins: of `read_names`.
    size: images that are wanted of each.
    key: of the config that names the candidates, for messages.

  Raises:
    ConfigError: images of another shape than the training images, or a set of fewer than 10 images.
  """
  train = exits.training_images(config)
  test = build.load_test(config, None)
  opened = {
    name: build.open_images(config, path) for name, path in origins.items() if _is_path(path)
  }
  for name, source in {TEST: test, **opened}.items():
    if source.image_shape != train.image_shape:
      raise ConfigError(
        f"config.{key}: {name} has images of shape {list(source.image_shape)}, {train.name} of "
        f"{list(train.image_shape)}: bring both to one number of channels, and to one size by "
        "config.data.image_size"
      )
  has_heldout = HELDOUT in origins.values()
  counts = {name: source.num_examples for name, source in {TRAIN: train, **opened}.items()}
  counts[TEST] = test.num_examples // 2 if has_heldout else test.num_examples
  smallest = min(counts, key=lambda name: counts[name])
  cut_by = smallest if counts[smallest] < size else ""
  size = min(size, counts[smallest])
  if size < FEWEST:
    raise ConfigError(f"config.{key}: {smallest} has {size} images: expected {FEWEST} or more")
  if cut_by:
    half = ", a half of it being held out" if cut_by == TEST and has_heldout else ""
    metrics.report(f"all sets are cut to {size} images: {cut_by} has no more{half}")
  pool = _draw(train, size)
  images = pool.read(np.arange(size))[0]
  candidates = {
    name: _draw(opened[name], size)
    if name in opened
    else _make(origin, test, images, size=size, seed=config.seed)
    for name, origin in origins.items()
  }
  return Pools(size, pool, _draw(test, size), candidates, cut_by)


def _is_path(origin: str) -> bool:
  """Whether a set is read, not made."""
  return origin.partition(":")[0] not in CONTROLS


def _draw(source: Source, size: int, *, skip: int = 0) -> Source:
  """Images of a set in the order that mixes its classes, behind the first `skip`."""
  rows = draws.order(labels_of(source))[skip : skip + size]
  return select(source, rows, f"{size} of {source.name} by class")


def _make(origin: str, test: Source, train: np.ndarray, *, size: int, seed: int) -> Source:
  """A set that is not read: held-out images, noise, or augmented images of the training pool."""
  if origin == HELDOUT:
    return _draw(test, size, skip=size)
  if origin == NOISE:
    images = np.random.default_rng(seed).integers(0, 256, train.shape, np.uint8)
  else:
    images = augment_once(train, origin.partition(":")[2], seed=seed)
  return array_source(images, np.zeros(size, int), name=origin)
