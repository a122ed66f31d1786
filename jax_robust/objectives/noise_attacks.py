"""Attacks on the smoothed classifier: ascent of its soft prediction's loss under fixed noises."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jax_robust import attacks
from jax_robust.attacks.ddn import cosine
from jax_robust.attacks.projections import l2_norm
from jax_robust.attacks.stepwise import Problem
from jax_robust.nets.loops import scan
from jax_robust.objectives import noisy
from jax_robust.types import LogitsFn, fold, normals

_LEAST_NORM = 1e-8
_LEVELS = 256


class Ends(NamedTuple):
  """Between what SmoothMix mixes: the point it starts from and the one that it reaches."""

  start: Float[Array, "b *dims"]
  adversarial: Float[Array, "b *dims"]


def unrestricted_attack(
  logits_fn: LogitsFn,
  x: Float[Array, "b *dims"],
  labels: Int[Array, " b"],
  noises: Float[Array, "b m *dims"],
  *,
  alpha: float,
  num_steps: int,
  mix_step: int = 0,
  maxnorm: float | None = None,
  maxnorm_s: Array | float = 0.0,
) -> Ends:
  """SmoothMix's attack: `x <- clip(x + alpha g / ||g||)`, g the gradient of `-log mean_i p_y`.

  The mean is over the noises, which stay the same from step to step. There is no ball unless
  `maxnorm` is given, so all steps are made, however far they lead. An image whose gradient vanishes
  stays where it is.

  Guarantees:
    `attack_matches_the_recorded_one`: both ends of recorded steps of the reference program.
    `ends_are_in_the_box`.

  Args:
    logits_fn: `x -> logits`, of frozen weights in eval mode.
    x: images in [0, 1].
    labels: true classes.
    noises: of each image, scaled by sigma.
    alpha: length of a step, in units of the image.
    num_steps: T; static.
    mix_step: the iterate from which is mixed: 0 is the image, 1 the one-step adversary. Where there
      are not so many steps it is the image.
    maxnorm: radius of an l2 ball round x, for the ablation; default none.
    maxnorm_s: radius round x to which the iterate `mix_step` is drawn back.

  Returns:
    The two ends.

  Reference: Jeong et al., 2021, "SmoothMix: Training Confidence-calibrated Smoothed Classifiers for
  Certified Robustness", https://arxiv.org/abs/2111.09277.
  """

  def project(point):
    if maxnorm is not None:
      point = x + _shorten(point - x, maxnorm)
    return jnp.clip(point, 0.0, 1.0)

  gradient_fn = _smoothed_gradient(logits_fn, labels, noises)

  def step(carry, count):
    point, start = carry
    start = jnp.where(count == mix_step, point, start)
    return (project(point + alpha * _unit(gradient_fn(point))), start), None

  (adversarial, start), _ = scan(
    step, (x, x), jnp.arange(num_steps), unroll=attacks.default_unroll(num_steps)
  )
  start = jnp.clip(x + _shorten(start - x, maxnorm_s), 0.0, 1.0)
  return Ends(*jax.lax.stop_gradient((start, adversarial)))


def smoothadv_pgd(
  logits_fn: LogitsFn,
  x: Float[Array, "b *dims"],
  labels: Int[Array, " b"],
  noises: Float[Array, "b m *dims"],
  keys: Array,
  *,
  epsilon: Array | float,
  num_steps: int,
  no_grad_attack: bool = False,
) -> Float[Array, "b *dims"]:
  """SmoothAdv's PGD: steps of 2 epsilon / T along the unit gradient, clipped, then drawn back.

  It begins at x. Where the gradient vanishes a normal direction takes its place.

  Args:
    logits_fn, x, labels, noises: as those of `unrestricted_attack`.
    keys: one per image, for vanishing gradients.
    epsilon: radius of the l2 ball, in units of the image.
    num_steps: T; static.
    no_grad_attack: ask no gradient of the net, but estimate that of the smoothed probability by
      Stein's identity, `E[d p_y(x + d)] / sigma^2`, from the same noises.

  Returns:
    Adversarial points.

  Reference: Salman et al., 2019, "Provably Robust Deep Learning via Adversarially Trained Smoothed
  Classifiers", https://arxiv.org/abs/1906.04584.
  """
  gradient_fn = _smoothed_gradient(logits_fn, labels, noises)
  if no_grad_attack:
    gradient_fn = _stein_gradient(logits_fn, labels, noises)

  def step(point, count):
    gradient = gradient_fn(point)
    random = normals(fold(keys, count), x.shape[1:], x.dtype)
    gradient = jnp.where(l2_norm(gradient) > 0, gradient, random)
    moved = point + 2 * epsilon / num_steps * _unit(gradient)
    return x + _shorten(jnp.clip(moved, 0.0, 1.0) - x, epsilon), None

  point, _ = scan(step, x, jnp.arange(num_steps), unroll=attacks.default_unroll(num_steps))
  return jax.lax.stop_gradient(point)


def smoothadv_ddn(
  logits_fn: LogitsFn,
  x: Float[Array, "b *dims"],
  labels: Int[Array, " b"],
  noises: Float[Array, "b m *dims"],
  keys: Array,
  *,
  epsilon: Array | float,
  num_steps: int,
) -> Float[Array, "b *dims"]:
  """SmoothAdv's DDN: the nearest of the iterates that most noises misclassify, drawn to epsilon.

  Iterates and result have 256 levels. As in the reference the search looks at any distance, and
  what it finds farther away than epsilon is drawn back, adversarial or not.

  Args: as those of `smoothadv_pgd`; epsilon is the norm of the first step too.

  Returns:
    Adversarial points; where there is none, the image.

  Reference: Rony et al., 2019, as used by Salman et al., 2019.
  """

  def outputs_fn(point, keys):
    del keys
    return noisy.split_copies(logits_fn(noisy.noisy_copies(point, noises)), noises.shape[1])

  search = attacks.ddn_search(
    loss_fn=_soft_loss,
    adversarial_fn=lambda outputs, labels: _most_voted(outputs) != labels,
    num_steps=num_steps,
    step_size=lambda count: cosine(count + 1, num_steps),  # the reference's schedule is one ahead
    initial_norm=epsilon,
    levels=_LEVELS,
  )
  ball = attacks.l2_ball(math.sqrt(math.prod(x.shape[1:])))  # all of the box
  problem = Problem(x, labels, labels, keys)
  state, _ = scan(
    lambda state, _: (search.step(ball, outputs_fn, state), None),
    search.init(ball, problem), None, length=num_steps, unroll=attacks.default_unroll(num_steps),
  )  # fmt: skip
  delta = _shorten(state.x_adv - x, epsilon)
  delta = jnp.round(delta * (_LEVELS - 1)) / (_LEVELS - 1)
  return jax.lax.stop_gradient(jnp.clip(x + delta, 0.0, 1.0))


def _soft_loss(outputs, labels):
  """`-log` of the label's mean probability."""
  return -jnp.take_along_axis(noisy.log_mean_probs(outputs), labels[:, None], axis=1)[:, 0]


def _most_voted(outputs):
  """The class of most noises; of several the first."""
  votes = jax.nn.one_hot(jnp.argmax(outputs, axis=-1), outputs.shape[-1])
  return jnp.argmax(jnp.sum(votes, axis=1), axis=-1)


def _smoothed_gradient(logits_fn, labels, noises) -> Callable[[Array], Array]:
  """`x -> gradient` of the loss of the soft prediction."""

  def loss(point):
    outputs = logits_fn(noisy.noisy_copies(point, noises))
    return jnp.sum(_soft_loss(noisy.split_copies(outputs, noises.shape[1]), labels))

  return jax.grad(loss)


def _stein_gradient(logits_fn, labels, noises) -> Callable[[Array], Array]:
  """The direction in which the label's smoothed probability falls, from the probabilities alone."""

  def gradient(point):
    outputs = logits_fn(noisy.noisy_copies(point, noises))
    probs = jax.nn.softmax(noisy.split_copies(outputs, noises.shape[1]))
    share = jnp.take_along_axis(probs, labels[:, None, None], axis=2)[..., 0]
    return -jnp.einsum("bm,bm...->b...", share, noises)

  return gradient


def _unit(gradient):
  """Each image's gradient at length 1, nearly: 0 stays 0."""
  return gradient / (l2_norm(gradient) + _LEAST_NORM)


def _shorten(delta, radius):
  """Perturbations of at most a length."""
  norm = l2_norm(delta)
  return delta * jnp.minimum(1.0, radius / jnp.maximum(norm, 1e-12))
