"""Training batches from images that all lie on the device, drawn as `data.pipeline` draws them."""

import itertools
from collections.abc import Callable, Generator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jax_robust.data import columns, mixture
from jax_robust.data.permutation import draw, locate
from jax_robust.errors import check_count


def make_resident(
  original,
  generated,
  *,
  batch_size: int,
  original_share: float,
  emulated_workers: int = 4,
  num_slices: int = 1,
  seed: int = 0,
  sharding: jax.sharding.Sharding | None = None,
) -> Callable[..., Generator[dict[str, jax.Array], None, None]]:
  """Puts all images on the device and returns `batches(start_step, num_steps=None) -> iterator`.

  Original and generated images each come in the order of an exact permutation of their whole set,
  another one each pass, computed inside `jit`; the host sends four integers a step.

  Guarantees:
    `same_originals`: the original images of a step are those of `pipeline.train_batches` with that
      seed, in the same rows; so are the generated ones of a plain source.
    `once_per_pass`: each pass shows every image once (originals in as many rows as they are
      repeated).
    `compiles_once`: neither another step nor another start compiles again.

  Args:
    original, generated, batch_size, original_share, emulated_workers, num_slices, seed: as in
      `pipeline.train_batches`.
    sharding: how the rows of a batch lie on the devices, such as `NamedSharding(mesh, P("data"))`;
      every device of its mesh then holds all images. None for one device.

  Returns:
    A function of the step to begin at; its batches are those of `pipeline.train_batches`, as arrays
    on the device.

  Raises:
    ValueError: an argument is out of range, or a source is missing or does not fit the other.
  """
  mix = mixture.composition(
    batch_size,
    original_share=original_share,
    emulated_workers=emulated_workers,
    num_slices=num_slices,
  )
  mixture.check_sources(mix, original, generated)
  streams = [(mix.num_distinct, original), (mix.num_generated, generated)]
  sources = [source for count, source in streams if count]
  replicated = None
  if isinstance(sharding, jax.sharding.NamedSharding):
    replicated = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
  soft = mixture.has_probabilities(original, generated, original_share=original_share)
  kept = jax.device_put(_read_all(sources, soft), replicated)
  sizes = tuple((count, source.num_examples if count else 0) for count, source in streams)
  pick = jax.jit(partial(_pick, mix=mix, sizes=sizes, seed=seed), out_shardings=sharding)

  def batches(start_step: int = 0, num_steps: int | None = None):
    check_count(0, start_step=start_step)
    steps = itertools.islice(itertools.count(start_step), num_steps)
    return (pick(kept, _places(step, sizes)) for step in steps)

  batches.pick = pick  # pyrefly: ignore[missing-attribute]
  return batches


def _places(step, sizes):
  """Returns uint32 [2, 2]: the (pass, position) at which a step enters either stream."""
  places = [locate(step, count, num) if count else (0, 0) for count, num in sizes]
  return np.array(places).astype(np.uint32)


def _pick(kept, places, *, mix, sizes, seed):
  """Gathers a batch; `places` holds (pass, position) of the original and the generated stream."""
  ids, first = [], 0
  for kind, (count, num) in enumerate(sizes):
    if count:
      drawn = draw(places[kind, 0], places[kind, 1], count=count, num=num, seed=(seed, kind))
      ids.append(first + drawn)
    first += num
  original = mixture.original_rows(mix)
  slots = mixture.row_slots(mix) + np.where(original, 0, mix.num_distinct)
  index = jnp.concatenate(ids)[slots]
  return {
    **{name: array[index] for name, array in kept.items()},
    "generated": jnp.asarray(~original),
    "row": jnp.arange(mix.batch_size, dtype=jnp.int32),
  }


def _read_all(sources, soft):
  """Reads the sources into one array of each kind, in order: images, labels, probabilities."""
  num = sum(source.num_examples for source in sources)
  kept = {
    "image": np.empty((num, *sources[0].image_shape), np.uint8), "label": np.empty(num, np.int32)
  }  # fmt: skip
  if soft:
    kept[columns.PROBABILITIES] = np.empty((num, sources[0].num_classes), np.float32)
  first = 0
  for source in sources:
    start = 0
    for images, labels in source.batches(8192):
      ids = np.arange(start, start + len(labels))
      here = first + ids
      kept["image"][here], kept["label"][here] = images, labels
      if soft:
        kept[columns.PROBABILITIES][here] = columns.probabilities_of(source, ids, labels)
      start += len(labels)
    first += source.num_examples
  return kept
