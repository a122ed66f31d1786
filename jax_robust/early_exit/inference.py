"""Deployed early exits: images go through the net block by block, and leave on the way."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from jax_robust.early_exit.budget import check_several_exits
from jax_robust.early_exit.rules import Thresholds, check_thresholds, confidences
from jax_robust.errors import check_count, check_function, check_images
from jax_robust.nets.exits import described, exits_of

SMALLEST = 8
"""Rows of the smallest program: below it a block takes about as long for any number of images."""

RunBlock = Callable[[Any, int], tuple[Any, Any]]
"""`run_block(state, number) -> (state, logits)`, such as `MSDNet.run_block` with its weights."""


class Answers(NamedTuple):
  """What a deployed net said.

  Attributes:
    logits: of the exit that answered for each image.
    taken: that exit's number.
    num_rows: rows that each block was run on, those that fill up a batch included.
  """

  logits: Float[np.ndarray, "n k"]
  taken: Int[np.ndarray, " n"]
  num_rows: Int[np.ndarray, " exits"]


def row_counts(batch_size: int, smallest: int = SMALLEST) -> tuple[int, ...]:
  """The sizes of batch that programs are compiled for: the whole, and powers of two below it.

  >>> row_counts(100), row_counts(4)
  ((8, 16, 32, 64, 100), (4,))
  """
  powers = [2**i for i in range(batch_size.bit_length()) if smallest <= 2**i < batch_size]
  return (*powers, batch_size)


def make_deployed(
  run_block: RunBlock,
  thresholds: Thresholds,
  *,
  num_exits: int,
  batch_size: int = 256,
) -> Callable[[Shaped[np.ndarray, "n *dims"]], Answers]:
  """The classifier as it is deployed: blocks behind the exit that answers are not computed.

  After each block the host looks at the confidences. Images whose exit answers leave; where so many
  have left that a smaller program holds the rest, they are moved together. Each block is compiled
  once for each size of `row_counts`, when it is first needed.

  Guarantees:
    `answers_are_those_of_the_full_net`: the exits are those of `exit_taken`, and the logits agree,
      to the rounding between programs of different batch sizes, which may also decide about a
      confidence that lies on its threshold.
    `later_blocks_are_left_out`: a block runs on the images that reach it alone, filled up to the
      next size.

  Args:
    run_block: `(state, number) -> (state, logits)`: block 0 takes images; the state is a pytree
      whose leaves have the images as their first axis. Compile it with its weights as arguments,
      as `runs.nets.make_run_block` does.
    thresholds: as those of `check_thresholds`.
    num_exits: of the net, at least 2.
    batch_size: images that enter at once; more are cut into batches.

  Returns:
    `answers(x) -> Answers`, driven from the host.

  Raises:
    ValueError: one exit; thresholds of another model; no images in a batch.
    TypeError, ValueError: (of `answers`) no images in [0, 1]; a block that returns something else.
  """
  check_several_exits(num_exits)
  check_count(batch_size=batch_size)
  check_function(" (state, number) -> (state, logits)", run_block=run_block)
  batch_size = int(batch_size)
  bounds = check_thresholds(thresholds, num_exits)
  sizes = row_counts(batch_size)

  def of_batch(x: np.ndarray) -> Answers:
    rows = np.arange(len(x))  # the image in each row that is still of interest
    places = rows  # those rows
    size = _size_for(len(x), sizes)
    state = _filled(x, size)
    taken, logits = np.full(len(x), num_exits - 1, np.int32), np.zeros((len(x), 0))
    num_rows = np.zeros(num_exits, np.int64)
    for number in range(num_exits):
      state, outputs = _checked_pair(run_block(state, number), number, size)
      num_rows[number] = size
      confidence, outputs = (np.asarray(each)[places] for each in (_confidence(outputs), outputs))
      if not number:
        logits = np.zeros((len(x), outputs.shape[1]), outputs.dtype)
      if outputs.shape[1] != logits.shape[1]:
        raise ValueError(
          f"run_block returned logits of {outputs.shape[1]} classes at block {number}, and of "
          f"{logits.shape[1]} before: expected the same"
        )
      leaves = confidence >= bounds[number] if number < len(bounds) else np.ones(len(rows), bool)
      logits[rows[leaves]], taken[rows[leaves]] = outputs[leaves], number
      rows, places = rows[~leaves], places[~leaves]
      if not len(rows):
        break
      if (smaller := _size_for(len(rows), sizes)) < size:
        size = smaller
        state = _rows_of(state, _filled(places, size))
        places = np.arange(len(rows))
    return Answers(logits, taken, num_rows)

  def answers(x: np.ndarray) -> Answers:
    x = np.asarray(x)
    check_images(x)
    parts = [of_batch(x[start : start + batch_size]) for start in range(0, len(x), batch_size)]
    logits, taken, num_rows = zip(*parts, strict=True)
    return Answers(np.concatenate(logits), np.concatenate(taken), np.sum(num_rows, axis=0))

  return answers


def _checked_pair(found: Any, number: int, size: int) -> tuple[Any, Any]:
  """State and logits of a block; raises where it returned something else."""
  if not isinstance(found, tuple) or len(found) != 2:
    raise ValueError(
      f"run_block returned {described(found)} at block {number}: expected (state, logits)"
    )
  exits_of(found[1], size)
  return found


def _size_for(count: int, sizes: Sequence[int]) -> int:
  """The smallest size that holds so many rows."""
  return next(size for size in sizes if size >= count)


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
  """Rows, the first of them repeated up to a size."""
  return np.concatenate([rows, np.repeat(rows[:1], size - len(rows), axis=0)])


@jax.jit
def _rows_of(state: Any, places: Any) -> Any:
  """Some rows of every leaf of a state."""
  return jax.tree.map(lambda leaf: leaf[places], state)


@jax.jit
def _confidence(logits: Any) -> Any:
  """The largest probability of each row."""
  return confidences(logits)[0]


def compile_blocks(run_block: Callable[[Any, Any, int], tuple[Any, Any]], weights: Any) -> RunBlock:
  """`run_block(weights, state, number)` compiled, its weights bound but no part of the programs."""
  return functools.partial(_of_weights, jax.jit(run_block, static_argnums=2), weights)


def _of_weights(compiled, weights, state, number):
  """A block of a net whose weights come first."""
  return compiled(weights, jax.tree.map(jnp.asarray, state), number)
