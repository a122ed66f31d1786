"""Drives the votes of many images from the host, through batches that are always full."""

import collections
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from jax_robust.nets.constants import lift, without_jit
from jax_robust.nets.devices import Devices
from jax_robust.nets.randomised import keyed
from jax_robust.smoothing.checks import check_ids
from jax_robust.smoothing.noise import CHUNK, GAUSSIAN, Noise, Rows, make_votes
from jax_robust.smoothing.sound import SOUND
from jax_robust.types import LogitsFn

NOISES: dict[str, Noise] = {"gaussian": GAUSSIAN, "sound": SOUND}
"""Laws of noise by name."""

Images = Shaped[np.ndarray | Array, "n *dims"]
Ids = Shaped[np.ndarray, " m"] | None

BATCHES_AHEAD = 2
"""Batches that wait on the device while the host counts."""


class Request(NamedTuple):
  """A chunk that somebody wants: the place of its image in x, its stage, its number, its draws."""

  place: int
  stage: int
  chunk: int
  num_draws: int


class Sampler(NamedTuple):
  """A classifier that is ready to be asked for votes.

  Attributes:
    sample: `(x, rng, requests, *, sigma, ids=None) -> iterator of (request, counts [k])`, in the
      order of the requests. `requests` is read as batches are filled; where it gives None, nothing
      more can be asked before more answers are in.
    num_classes: of the classifier.
    noise: the law.
    batch_size: noisy images that go through the net at once.
  """

  sample: Callable[..., Iterator[tuple[Request, np.ndarray]]]
  num_classes: int
  noise: Noise
  batch_size: int

  def prepare(self, x: Images, ids: Ids) -> tuple[np.ndarray, np.ndarray]:
    """Images and ids as arrays of the host; raises on those that cannot be sampled."""
    x = np.asarray(x)
    self.noise.check(x)
    return x, check_ids(ids, len(x))


def make_sampler(
  logits_fn: LogitsFn,
  *,
  image_shape: Sequence[int],
  noise: str = "gaussian",
  batch_size: int = 1000,
  devices: Devices = Devices(),
) -> Sampler:
  """Prepares a classifier for votes: one program, compiled at the first batch.

  Guarantees:
    `independent_of_the_batch`: counts depend on image, id, rng, stage, chunk and sigma, and not on
      the batch's size, order or devices (but for the rounding of the net's own arithmetic, which
      may differ between programs where two logits are all but equal).

  Args:
    logits_fn: `x -> logits`, or randomised `(x, rng) -> logits`.
    image_shape: of one image.
    noise: the law, by its name in `NOISES`.
    batch_size: noisy images at once; rounded up to whole chunks of 100 on every device.
    devices: how rows are spread over devices.

  Returns:
    The sampler.

  Raises:
    ValueError: a batch size below 1; a net that returns no logits `[b, k]`.
  """
  if batch_size < 1:
    raise ValueError(f"batch_size={batch_size}: expected at least 1")
  if noise not in NOISES:
    raise ValueError(f"noise={noise!r}: expected one of {', '.join(map(repr, NOISES))}")
  law = NOISES[noise]
  num_rows = -(-batch_size // (CHUNK * devices.count)) * devices.count
  shape = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
  net = lift(keyed(without_jit(logits_fn)), shape, jax.random.split(jax.random.key(0), 1))
  constants = devices.share(net.constants)
  votes = make_votes(net, noise=law)

  @functools.cache
  def compiled(impl):
    """The program for one kind of key: keys travel as plain arrays, which every device takes."""

    def run(shared, rows):
      return votes((*shared[:2], jax.random.wrap_key_data(shared[2], impl=impl)), rows)

    return devices.compile_fn(run)

  def sample(x, rng, requests, *, sigma, ids=None):
    ids = np.arange(len(x)) if ids is None else ids
    shared = devices.share((law.parameters(sigma), np.asarray(jax.random.key_data(rng))))
    program = compiled(jax.random.key_impl(rng))

    def ask(batch):
      return program((constants, *shared), devices.place(_rows(x, ids, batch, num_rows)))

    return _answers(ask, iter(requests), num_rows, ids)

  num_classes = _num_classes(votes, net, law, image_shape)
  return Sampler(sample, num_classes, law, num_rows * CHUNK)


def _num_classes(votes, net, noise, image_shape) -> int:
  """How many classes there are, without a pass; a net that cannot be smoothed raises here."""
  numbers = np.zeros(1, np.uint32)
  rows = Rows(np.zeros((1, *image_shape), np.float32), numbers, numbers, numbers, np.zeros(1, int))
  shared = net.constants, noise.parameters(0.01), jax.random.key(0)
  return jax.eval_shape(votes, shared, rows).shape[-1]


def _rows(x: Float[np.ndarray, "n *dims"], ids, batch: Sequence[Request], num_rows: int) -> Rows:
  """Requests as arrays, with idle rows at the end."""
  columns = np.zeros((num_rows, 4), np.int64)
  columns[: len(batch)] = batch
  place, stage, chunk, num_draws = columns.T
  return Rows(
    x[place],
    np.asarray(ids)[place].astype(np.uint32),
    stage.astype(np.uint32),
    chunk.astype(np.uint32),
    num_draws.astype(np.int32),
  )


def _answers(
  ask: Callable[[Sequence[Request]], Array],
  requests: Iterator[Request | None],
  num_rows: int,
  ids: Int[np.ndarray, " n"],
) -> Iterator[tuple[Request, np.ndarray]]:
  """Fills batches with requests, keeps some on the device, and hands out answers in order."""
  waiting, batch, ended = collections.deque(), [], False
  while True:
    while len(batch) < num_rows and not ended:
      try:
        request = next(requests)
      except StopIteration:
        ended = True
        break
      if request is None:
        break
      batch.append(request)
    # A batch that is not full waits for what the answers on their way may make of it.
    if batch and (len(batch) == num_rows or ended or not waiting):
      waiting.append((batch, ask(batch)))
      is_full, batch = len(batch) == num_rows, []
      if is_full and len(waiting) <= BATCHES_AHEAD:
        continue
    if not waiting:
      if ended:
        return
      raise RuntimeError("nothing was asked for, and no answer is on its way")
    asked, counts = waiting.popleft()
    for request, votes in zip(asked, np.asarray(counts), strict=False):
      if votes.sum() != request.num_draws:
        raise ValueError(
          f"the net's logits are NaN or infinite for noisy copies of image {ids[request.place]}"
        )
      yield request, votes


def whole_stage(place: int, stage: int, total: int, first: int = 0) -> Iterator[Request]:
  """The requests of draws `first` to `total` of a stage; `first` is a multiple of 100.

  >>> [(request.chunk, request.num_draws) for request in whole_stage(0, 1, 250)]
  [(0, 100), (1, 100), (2, 50)]
  """
  for start in range(first, total, CHUNK):
    yield Request(place, stage, start // CHUNK, min(CHUNK, total - start))
