"""Counts a model's votes on noisy copies of many images, in batches that are full across images."""

import collections
import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, Shaped

from jax_robust.errors import (
  LostImagesError,
  check_count,
  check_function,
  check_name,
  check_sigma,
  shown,
)
from jax_robust.nets.constants import lift, without_jit
from jax_robust.nets.devices import Devices, check_devices
from jax_robust.nets.exits import single_exit
from jax_robust.nets.randomised import keyed
from jax_robust.smoothing.noise import CHUNK, GAUSSIAN, Noise, Rows, make_votes
from jax_robust.smoothing.sound import SOUND
from jax_robust.types import LogitsFn, Rng, as_ids, as_key

NOISES: dict[str, Noise] = {"gaussian": GAUSSIAN, "sound": SOUND}
"""Distributions of noise by name."""

Images = Shaped[np.ndarray | Array, "n *dims"]
Ids = Shaped[np.ndarray, " m"] | None
Votes = Int[np.ndarray, "3 k"]
"""Votes for one image by stage (`SELECTION`, `ESTIMATION`, `PREDICTION`) and class."""

Plan = Callable[[], Generator[Mapping[int, int], Votes, Any]]
"""A method for one image: see `Sampler.run`."""

BATCHES_AHEAD = 2
"""Batches that wait on the device while the host counts."""


class Request(NamedTuple):
  """A chunk of draws to be made: place of its image in x, stage, number, draws that count."""

  place: int
  stage: int
  chunk: int
  num_draws: int


class Image(NamedTuple):
  """An image that is being worked on: its running plan, votes so far, draws requested by stage."""

  plan: Generator[Mapping[int, int], Votes, Any]
  votes: Votes
  requested: Int[np.ndarray, "3"]


class Sampler:
  """A model prepared for counting votes; certification, prediction and adaptive tests run on it.

  One program serves all images, keys, sigmas and numbers of draws; it is compiled at the first
  batch.

  Guarantees:
    `independent_of_the_batch`: counts depend on image, id, rng, stage, chunk and sigma, and not on
      the batch's size, order or devices (but for the rounding of the model's own arithmetic, which
      may differ between programs where two logits are all but equal).

  Args:
    logits_fn: `x -> logits`, or randomised `(x, rng) -> logits`; one exit of several is chosen with
      `nets.exits.select_exit`.
    image_shape: of one image.
    noise: its distribution: 'gaussian', or 'sound', whose certificates hold in floating point too
      (see `make_sound`).
    batch_size: noisy images at once; rounded up to whole chunks of 100 on every device.
    devices: how rows are spread over devices.

  Attributes:
    num_classes: of the model.
    image_shape, noise, batch_size: as above.

  Raises:
    TypeError, ValueError: an unknown noise; a batch size below 1; an image shape that is none; a
      model with several exits, or whose outputs are no logits (`nets.exits.exits_of`).

  >>> logits_fn = lambda x: jax.numpy.concatenate([x, 1 - x], axis=1)
  >>> sampler = Sampler(logits_fn, image_shape=(1,), batch_size=250)
  >>> sampler.num_classes, sampler.batch_size
  (2, 300)
  """

  def __init__(
    self,
    logits_fn: LogitsFn,
    *,
    image_shape: Sequence[int],
    noise: str = "gaussian",
    batch_size: int = 1000,
    devices: Devices = Devices(),
  ):
    check_count(batch_size=batch_size)
    check_name("noise", noise, NOISES)
    check_function(" x -> logits", logits_fn=logits_fn)
    check_devices(devices)
    self.image_shape, self.noise = _checked_shape(image_shape), NOISES[noise]
    self._devices, chunks = devices, CHUNK * devices.count
    batch_size = int(batch_size)
    self.batch_size = -(-batch_size // chunks) * chunks
    model = keyed(without_jit(logits_fn))
    example = (
      jax.ShapeDtypeStruct((1, *self.image_shape), np.float32),
      jax.random.split(jax.random.key(0), 1),
    )
    net = lift(lambda x, keys: single_exit(model(x, keys), "randomized smoothing"), *example)
    self.num_classes = jax.eval_shape(net.apply, net.constants, *example).shape[1]
    self._constants = devices.share(net.constants)
    votes = make_votes(net, noise=self.noise)

    @functools.cache
    def program(impl):
      """The program for one kind of key: keys travel as plain arrays, which every device takes."""

      def run(shared, rows):
        return votes((*shared[:2], jax.random.wrap_key_data(shared[2], impl=impl)), rows)

      return devices.compile_fn(run)

    self._program = program

  def total_variation(self, sigma: float | int) -> float:
    """Bound on the distance between the noise drawn on an image and the Gaussian."""
    check_sigma(sigma)
    return self.noise.total_variation(sigma, int(np.prod(self.image_shape)))

  def run(
    self, x: Images, rng: Rng, plan: Plan, *, sigma: float | int, ids: Ids = None
  ) -> Iterator[tuple[int, Votes, Any]]:
    """Follows a plan for every image; batches are shared, so that they are full.

    `plan()` is a generator for one image. It yields the draws that it needs in total, `{stage:
    total}`; it is sent the votes, `[3, k]`, when they are complete; then it yields larger totals,
    or returns its result. A total that is no multiple of 100 is the last of its stage.

    Args:
      x: images in [0, 1], `[n, ...]`.
      rng: one key, or a seed: see `types.as_key`.
      plan: the method.
      sigma: standard deviation of the noise, in units of the image.
      ids: names of the images for the randomness, 0 to 2^32 - 1; by default their places.

    Returns:
      An iterator of (place of the image in x, its votes, result), in the order in which images are
      finished; with a fixed number of draws that is the order of x. It may be left at any time.

    Raises:
      ValueError: sigma or ids out of range; images outside [0, 1], of another shape, or, with sound
        noise, off the grid; (when iterated) logits that are NaN or infinite.
    """
    check_sigma(sigma)
    check_function(" that yields totals by stage", plan=plan)
    x, rng = np.asarray(x), as_key(rng)
    if x.shape[1:] != self.image_shape:
      more = ", such as x[None]" if x.shape == self.image_shape else ""
      raise ValueError(f"x has shape {x.shape}: expected images of shape {self.image_shape}{more}")
    self.noise.check(x)
    ids = as_ids(ids, len(x))
    law = self.noise.parameters(sigma), np.asarray(jax.random.key_data(rng))
    shared = self._constants, *self._devices.share(law)
    program = self._program(jax.random.key_impl(rng))

    def submit(batch: Sequence[Request]) -> Array:
      return program(shared, self._devices.place(_rows(x, ids, batch, self.batch_size // CHUNK)))

    return self._follow(plan, ids, submit)

  def _follow(self, plan: Plan, ids: np.ndarray, submit: Callable) -> Iterator[tuple]:
    """The iterator of `run`."""
    num_rows = self.batch_size // CHUNK
    places = iter(range(len(ids)))
    active: dict[int, Image] = {}
    wanted: collections.deque[Request] = collections.deque()
    waiting: collections.deque[tuple[list[Request], Array]] = collections.deque()
    while True:
      while len(waiting) <= BATCHES_AHEAD:
        # Enough images that none of the batches on their way is short of chunks.
        while len(wanted) < num_rows and len(active) < (BATCHES_AHEAD + 1) * num_rows:
          if (place := next(places, None)) is None:
            break
          votes = np.zeros((3, self.num_classes), np.int64)
          active[place] = image = Image(plan(), votes, np.zeros(3, np.int64))
          wanted.extend(_chunks(place, image, next(image.plan)))
        # A batch that is not full waits for the requests that counts on their way may lead to.
        if not wanted or (waiting and len(wanted) < num_rows):
          break
        batch = [wanted.popleft() for _ in range(min(num_rows, len(wanted)))]
        waiting.append((batch, submit(batch)))
      if not waiting:
        break
      batch, found = waiting.popleft()
      for request, counts in zip(batch, np.asarray(found), strict=False):
        place, image = request.place, active[request.place]
        if counts.sum() != request.num_draws:
          raise LostImagesError.of([ids[place]], "noisy copies of image")
        image.votes[request.stage] += counts
        if image.votes.sum() < image.requested.sum():
          continue
        try:
          wanted.extend(_chunks(place, image, image.plan.send(image.votes)))
        except StopIteration as end:
          del active[place]
          yield place, image.votes, end.value
    if active:
      raise RuntimeError("a plan wants no more draws, but has not returned")


def _checked_shape(image_shape: Any) -> tuple[int, ...]:
  """The shape of one image; raises unless it is one or several whole numbers above 0."""
  if not isinstance(image_shape, (tuple, list)) or not image_shape:
    raise ValueError(
      f"image_shape={shown(image_shape)}: expected that of one image, such as (32, 32, 3)"
    )
  for size in image_shape:
    check_count(image_shape=size)
  return tuple(map(int, image_shape))


def as_sampler(model: LogitsFn | Sampler, x: Images, options: Mapping[str, Any]) -> Sampler:
  """The sampler itself, or one made for a `logits_fn` and images of the shape of x.

  Raises:
    TypeError: options for a sampler that exists, or that `Sampler` does not know.
  """
  if not isinstance(model, Sampler):
    shape = np.shape(x)
    try:
      return Sampler(model, image_shape=shape[1:], **options)
    except Exception as error:
      if len(shape) < 4:
        error.add_note(f"x has shape {shape}, taken for {shape[0]} images; of one image, x[None]")
      raise
  if options:
    raise TypeError(f"{', '.join(options)}: expected in the call of Sampler, which is made already")
  return model


def in_order(found: Iterable[tuple[int, Votes, Any]]) -> Any:
  """The results of `Sampler.run`, NamedTuples of arrays, stacked in the order of the images."""
  results = [result for _, _, result in sorted(found, key=lambda each: each[0])]
  return type(results[0])(*map(np.stack, zip(*results, strict=True)))


def _chunks(place: int, image: Image, totals: Mapping[int, int]) -> Iterator[Request]:
  """The chunks between the draws that were requested of an image and new totals."""
  if not isinstance(totals, Mapping):
    raise ValueError(f"a plan yields {shown(totals)}: expected {{stage: total}}")
  for stage, total in totals.items():
    if stage not in range(len(image.requested)):
      raise ValueError(f"a plan asks for stage {stage}: expected SELECTION, ESTIMATION, PREDICTION")
    check_count(0, draws=total)
    first = int(image.requested[stage])
    if first % CHUNK and total > first:
      raise ValueError(f"{total} draws after {first}: expected whole chunks of {CHUNK} before more")
    for start in range(first, int(total), CHUNK):
      yield Request(place, stage, start // CHUNK, min(CHUNK, int(total) - start))
    image.requested[stage] = int(total)


def _rows(x: np.ndarray, ids: np.ndarray, batch: Sequence[Request], num_rows: int) -> Rows:
  """Requests as arrays, with idle rows at the end."""
  columns = np.zeros((num_rows, 4), np.int64)
  columns[: len(batch)] = batch
  place, stage, chunk, num_draws = columns.T
  numbers = (column.astype(np.uint32) for column in (ids[place], stage, chunk))
  return Rows(x[place], *numbers, num_draws=num_draws.astype(np.int32))
