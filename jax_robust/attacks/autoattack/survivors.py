"""Drives a search from the host over the images that are still correct, so that no row is wasted.

A search is run once per image and goal. Rows whose image is broken, or whose run has ended, are
given to the next pair of image and goal. An image is never attacked after it was broken. The batch
has one size, so that a search is compiled once, whatever the number of images; only of more images
than a batch holds, where no pair is left, it shrinks.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jax_robust.attacks import stepwise
from jax_robust.attacks.autoattack.batches import HostKeys
from jax_robust.attacks.balls import Ball
from jax_robust.nets.constants import Lifted
from jax_robust.nets.devices import Devices, row_count

_STEPS_BETWEEN_LOOKS = 10
"""Steps between two looks from the host: a row that has ended idles for half of them on average."""


class Broken(NamedTuple):
  """What a search did to each of n images.

  Attributes:
    found: whether an adversarial point was found, `[n]`.
    x_adv: that point; the image itself where there is none, `[n, ...]`.
    num_steps: steps of the search that were spent on the image, `[n]`.
    num_lost: points of the image whose logits were NaN or infinite, `[n]`.
  """

  found: Bool[np.ndarray, " n"]
  x_adv: Float[np.ndarray, "n *dims"]
  num_steps: Int[np.ndarray, " n"]
  num_lost: Int[np.ndarray, " n"]


class _Rows(NamedTuple):
  """A search's state, the steps each row took, and the rows that no image is given to."""

  state: Any
  num_steps: Array
  is_idle: Array


class Compiled(NamedTuple):
  """A search that is ready to run on the devices, for batches of any size and every radius.

  `start`, `refill` and `advance` are functions of what all rows share, `(ball, constants)`, and of
  rows.
  """

  search: stepwise.Search
  stop_when_found: bool
  constants: Any
  start: Callable
  refill: Callable
  advance: Callable
  devices: Devices


def compile_search(
  search: stepwise.Search,
  net: Lifted,
  devices: Devices = Devices(),
  *,
  stop_when_found: bool = True,
) -> Compiled:
  """Prepares a search for `attack_survivors`; each batch size is compiled when it first occurs.

  Args:
    search: the attack.
    net: the model.
    devices: how rows are spread.
    stop_when_found: whether a run ends with its first adversarial point; of a randomised model that
      point may be chance.
  """

  def start(shared, rows):
    (ball, _), (problem, is_idle) = shared, rows
    return _Rows(search.init(ball, problem), jnp.zeros(is_idle.shape, jnp.int32), is_idle)

  def refill(shared, rows):
    old, problem, is_fresh, is_idle = rows
    rows = stepwise.select(is_fresh, start(shared, (problem, is_idle)), old)
    return rows._replace(is_idle=is_idle)

  def step(shared, rows):
    ball, constants = shared
    logits_fn = functools.partial(net.apply, constants)
    resting = rows.is_idle | stepwise.is_done(search, rows.state, stop_when_found=stop_when_found)
    state = stepwise.select(resting, rows.state, search.step(ball, logits_fn, rows.state))
    return rows._replace(state=state, num_steps=rows.num_steps + ~resting)

  def advance(shared, rows):
    if _steps_per_call() == 1:
      return step(shared, rows)
    return jax.lax.fori_loop(0, _steps_per_call(), lambda _, rows: step(shared, rows), rows)

  programs = map(devices.compile_fn, (start, refill, advance))
  constants = devices.share(net.constants)
  return Compiled(search, stop_when_found, constants, *programs, devices=devices)


def _steps_per_call() -> int:
  """On the CPU a convolution inside a loop is many times slower than one outside."""
  return 1 if jax.default_backend() == "cpu" else _STEPS_BETWEEN_LOOKS


def attack_survivors(
  compiled: Compiled,
  x: Float[np.ndarray, "n *dims"],
  labels: Int[np.ndarray, " n"],
  keys: HostKeys,
  goals: Int[np.ndarray, "t n"],
  *,
  ball: Ball,
  batch_size: int,
  may_shrink: bool = False,
  report: Callable[[int, int, int], None] = lambda done, runs, broken: None,
) -> Broken:
  """Runs a search for every image and every one of its goals, until the image is broken.

  Guarantees:
    `independent_of_the_batch_size`: which rows share a batch changes nothing.
    `broken_images_rest`: no image is attacked after it was broken.

  Args:
    compiled: the attack, from `compile_search`.
    x: images in [0, 1], on the host.
    labels: of the images.
    keys: one per image; that of the t-th run is folded with t.
    goals: the target class of each run, in the order of the runs; of an untargeted search only
      their number counts.
    ball: the threat model, with one radius.
    batch_size: rows of a batch.
    may_shrink: whether there may be fewer rows, where there is little to do: quicker, but for a
      compilation for each size.
    report: called with runs done, runs in all, and images broken.

  Returns:
    What was found, for each image.
  """
  num_runs, num_images = goals.shape
  found, x_adv = np.zeros(num_images, bool), np.array(x)
  steps, lost = np.zeros(num_images, np.int64), np.zeros(num_images, np.int64)
  # First runs of all images, then second runs, ...; images that are broken by then are left out.
  waiting = iter(range(num_runs * num_images))
  queue = (divmod(number, num_images) for number in waiting if not found[number % num_images])
  shared = ball, compiled.constants
  most = num_runs * num_images if may_shrink else batch_size
  size = row_count(most, batch_size, compiled.devices.count)
  owner, rows = np.full(size, -1), None
  while True:
    arrays = x, labels, keys, goals
    rows, owner, is_given = _hand_out(rows, owner, queue, compiled, arrays, shared)
    if may_shrink and not is_given:
      rows, owner = _shrink(rows, owner, compiled.devices)
    is_busy = owner >= 0
    if not is_busy.any():
      break
    for _ in range(_STEPS_BETWEEN_LOOKS // _steps_per_call()):
      rows = compiled.advance(shared, rows)
    hit, count, spent, gone = jax.device_get(
      (rows.state.found, rows.state.count, rows.num_steps, rows.state.num_lost)
    )
    ended = count >= compiled.search.num_steps
    winners = np.flatnonzero(is_busy & hit & (ended | compiled.stop_when_found))
    if winners.size:
      points = np.asarray(rows.state.x_adv)
      found[owner[winners]] = True
      # Backwards, so that of two runs of one image the first one counts.
      x_adv[owner[winners[::-1]]] = points[winners[::-1]]
    over = is_busy & (ended | found[owner])
    np.add.at(steps, owner[over], spent[over])
    np.add.at(lost, owner[over], gone[over])
    owner[over] = -1
    left = operator.length_hint(waiting) + int((owner >= 0).sum())
    report(num_runs * num_images - left, num_runs * num_images, int(found.sum()))
  return Broken(found, x_adv, steps, lost)


def _hand_out(rows, owner, queue, compiled, arrays, shared):
  """Gives free rows to the runs that wait; and whether there was any."""
  x, labels, keys, goals = arrays
  free = np.flatnonzero(owner < 0)
  given = list(zip(free, queue, strict=False))  # `free` first: a run that is taken out must start
  if not given:
    return rows, owner, False
  owner = owner.copy()
  runs, is_fresh = np.zeros(len(owner), np.int32), np.zeros(len(owner), bool)
  for row, (number, image) in given:
    owner[row], runs[row], is_fresh[row] = image, number, True
  image = np.maximum(owner, 0)
  problem = stepwise.Problem(
    x[image], labels[image], goals[runs, image], _fold(keys[image].typed(), runs)
  )
  problem, is_fresh, is_idle = compiled.devices.place((problem, is_fresh, owner < 0))
  if rows is None:
    return compiled.start(shared, (problem, is_idle)), owner, True
  return compiled.refill(shared, (rows, problem, is_fresh, is_idle)), owner, True


@jax.jit
def _fold(keys, runs):
  """The keys of runs."""
  return stepwise.fold_each(keys, runs)


def _shrink(rows, owner, devices):
  """Halves the batch, or more, where that many rows are free."""
  busy = np.flatnonzero(owner >= 0)
  size = row_count(len(busy), len(owner), devices.count)
  if not len(busy) or size > len(owner) // 2:
    return rows, owner
  kept = np.resize(busy, size)
  owner = np.where(np.arange(size) < len(busy), owner[kept], -1)
  rows = _take(rows, kept)._replace(is_idle=jnp.asarray(owner < 0))
  return devices.place(rows), owner


@jax.jit
def _take(rows, kept):
  """Some rows of everything."""
  return jax.tree.map(lambda leaf: leaf[kept], rows)
