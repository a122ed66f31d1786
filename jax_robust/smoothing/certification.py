"""CERTIFY and PREDICT for images: votes are counted on the device, bounds computed on the host."""

from collections.abc import Iterator
from typing import Any

from jax_robust.smoothing import bounds
from jax_robust.smoothing.noise import ESTIMATION, PREDICTION, SELECTION
from jax_robust.smoothing.sampler import Ids, Images, Sampler, Votes, as_sampler, in_order
from jax_robust.types import LogitsFn, Rng


def certify_images(
  model: LogitsFn | Sampler,
  x: Images,
  rng: Rng,
  *,
  sigma: float | int,
  n0: int = 100,
  n: int = 100_000,
  alpha: float = 0.001,
  ids: Ids = None,
  **sampling: Any,
) -> bounds.Certificate:
  """CERTIFY: l2 radii within which the smoothed classifier keeps its class.

  The smoothed classifier is `g(x) = argmax_c P(f(x + sigma * normal) = c)`. `n0` draws choose a
  class, `n` others bound its probability; see `certify`. Driven from the host: not for use under
  `jit`.

  Deviations from the reference program, none of which changes the distribution of a result: noise
  is drawn from keys (it does not draw from a seed), batches hold the draws of several images, and
  an image's last batch is cut to n. Bounds are SciPy's in float64; radii are not rounded.

  Guarantees:
    `any_row_can_be_replayed_alone`: an image's votes depend on the image, its id, rng and sigma.
    `independent_of_the_batch`: nor on `batch_size`, devices or the order of the images.
    `fewer_draws_are_the_first_of_more`: of n = 1,000, all are among those of n = 10,000.

  Args:
    model: `x -> logits`, or randomised `(x, rng) -> logits`, inputs around [0, 1]; or a `Sampler`,
      which is compiled once for many calls.
    x: images in [0, 1], `[n, ...]`; float32 is what the noise is added to.
    rng: one key, or a seed: see `types.as_key`.
    sigma: standard deviation of the noise, in units of the image, at most 5.
    n0: draws that choose the class.
    n: draws that bound its probability.
    alpha: probability of a wrong certificate, for each image.
    ids: names of the images for the randomness, 0 to 2^32 - 1; by default their places.
    **sampling: `batch_size`, `devices` and `noise`, as those of `Sampler`.

  Returns:
    The certificates, arrays `[n]` on the host.

  Raises:
    ValueError: as `Sampler` and `Sampler.run`; alpha or draws out of range; n too small for any
      certificate.

  Reference: Cohen, Rosenfeld and Kolter, 2019, https://arxiv.org/abs/1902.02918.

  >>> import jax, jax.numpy as jnp, numpy as np
  >>> logits_fn = lambda x: jnp.stack([0.5 - x[:, 0], x[:, 0] - 0.5], axis=1)
  >>> x = np.array([[0.9, 0.0], [0.5, 0.0]], np.float32)
  >>> found = certify_images(logits_fn, x, jax.random.key(0), sigma=0.25, n=1000)
  >>> found.label.tolist(), found.radius.round(2).tolist()
  ([1, -1], [0.35, 0.0])
  """
  sampler = as_sampler(model, x, sampling)
  return in_order(each_certificate(sampler, x, rng, sigma=sigma, n0=n0, n=n, alpha=alpha, ids=ids))


def each_certificate(
  sampler: Sampler,
  x: Images,
  rng: Rng,
  *,
  sigma: float | int,
  n0: int = 100,
  n: int = 100_000,
  alpha: float = 0.001,
  ids: Ids = None,
) -> Iterator[tuple[int, Votes, bounds.Certificate]]:
  """`certify_images`, one image after the other: (place in x, votes by stage and class, result).

  While one image is handed out, draws of the next are on the device. Args as `certify_images`.
  """
  bounds.check_budget(n0=n0, n=n, alpha=alpha)
  distance = sampler.total_variation(sigma)

  def plan():
    votes = yield {SELECTION: int(n0), ESTIMATION: int(n)}
    return bounds.certify(
      votes[SELECTION], votes[ESTIMATION], sigma=sigma, alpha=alpha, total_variation=distance
    )

  return sampler.run(x, rng, plan, sigma=sigma, ids=ids)


def predict_images(
  model: LogitsFn | Sampler,
  x: Images,
  rng: Rng,
  *,
  sigma: float | int,
  n: int = 100_000,
  alpha: float = 0.001,
  ids: Ids = None,
  **sampling: Any,
) -> bounds.Prediction:
  """PREDICT: the smoothed classifier's class of each image, or -1 where n draws cannot tell.

  Draws differ from those of CERTIFY with the same rng.

  Args: as those of `certify_images`; alpha is the probability of a wrong class, for each image.

  Returns:
    Labels and p-values, `[n]`.

  Raises:
    ValueError: as `certify_images`.

  >>> import jax, jax.numpy as jnp, numpy as np
  >>> logits_fn = lambda x: jnp.stack([0.5 - x[:, 0], x[:, 0] - 0.5], axis=1)
  >>> x = np.array([[0.9, 0.0], [0.5, 0.0]], np.float32)
  >>> predict_images(logits_fn, x, jax.random.key(0), sigma=0.25, n=1000).label.tolist()
  [1, -1]
  """
  sampler = as_sampler(model, x, sampling)
  return in_order(each_prediction(sampler, x, rng, sigma=sigma, n=n, alpha=alpha, ids=ids))


def each_prediction(
  sampler: Sampler,
  x: Images,
  rng: Rng,
  *,
  sigma: float | int,
  n: int = 100_000,
  alpha: float = 0.001,
  ids: Ids = None,
) -> Iterator[tuple[int, Votes, bounds.Prediction]]:
  """`predict_images`, one image after the other: (place in x, votes by stage and class, result)."""
  bounds.check_predict_budget(n=n, alpha=alpha)
  distance = sampler.total_variation(sigma)

  def plan():
    votes = yield {PREDICTION: int(n)}
    return bounds.predict(votes[PREDICTION], alpha=alpha, total_variation=distance)

  return sampler.run(x, rng, plan, sigma=sigma, ids=ids)
