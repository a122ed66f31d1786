"""CERTIFY for many images: votes from the device, bounds on the host."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Int

from jax_robust.nets.devices import Devices
from jax_robust.smoothing import bounds, checks
from jax_robust.smoothing.noise import ESTIMATION, SELECTION
from jax_robust.smoothing.sampler import Ids, Images, Sampler, make_sampler, whole_stage
from jax_robust.types import LogitsFn


class Votes(NamedTuple):
  """What one image's draws voted for.

  Attributes:
    place: of the image in x.
    selection: votes by class that choose the class, `[k]`.
    estimation: votes by class that bound its probability, `[k]`.
  """

  place: int
  selection: Int[np.ndarray, " k"]
  estimation: Int[np.ndarray, " k"]


@dataclasses.dataclass(frozen=True)
class Certifier:
  """CERTIFY for one classifier, ready for any number of images; made by `make_certifier`.

  `dataclasses.replace(certifier, sigma=0.5)` shares what was compiled.

  Attributes:
    sampler: asks the classifier.
    sigma, n0, n, alpha: as in `certify_images`.
  """

  sampler: Sampler
  sigma: float
  n0: int
  n: int
  alpha: float

  def __post_init__(self):
    checks.check_sigma(self.sigma)
    checks.check_budget(n0=self.n0, n=self.n, alpha=self.alpha)

  def each(self, x: Images, rng: Array, *, ids: Ids = None) -> Iterator[Votes]:
    """The votes of one image after the other, in order, as they are complete.

    Batches are filled across the borders of images, so while one image is handed out, others are on
    the device.

    Args: as those of `certify_images`.

    Returns:
      An iterator; it may be left at any time.
    """
    x, ids = self.sampler.prepare(x, ids)
    return _collect(self, x, rng, ids)

  def certificate(self, votes: Votes, image_shape: Sequence[int]) -> bounds.Certificate:
    """What the votes of an image prove; `image_shape` matters to the error of sound noise."""
    return bounds.certify(
      votes.selection,
      votes.estimation,
      sigma=self.sigma,
      alpha=self.alpha,
      total_variation=self.sampler.noise.total_variation(self.sigma, int(np.prod(image_shape))),
    )

  def __call__(self, x: Images, rng: Array, *, ids: Ids = None) -> bounds.Certificate:
    """Certifies images; arguments are as those of `certify_images`."""
    found = [self.certificate(votes, x.shape[1:]) for votes in self.each(x, rng, ids=ids)]
    return bounds.Certificate(*map(np.stack, zip(*found, strict=True)))


def certify_images(
  logits_fn: LogitsFn,
  x: Images,
  rng: Array,
  *,
  sigma: float,
  n0: int = 100,
  n: int = 100_000,
  alpha: float = 0.001,
  ids: Ids = None,
  batch_size: int = 1000,
  devices: Devices = Devices(),
  noise: str = "gaussian",
) -> bounds.Certificate:
  """CERTIFY: l2 radii within which the smoothed classifier keeps its class.

  The smoothed classifier is `g(x) = argmax_c P(f(x + sigma * normal) = c)`. `n0` draws choose a
  class, `n` others bound its probability; see `certify`. Driven from the host: not for use under
  `jit`.

  Deviations from the reference program, none of which changes the law of a result: noise is drawn
  from keys (it does not draw from a seed), batches hold the draws of several images, and an image's
  last batch is cut to n. Bounds are SciPy's in float64; radii are not rounded.

  Guarantees:
    `any_row_can_be_replayed_alone`: an image's votes depend on the image, its id, rng and sigma.
    `independent_of_the_batch`: nor on `batch_size`, devices or the order of the images.
    `fewer_draws_are_the_first_of_more`: of n = 1,000, all are among those of n = 10,000.

  Args:
    logits_fn: `x -> logits`, or randomised `(x, rng) -> logits`; inputs around [0, 1].
    x: images in [0, 1], `[n, ...]`; float32 is what the noise is added to.
    rng: one key.
    sigma: standard deviation of the noise, in units of the image.
    n0: draws that choose the class.
    n: draws that bound its probability.
    alpha: probability of a wrong certificate, for each image.
    ids: names of the images for the randomness, 0 to 2^32 - 1; by default their places.
    batch_size: noisy images at once; rounded up to whole chunks of 100 on every device.
    devices: how rows are spread over devices.
    noise: 'gaussian', or 'sound', whose certificates hold in floating point too (see `SOUND`).

  Returns:
    The certificates, arrays `[n]` on the host.

  Raises:
    ValueError: sigma, alpha, draws or ids out of range; n too small for any certificate; images
      outside [0, 1] or, with sound noise, off the grid; logits that are NaN or infinite.

  Reference: Cohen, Rosenfeld and Kolter, 2019, https://arxiv.org/abs/1902.02918.

  >>> import jax, jax.numpy as jnp
  >>> logits_fn = lambda x: jnp.stack([0.5 - x[:, 0], x[:, 0] - 0.5], axis=1)
  >>> x = np.array([[0.9, 0.0], [0.5, 0.0]], np.float32)
  >>> found = certify_images(logits_fn, x, jax.random.key(0), sigma=0.25, n=1000)
  >>> found.label.tolist(), found.radius.round(2).tolist()
  ([1, -1], [0.35, 0.0])
  """
  certifier = make_certifier(
    logits_fn, image_shape=x.shape[1:], sigma=sigma, n0=n0, n=n, alpha=alpha,
    batch_size=batch_size, devices=devices, noise=noise,
  )  # fmt: skip
  return certifier(x, rng, ids=ids)


def make_certifier(
  logits_fn: LogitsFn,
  *,
  image_shape: Sequence[int],
  sigma: float,
  n0: int = 100,
  n: int = 100_000,
  alpha: float = 0.001,
  batch_size: int = 1000,
  devices: Devices = Devices(),
  noise: str = "gaussian",
) -> Certifier:
  """`certify_images` for one classifier and many sets of images: compiled once, sigma is traced.

  Args: as those of `certify_images`; `image_shape` is that of one image.

  Returns:
    `certifier(x, rng, ids=None) -> Certificate`, or image by image: `certifier.each`.
  """
  sampler = make_sampler(
    logits_fn, image_shape=image_shape, noise=noise, batch_size=batch_size, devices=devices
  )
  return Certifier(sampler, sigma, n0, n, alpha)


def _collect(certifier: Certifier, x, rng, ids) -> Iterator[Votes]:
  """Adds up chunks until an image is complete."""
  requests = (
    request
    for place in range(len(x))
    for stage, total in ((SELECTION, certifier.n0), (ESTIMATION, certifier.n))
    for request in whole_stage(place, stage, total)
  )
  answers = certifier.sampler.sample(x, rng, requests, sigma=certifier.sigma, ids=ids)
  for place, group in itertools.groupby(answers, lambda answer: answer[0].place):
    votes = np.zeros((2, certifier.sampler.num_classes), np.int64)
    for request, counts in group:
      votes[request.stage] += counts
    yield Votes(place, votes[SELECTION], votes[ESTIMATION])
