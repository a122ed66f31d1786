"""Training batches, read from disk by tf.data or from the device; both backends draw the same."""

import functools
import inspect
import os
import weakref
from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from jax_robust.data import columns, mixture, resident
from jax_robust.data.permutation import draw, locate
from jax_robust.data.shard_order import ShardOrder
from jax_robust.data.tf_import import import_tensorflow
from jax_robust.errors import check_count, check_name

_FOREVER = 2**62


def make_train_batches(
  original, generated, *, backend: str = "tfdata", **kwargs
) -> Callable[..., Generator[dict[str, Any], None, None]]:
  """Returns `batches(start_step=0, num_steps=None) -> iterator` of a backend.

  Both backends follow one law: the same composition and layout, and the same original images at the
  same seed and step. "tfdata" streams from disk and yields the rows of this process as NumPy
  arrays; "resident" keeps the images on the device and yields device arrays of the global batch.

  Args:
    original: as in `train_batches`.
    generated: as in `train_batches`.
    backend: "tfdata" or "resident".
    **kwargs: the other arguments of `train_batches` or of `resident.make_resident`.

  Returns:
    A function of the step to begin at, which may be called again.

  Raises:
    ValueError: there is no such backend.
    TypeError: the backend has no such argument.
  """
  backends = {"tfdata": _make_tfdata, "resident": resident.make_resident}
  check_name("backend", backend, backends)
  return backends[backend](original, generated, **kwargs)


def train_batches(
  original,
  generated,
  *,
  batch_size: int,
  original_share: float,
  emulated_workers: int = 4,
  num_slices: int = 1,
  seed: int = 0,
  start_step: int = 0,
  num_steps: int | None = None,
  rows: slice | None = None,
  cycle_length: int = 16,
  prefetch: int = 2,
  num_threads: int | None = None,
) -> Generator[dict[str, np.ndarray], None, None]:
  """Yields the training batches from `start_step` on, read from disk as they are needed.

  Original images, and generated images of a plain source, come in the order of an exact permutation
  of the whole set, another one each pass. Generated images in shards are interleaved by tf.data:
  each pass permutes the shards, reads `cycle_length` of them at a time in turn, and permutes the
  images within each.

  Guarantees:
    `stateless`: the batch of a step depends on the seed and the step alone; a stream that begins at
      any step goes on bit for bit, however many threads read.
    `once_per_pass`: each pass shows every generated image once, and every original image once (in
      as many rows of one batch as `mixture.composition` repeats it).
    `rows_agree`: the batch of `rows` holds those rows of the global batch, and only they are read.
    `constant_memory`: anonymous memory does not grow with the size of the set.

  Args:
    original: a Source, or None with `original_share=0`.
    generated: a ShardSet or a Source, or None with `original_share=1`.
    batch_size: rows of the global batch.
    original_share: as in `mixture.composition`, like `emulated_workers` and `num_slices`.
    emulated_workers: rows that show each original image.
    num_slices: parts of the batch that are rounded alone.
    seed: names the order of the data.
    start_step: number of the first batch.
    num_steps: number of batches; None for no end.
    rows: the rows of the global batch that this process wants; None for all.
    cycle_length: shards read in turn.
    prefetch: batches kept ready.
    num_threads: threads that read; None for one a core, at most 8.

  Returns:
    An iterator of {"image": uint8 [b, h, w, c], "label": int32 [b], "generated": bool [b],
    "row": int32 [b]}, with a method `close` that ends its threads. Where a source has the column
    `probabilities`, there is "probabilities": float32 [b, k], one-hot for a source without.

  Raises:
    ValueError: an argument is out of range, or a source is missing or does not fit the other.
    ImportError: TensorFlow is not installed; the resident backend does without.
  """
  mix = mixture.composition(
    batch_size,
    original_share=original_share,
    emulated_workers=emulated_workers,
    num_slices=num_slices,
  )
  mixture.check_sources(mix, original, generated)
  num_threads = min(8, os.cpu_count() or 1) if num_threads is None else num_threads
  stop = _FOREVER if num_steps is None else start_step + num_steps
  check_count(0, start_step=start_step, num_steps=stop - start_step, prefetch=prefetch)
  check_count(cycle_length=cycle_length, num_threads=num_threads)
  wanted = np.arange(batch_size)[rows if rows is not None else slice(None)]
  if not wanted.size:
    raise ValueError(f"rows={rows}: expected at least one row of batch_size={batch_size}")
  order = None
  if mix.num_generated and hasattr(generated, "read_shard"):
    order = ShardOrder(generated.counts, seed=(seed, 1), cycle_length=cycle_length)
  failures: list[Exception] = []
  kinds: dict[str, Any] = {"image": np.uint8, "label": np.int32}
  if mixture.has_probabilities(original, generated, original_share=original_share):
    kinds[columns.PROBABILITIES] = np.float32
  read = functools.partial(_read_rows, original, generated, mix, wanted, seed, failures, kinds)
  dataset = _dataset(order, read, kinds, mix.num_generated, start_step, stop, prefetch, num_threads)
  fixed = {"generated": ~mixture.original_rows(mix)[wanted], "row": wanted.astype(np.int32)}
  return _deliver(dataset, fixed, failures)


def _make_tfdata(*sources, **kwargs):
  """Binds everything but the place in the stream; a misspelt argument fails here, not later."""
  inspect.signature(train_batches).bind(*sources, **kwargs)
  return lambda start_step=0, num_steps=None: train_batches(
    *sources, start_step=start_step, num_steps=num_steps, **kwargs
  )


def _read_rows(original, generated, mix, rows, seed, failures, kinds, step, samples):
  """Reads what `kinds` names of `rows` of step `step`; `samples`: its (shard, offset) pairs."""
  try:
    shown_source = original if mix.num_original else generated
    shapes = {"image": shown_source.image_shape, columns.PROBABILITIES: (shown_source.num_classes,)}
    batch = [np.empty((rows.size, *shapes.get(name, ())), kind) for name, kind in kinds.items()]
    from_original = mixture.original_rows(mix)[rows]
    slots = mixture.row_slots(mix)[rows]
    for kind, source, count, mask in (
      (0, original, mix.num_distinct, from_original),
      (1, generated, mix.num_generated, ~from_original),
    ):
      if not mask.any():
        continue
      shown, inverse = np.unique(slots[mask], return_inverse=True)
      if kind and samples.size:
        read = _read_samples(generated, samples[shown], kinds)
      else:
        where = locate(step, count, source.num_examples)
        ids = draw(*where, count=count, num=source.num_examples, seed=(seed, kind))[shown]
        read = _with_targets(source, ids, source.read(ids), kinds)
      for whole, part in zip(batch, read, strict=True):
        whole[mask] = part[inverse]
    return batch
  except Exception as error:
    failures.append(error)  # TensorFlow would hand on its text only
    raise


def _with_targets(source, ids, samples, kinds):
  """(images, labels) of samples, and their probabilities where they are wanted."""
  if columns.PROBABILITIES not in kinds:
    return samples
  return *samples, columns.probabilities_of(source, ids, samples[1])


def _read_samples(shards, samples, kinds):
  """Reads (shard, offset) pairs, each shard in one call."""
  image = np.empty((len(samples), *shards.image_shape), np.uint8)
  label = np.empty(len(samples), np.int32)
  for shard in np.unique(samples[:, 0]):
    mask = samples[:, 0] == shard
    image[mask], label[mask] = shards.read_shard(int(shard), samples[mask, 1])
  ids = np.concatenate([[0], np.cumsum(shards.counts)])[samples[:, 0]] + samples[:, 1]
  return _with_targets(shards, ids, (image, label), kinds)


def _dataset(order, read, kinds, num_generated, start_step, stop, prefetch, num_threads):
  """Returns the tf.data pipeline step -> arrays by name, of the dtypes `kinds`."""
  tf = import_tensorflow()
  steps = tf.data.Dataset.range(start_step, stop)
  if order is None:
    inputs = steps.map(lambda step: (step, tf.zeros([0, 2], tf.int32)))
  else:
    samples = _interleaved(tf, order, start_step * num_generated)
    inputs = tf.data.Dataset.zip((steps, samples.batch(num_generated).prefetch(prefetch)))
  batches = inputs.map(
    lambda step, samples: dict(
      zip(kinds, tf.numpy_function(read, [step, samples], [*kinds.values()]), strict=True)
    ),
    num_parallel_calls=num_threads,
    deterministic=True,
  ).prefetch(prefetch)
  options = tf.data.Options()
  options.deterministic = True
  options.autotune.enabled = False  # it would size the buffers by the memory it finds free
  options.threading.private_threadpool_size = num_threads
  options.threading.max_intra_op_parallelism = 1
  return batches.with_options(options)


def _interleaved(tf, order, start):
  """Returns the endless dataset of (shard, offset) pairs from position `start` on."""
  first, rounds, skip = order.locate(start)

  def rows_of(number):
    return order.window(number, rounds if number == first else 0)

  def open_window(number):
    shards = tf.numpy_function(rows_of, [number], tf.int64)
    return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(shards, [None, 3])).interleave(
      open_shard, cycle_length=order.cycle_length, block_length=1
    )

  def open_shard(shard):
    samples = tf.numpy_function(order.samples, [shard], tf.int32)
    return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(samples, [None, 2]))

  return tf.data.Dataset.range(first, _FOREVER).flat_map(open_window).skip(skip)


def _deliver(dataset, fixed, failures):
  """A generator of batches; closing it, losing it or leaving the program ends its threads."""
  import tensorflow as tf

  held, op_error = [iter(dataset)], tf.errors.OpError

  def batches():
    try:
      while True:
        yield {name: array.numpy() for name, array in next(held[0]).items()} | fixed
    except StopIteration:
      return
    except op_error as error:
      raise (failures[0] if failures else error) from error
    finally:
      held.clear()

  generator = batches()
  # Runs at exit too, before the interpreter shuts down: a thread still reading would hang it.
  weakref.finalize(generator, held.clear)
  return generator
