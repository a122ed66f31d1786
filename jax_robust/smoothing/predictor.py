"""PREDICT for many images: votes from the device, the test on the host."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Array, Int

from jax_robust.nets.devices import Devices
from jax_robust.smoothing import bounds, checks
from jax_robust.smoothing.noise import PREDICTION
from jax_robust.smoothing.sampler import Ids, Images, Sampler, make_sampler, whole_stage
from jax_robust.types import LogitsFn


def predict_images(
  logits_fn: LogitsFn,
  x: Images,
  rng: Array,
  *,
  sigma: float,
  n: int = 100_000,
  alpha: float = 0.001,
  ids: Ids = None,
  batch_size: int = 1000,
  devices: Devices = Devices(),
  noise: str = "gaussian",
) -> bounds.Prediction:
  """PREDICT: the smoothed classifier's class of each image, or -1 where n draws cannot tell.

  Draws are others than those of CERTIFY with the same rng.

  Args: as those of `certify_images`; alpha is the probability of a wrong class, for each image.

  Returns:
    Labels and p-values, `[n]`.

  Raises:
    ValueError: as `certify_images`.

  >>> import jax, jax.numpy as jnp
  >>> logits_fn = lambda x: jnp.stack([0.5 - x[:, 0], x[:, 0] - 0.5], axis=1)
  >>> x = np.array([[0.9, 0.0], [0.5, 0.0]], np.float32)
  >>> predict_images(logits_fn, x, jax.random.key(0), sigma=0.25, n=1000).label.tolist()
  [1, -1]
  """
  predictor = make_predictor(
    logits_fn, image_shape=x.shape[1:], sigma=sigma, n=n, alpha=alpha, batch_size=batch_size,
    devices=devices, noise=noise,
  )  # fmt: skip
  return predictor(x, rng, ids=ids)


@dataclasses.dataclass(frozen=True)
class Predictor:
  """PREDICT for one classifier, ready for any number of images; made by `make_predictor`.

  Attributes:
    sampler: asks the classifier.
    sigma, n, alpha: as in `predict_images`.
  """

  sampler: Sampler
  sigma: float
  n: int
  alpha: float

  def __post_init__(self):
    checks.check_sigma(self.sigma)
    checks.check_predict_budget(n=self.n, alpha=self.alpha)

  def each(
    self, x: Images, rng: Array, *, ids: Ids = None
  ) -> Iterator[tuple[int, Int[np.ndarray, " k"]]]:
    """`(place, votes by class)` of one image after the other, in order, as they are complete."""
    x, ids = self.sampler.prepare(x, ids)
    requests = itertools.chain.from_iterable(
      whole_stage(place, PREDICTION, self.n) for place in range(len(x))
    )
    answers = self.sampler.sample(x, rng, requests, sigma=self.sigma, ids=ids)
    for place, group in itertools.groupby(answers, lambda answer: answer[0].place):
      yield place, sum(counts.astype(np.int64) for _, counts in group)

  def prediction(
    self, counts: Int[np.ndarray, " k"], image_shape: Sequence[int]
  ) -> bounds.Prediction:
    """What the votes of an image tell."""
    distance = self.sampler.noise.total_variation(self.sigma, int(np.prod(image_shape)))
    return bounds.predict(counts, alpha=self.alpha, total_variation=distance)

  def __call__(self, x: Images, rng: Array, *, ids: Ids = None) -> bounds.Prediction:
    """Predicts images; arguments are as those of `predict_images`."""
    found = [self.prediction(counts, x.shape[1:]) for _, counts in self.each(x, rng, ids=ids)]
    return bounds.Prediction(*map(np.stack, zip(*found, strict=True)))


def make_predictor(
  logits_fn: LogitsFn,
  *,
  image_shape: Sequence[int],
  sigma: float,
  n: int = 100_000,
  alpha: float = 0.001,
  batch_size: int = 1000,
  devices: Devices = Devices(),
  noise: str = "gaussian",
) -> Predictor:
  """`predict_images` for one classifier and many sets of images: compiled once, sigma is traced.

  Args: as those of `certify_images`; `image_shape` is that of one image.

  Returns:
    `predictor(x, rng, ids=None) -> Prediction`, or image by image: `predictor.each`.
  """
  sampler = make_sampler(
    logits_fn, image_shape=image_shape, noise=noise, batch_size=batch_size, devices=devices
  )
  return Predictor(sampler, sigma, n, alpha)
