"""PGD under its other names: BIM, MIM, and the l-infinity attack on the margin called CW."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_robust import losses
from jax_robust.attacks.balls import Ball
from jax_robust.attacks.gradient import pgd
from jax_robust.attacks.steps import Schedule
from jax_robust.types import LogitsFn, LossFn


def bim(
  logits_fn: LogitsFn,
  x: Float[Array, "b *dims"],
  targets: Any,
  rng: Array,
  *,
  ball: Ball,
  loss_fn: LossFn = losses.cross_entropy,
  num_steps: int = 10,
  step_size: Schedule | Array | float | None = None,
  eot: int = 1,
  unroll: int | None = None,
) -> Float[Array, "b *dims"]:
  """Basic iterative method: PGD that starts at x itself, in any ball.

  Guarantees: those of `pgd`, whose start is x.

  Args:
    logits_fn: `x -> outputs`, or `(x, rng) -> outputs` of a randomised classifier; a tuple of
      outputs (exits) is attacked in the mean of its losses.
    x: images in [0, 1], `[b, ...]`.
    targets: what `loss_fn` takes: labels `[b]` or probabilities `[b, k]`.
    rng: one key, or one per example, for a randomised classifier only.
    ball: the threat model.
    loss_fn: per-example loss to ascend.
    num_steps: gradient evaluations; static.
    step_size: see `pgd`. The default, 2.5 eps / num_steps, is the 2/255 that is usual with 8/255
      and ten steps.
    eot: draws of a randomised classifier per step; static.
    unroll: see `pgd`.

  Returns:
    x_adv `[b, ...]`, dtype of x.

  Raises:
    TypeError: x is not floating-point.

  Reference: Kurakin et al., 2017, "Adversarial Examples in the Physical World",
  https://arxiv.org/abs/1607.02533.

  >>> import jax, jax.numpy as jnp
  >>> from jax_robust.attacks import linf_ball
  >>> x, labels = jnp.full((1, 2), 0.5), jnp.array([0])
  >>> bim(lambda x: x, x, labels, jax.random.key(0), ball=linf_ball(0.25)).tolist()
  [[0.25, 0.75]]
  """
  return pgd(
    logits_fn, x, targets, rng,
    ball=ball, loss_fn=loss_fn, num_steps=num_steps, step_size=step_size, start="zero", eot=eot,
    unroll=unroll,
  )  # fmt: skip


def mim(
  logits_fn: LogitsFn,
  x: Float[Array, "b *dims"],
  targets: Any,
  rng: Array,
  *,
  ball: Ball,
  loss_fn: LossFn = losses.cross_entropy,
  num_steps: int = 10,
  step_size: Schedule | Array | float | None = None,
  momentum: Array | float = 1.0,
  eot: int = 1,
  unroll: int | None = None,
) -> Float[Array, "b *dims"]:
  """Momentum iterative method: `v <- momentum v + g / mean|g|`, `x <- project(x + step ascent(v))`.

  It starts at x. Dividing by the mean absolute value gives every gradient the same say in the sum
  v, whatever its scale. Made for transfer to other classifiers: see `transfer`.

  Guarantees: those of `pgd`, whose start is x, and
    `mim_is_bim_where_the_gradient_keeps_its_direction`: as on a linear classifier.

  Args:
    logits_fn: `x -> outputs`, or `(x, rng) -> outputs` of a randomised classifier; a tuple of
      outputs (exits) is attacked in the mean of its losses.
    x: images in [0, 1], `[b, ...]`.
    targets: what `loss_fn` takes: labels `[b]` or probabilities `[b, k]`.
    rng: one key, or one per example, for a randomised classifier only.
    ball: the threat model.
    loss_fn: per-example loss to ascend.
    num_steps: gradient evaluations; static.
    step_size: see `pgd`. The default, 2.5 eps / num_steps, is the 2/255 that is usual with 8/255
      and ten steps; the paper has eps / num_steps.
    momentum: what is kept of the sum at each step; 0 gives `bim`.
    eot: draws of a randomised classifier per step; static.
    unroll: see `pgd`.

  Returns:
    x_adv `[b, ...]`, dtype of x.

  Raises:
    TypeError: x is not floating-point.

  Reference: Dong et al., 2018, "Boosting Adversarial Attacks with Momentum",
  https://arxiv.org/abs/1710.06081.

  >>> import jax, jax.numpy as jnp
  >>> from jax_robust.attacks import linf_ball
  >>> x, labels = jnp.full((1, 2), 0.5), jnp.array([0])
  >>> mim(lambda x: x, x, labels, jax.random.key(0), ball=linf_ball(0.25)).tolist()
  [[0.25, 0.75]]
  """
  return pgd(
    logits_fn, x, targets, rng,
    ball=ball, loss_fn=loss_fn, num_steps=num_steps, step_size=step_size, momentum=momentum,
    start="zero", eot=eot, unroll=unroll,
  )  # fmt: skip


def cw_linf(
  logits_fn: LogitsFn,
  x: Float[Array, "b *dims"],
  targets: Any,
  rng: Array,
  *,
  ball: Ball,
  confidence: Array | float = 50.0,
  num_steps: int = 100,
  step_size: Schedule | Array | float | None = None,
  start: Float[Array, "b *dims"] | str = "uniform",
  num_restarts: int = 1,
  keep_best: bool = False,
  eot: int = 1,
  unroll: int | None = None,
) -> Float[Array, "b *dims"]:
  """ "CW" in tables of l-infinity robustness: PGD on `-relu(confidence - margin)`.

  The loss of Carlini and Wagner, the projection of PGD. Not their minimum-norm attack, which is
  `cw_l2` and whose numbers belong to no eps.

  Guarantees: those of `pgd`, and
    `confidence_is_where_the_ascent_ends`: beyond a margin of `confidence` nothing moves.

  Args:
    logits_fn: `x -> logits`, or `(x, rng) -> logits` of a randomised classifier; a tuple of logits
      (exits) is attacked in the mean of its losses.
    x: images in [0, 1], `[b, ...]`.
    targets: labels `[b]`, or probabilities `[b, k]`, whose arg max is taken.
    rng: one key, or one per example.
    ball: an l-infinity ball.
    confidence: kappa, in units of the logits: the margin at which the ascent ends. 50, which robust
      classifiers do not reach, is that of the published evaluations; 0 ends at the boundary.
    num_steps: gradient evaluations per restart; static.
    step_size: in units of the image; default eps / 4, which is 2/255 at 8/255.
    start: see `pgd`.
    num_restarts: see `pgd`.
    keep_best: see `pgd`.
    eot: draws of a randomised classifier per step; static.
    unroll: see `pgd`.

  Returns:
    x_adv `[b, ...]`, dtype of x.

  Raises:
    TypeError: x is not floating-point.
    ValueError: the ball is not l-infinity; what `pgd` refuses.

  Reference: Madry et al., 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks",
  https://arxiv.org/abs/1706.06083; Carlini and Wagner, 2017, "Towards Evaluating the Robustness of
  Neural Networks", https://arxiv.org/abs/1608.04644.

  >>> import jax, jax.numpy as jnp
  >>> from jax_robust.attacks import linf_ball
  >>> x, labels = jnp.full((1, 2), 0.5), jnp.array([0])
  >>> cw_linf(lambda x: x, x, labels, jax.random.key(0), ball=linf_ball(0.25)).tolist()
  [[0.25, 0.75]]
  """
  if ball.norm != "linf":
    raise ValueError(
      f"ball.norm={ball.norm!r}: cw_linf is defined for 'linf' only; expected "
      "pgd(..., loss_fn=losses.margin) in other balls, or cw_l2 for the least l2 distance"
    )

  def loss_fn(outputs, targets):
    return -jax.nn.relu(jnp.asarray(confidence, outputs.dtype) - losses.margin(outputs, targets))

  return pgd(
    logits_fn, x, targets, rng,
    ball=ball, loss_fn=loss_fn, num_steps=num_steps,
    step_size=ball.eps / 4 if step_size is None else step_size,
    start=start, num_restarts=num_restarts, keep_best=keep_best, eot=eot, unroll=unroll,
  )  # fmt: skip
