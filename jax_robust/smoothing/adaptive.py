"""CERTIFY with as many draws as an image needs: sequential tests in place of a fixed n."""

from collections.abc import Sequence

from jaxtyping import Array

from jax_robust.nets.devices import Devices
from jax_robust.smoothing.sampler import Ids, Images, make_sampler
from jax_robust.smoothing.sequential import (
  AdaptiveCertifier,
  Radii,
  RadiusDecisions,
  RadiusInterval,
)
from jax_robust.types import LogitsFn


def certify_at(
  logits_fn: LogitsFn,
  x: Images,
  rng: Array,
  radii: Radii,
  *,
  sigma: float,
  n0: int = 100,
  n: int = 100_000,
  alpha: float = 0.001,
  futility: float = 0.001,
  ids: Ids = None,
  batch_size: int = 1000,
  devices: Devices = Devices(),
  noise: str = "gaussian",
) -> RadiusDecisions:
  """Is the radius at least r? As CERTIFY, for a list of r, with as many draws as that takes.

  Votes are looked at after 100, 200, ... draws, then at every twentieth more. With p_r =
  Phi(r / sigma), r is certified at the first look where `log_evidence` of p_A > p_r reaches
  log(1 / alpha). It is given up where the evidence of p_A < p_r reaches log(1 / futility), or if
  not even votes that are all for the class, up to n, would do.

  Guarantees:
    `no_radius_is_certified_wrongly`: with probability at least 1 - alpha over the votes of an
      image, all the radii that are certified hold, together; whatever `futility` and n are.
    `decisions_depend_on_the_image_only`: not on batch size, devices, or the other images.

  Why: evidence falls with r, so that if any r larger than the true radius R is ever certified, the
  evidence of p_A > Phi(R / sigma) has reached 1 / alpha; Ville's inequality bounds that by alpha
  over all looks. A `futility` of 0.001 loses a radius that n draws would have certified with
  probability .001; it costs no soundness.

  Args: as those of `certify_images`, and
    radii: r, in units of the image, `[m]`.
    n: draws at most.
    futility: probability of giving up a radius that holds, at most 1/2.

  Returns:
    The decisions, `[n]` and `[n, m]`.

  Raises:
    ValueError: as `certify_images`; negative radii; alpha or futility above 1/2.

  Reference: Horváth, Müller, Fischer and Vechev, 2022, "Boosting randomized smoothing with variance
  reduced classifiers", https://arxiv.org/abs/2106.06946 (adaptive sampling for a radius, there with
  a union bound over few looks); `log_evidence` for the test.

  >>> import jax, jax.numpy as jnp, numpy as np
  >>> logits_fn = lambda x: jnp.stack([0.5 - x[:, 0], x[:, 0] - 0.5], axis=1)
  >>> x = np.array([[0.9, 0.0], [0.5, 0.0]], np.float32)
  >>> found = certify_at(logits_fn, x, jax.random.key(0), [0.0, 0.25, 0.75], sigma=0.25)
  >>> found.certified.tolist()
  [[True, True, False], [False, False, False]]
  >>> found.num_draws[0].tolist()
  [100, 200, 100]
  """
  certifier = make_adaptive_certifier(
    logits_fn, image_shape=x.shape[1:], sigma=sigma, n0=n0, n=n, alpha=alpha, futility=futility,
    batch_size=batch_size, devices=devices, noise=noise,
  )  # fmt: skip
  return certifier.at(x, rng, radii, ids=ids)


def certify_within(
  logits_fn: LogitsFn,
  x: Images,
  rng: Array,
  *,
  tolerance: float,
  sigma: float,
  n0: int = 100,
  n: int = 100_000,
  alpha: float = 0.001,
  futility: float = 0.001,
  ids: Ids = None,
  batch_size: int = 1000,
  devices: Devices = Devices(),
  noise: str = "gaussian",
) -> RadiusInterval:
  """The radius to within a tolerance: as CERTIFY, with as many draws as that takes.

  Draws until `sigma` times the distance between `lower_sequence` and `upper_sequence` (or what n
  draws could give at most) is `tolerance`, or n.

  Guarantees:
    `radius_holds_whenever_it_stops`: with probability at least 1 - alpha, whatever `futility`, the
      tolerance and n are.
    `decisions_depend_on_the_image_only`: not on batch size, devices, or the other images.

  Args: as those of `certify_at`, and
    tolerance: in units of the image.

  Returns:
    The radii and what is above them, `[n]`.

  Raises:
    ValueError: as `certify_at`; a tolerance that is not positive.

  >>> import jax, jax.numpy as jnp, numpy as np
  >>> logits_fn = lambda x: jnp.stack([0.5 - x[:, 0], x[:, 0] - 0.5], axis=1)
  >>> x = np.array([[0.9, 0.0], [0.7, 0.0]], np.float32)
  >>> found = certify_within(logits_fn, x, jax.random.key(0), tolerance=0.05, sigma=0.25)
  >>> found.radius.round(2).tolist(), found.total.tolist()
  ([0.38, 0.17], [8700, 3900])
  """
  certifier = make_adaptive_certifier(
    logits_fn, image_shape=x.shape[1:], sigma=sigma, n0=n0, n=n, alpha=alpha, futility=futility,
    batch_size=batch_size, devices=devices, noise=noise,
  )  # fmt: skip
  return certifier.within(x, rng, tolerance, ids=ids)


def make_adaptive_certifier(
  logits_fn: LogitsFn,
  *,
  image_shape: Sequence[int],
  sigma: float,
  n0: int = 100,
  n: int = 100_000,
  alpha: float = 0.001,
  futility: float = 0.001,
  batch_size: int = 1000,
  devices: Devices = Devices(),
  noise: str = "gaussian",
) -> AdaptiveCertifier:
  """`certify_at` and `certify_within` for one classifier and many sets of images.

  Args: as those of `certify_at`; `image_shape` is that of one image.

  Returns:
    `.at(x, rng, radii)`, `.within(x, rng, tolerance)`; image by image: `.each_at`, `.each_within`.
  """
  sampler = make_sampler(
    logits_fn, image_shape=image_shape, noise=noise, batch_size=batch_size, devices=devices
  )
  return AdaptiveCertifier(sampler, sigma, n0, n, alpha, futility)
