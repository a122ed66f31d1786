"""Auto-PGD: ascent with momentum whose step size follows the loss, without a parameter to tune."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_robust import losses
from jax_robust.attacks.apgd_steps import apgd_search
from jax_robust.attacks.balls import Ball
from jax_robust.attacks.checks import check_images
from jax_robust.attacks.classes import likeliest_wrong
from jax_robust.attacks.stepwise import Problem, run_all
from jax_robust.nets.randomised import keyed
from jax_robust.types import LogitsFn, LossFn, as_keys


def apgd(
  logits_fn: LogitsFn,
  x: Float[Array, "b *dims"],
  targets: Any,
  rng: Array,
  *,
  ball: Ball,
  loss_fn: LossFn = losses.cross_entropy,
  num_steps: int = 100,
  num_restarts: int = 1,
  eot: int = 1,
  rho: float = 0.75,
  start: Float[Array, "b *dims"] | None = None,
  large_radii: bool = False,
) -> Float[Array, "b *dims"]:
  """Auto-PGD (APGD), in any ball, per example.

  In linf and l2, with steps of 2 eps at first:
  `z = project(x + step_size ascent(grad))`, `x <- project(x + .75 (z - x) + .25 (x - x_before))`.
  At checkpoints (for 100 iterations: 22, 41, 57, 70, 80, 87, 93, 99) the step is halved, and the
  row goes back to its point of highest loss, if the loss rose in no more than `rho` of the
  iterations since the last checkpoint, or if its maximum has not moved and the step was kept then.
  At the first checkpoint the loss of the first iterate is compared with 0, not with the start's, as
  the reference does.

  In l1, steps of eps along the signs of the largest gradient entries, without momentum. Every 4 %
  of the iterations their share becomes that of the pixels changed at the best point, over 1.5; and
  where that has become 5 % sparser, the row goes back there with the full step, else the step
  shrinks by 1.5, down to eps / 10.

  Deviations from the reference: projections stay inside the ball to the last bit; l2 gradients are
  normalised however small they are; the projection in l1 is bisected; with `eot` the loss that is
  followed is the mean over the draws, and the class that of their mean probabilities, not the last
  draw's.

  Guarantees:
    `result_is_in_ball_and_box`: distance(x_adv, x) <= eps (1 + 1e-6), 0 <= x_adv <= 1.
    `zero_radius_is_the_identity`: eps = 0 returns x, bitwise.
    `linear_optimum_is_reached`: on a linear classifier, where the box is inactive, to 0.1 %; in l1,
      where the last steps still move two or three pixels together, to 10 %.
    `result_is_independent_of_the_batch`: row i depends on image, target and key i only.
    `no_gradient_flows_out`: the result is a constant for whatever differentiates around it.
    `more_restarts_never_help_the_defender`.

  Args:
    logits_fn: `x -> outputs`, or randomised `(x, rng) -> outputs`; a tuple of outputs (exits) is
      attacked in the mean of its losses, and fooled where all exits are.
    x: images in [0, 1], `[b, ...]`.
    targets: what `loss_fn` takes: labels `[b]` or probabilities `[b, k]`, whose arg max is the
      label.
    rng: one key, folded with the row number, or one key per example `[b]`.
    ball: the threat model; in l1 its `sparsity` is not used.
    loss_fn: per-example loss to ascend.
    num_steps: iterations of a run, which asks the net `num_steps + 1` times; static.
    num_restarts: independent starts; static.
    eot: draws of a randomised net per step, as rows of one pass, over which gradient and loss are
      averaged; their mean probabilities decide whether the point is adversarial. Static.
    rho: see above.
    start: points to start from, `[b, ...]`. Default: at random, on the sphere in linf and l2
      before the box clips it.
    large_radii: three runs, at 3 eps, 2 eps and eps, with .3, .3 and .4 of the iterations, each
      from the best point of the one before. The standard in l1.

  Returns:
    x_adv `[b, ...]`, dtype of x: the last misclassified iterate; where there is none, that of
    highest loss (of the last restart).

  Raises:
    TypeError: x is not floating-point.
    ValueError: negative counts; restarts of a fixed start.

  Reference: Croce and Hein, 2020, "Reliable Evaluation of Adversarial Robustness with an Ensemble
  of Diverse Parameter-free Attacks", https://arxiv.org/abs/2003.01690; 2021, "Mind the Box: l1-APGD
  for Sparse Adversarial Attacks on Image Classifiers", https://arxiv.org/abs/2103.01208.

  >>> import jax, jax.numpy as jnp
  >>> from jax_robust.attacks import linf_ball
  >>> x, labels = jnp.full((1, 2), 0.5), jnp.array([0])
  >>> apgd(lambda x: x, x, labels, jax.random.key(0), ball=linf_ball(0.25), num_steps=5).tolist()
  [[0.25, 0.75]]
  """
  check_images(x)
  _check(num_steps, num_restarts, eot, start)
  x, targets, start = jax.lax.stop_gradient((x, jnp.asarray(targets), start))
  search = apgd_search(
    lambda outputs, labels, goals: loss_fn(outputs, goals),
    num_steps=num_steps, eot=eot, rho=rho, start=start, large_radii=large_radii,
  )  # fmt: skip
  problem = Problem(x, losses.as_labels(targets), targets, as_keys(rng, x.shape[0]))
  tries = jnp.broadcast_to(targets, (num_restarts, *targets.shape))
  return run_all(search, keyed(logits_fn), problem, tries, ball=ball)[0]


def apgd_targeted(
  logits_fn: LogitsFn,
  x: Float[Array, "b *dims"],
  targets: Any,
  rng: Array,
  *,
  ball: Ball,
  num_targets: int = 9,
  num_steps: int = 100,
  num_restarts: int = 1,
  eot: int = 1,
  rho: float = 0.75,
  large_radii: bool = False,
) -> Float[Array, "b *dims"]:
  """APGD with the targeted DLR loss, once for each of the likeliest wrong classes (APGD-T).

  Any misclassification counts, not only as the class made for.

  Guarantees: those of `apgd`.

  Args:
    logits_fn: as in `apgd`, with at least 4 classes.
    x: images in [0, 1], `[b, ...]`.
    targets: labels `[b]`, or probabilities `[b, k]`, whose arg max is the label.
    rng: one key, or one per example.
    ball: the threat model.
    num_targets: the wrong classes to try, in the order of their logits at x; no more than the net
      has. Static.
    num_steps, eot, rho, large_radii: as in `apgd`.
    num_restarts: independent starts for each class; static.

  Returns:
    x_adv `[b, ...]`: the last misclassified iterate of the first class that led to one; where
    there is none, the point of highest loss of the last class.

  Raises:
    TypeError: x is not floating-point.
    ValueError: fewer than 4 classes; negative counts.

  Reference: Croce and Hein, 2020, https://arxiv.org/abs/2003.01690.

  >>> import jax, jax.numpy as jnp
  >>> from jax_robust.attacks import linf_ball
  >>> x, labels = jnp.full((1, 4), 0.5), jnp.array([0])
  >>> x_adv = apgd_targeted(
  ...   lambda x: x, x, labels, jax.random.key(0), ball=linf_ball(0.25), num_steps=5
  ... )
  >>> bool(jnp.argmax(x_adv) != 0)
  True
  """
  check_images(x)
  _check(num_steps, num_restarts, eot, None)
  x, labels = jax.lax.stop_gradient((x, losses.as_labels(targets)))
  logits_fn, keys = keyed(logits_fn), as_keys(rng, x.shape[0])
  goals = likeliest_wrong(jax.lax.stop_gradient(logits_fn(x, keys)), labels, num_targets)
  search = apgd_search(
    losses.targeted_dlr, num_steps=num_steps, eot=eot, rho=rho, large_radii=large_radii
  )
  problem = Problem(x, labels, goals[0], keys)
  tries = jnp.repeat(goals, num_restarts, axis=0)
  return run_all(search, logits_fn, problem, tries, ball=ball)[0]


def _check(num_steps, num_restarts, eot, start):
  """Raises on counts that make no sense."""
  if num_steps < 0 or num_restarts < 1 or eot < 1:
    raise ValueError(
      f"num_steps={num_steps}, num_restarts={num_restarts}, eot={eot}: expected at least 0 steps, "
      "1 restart and 1 draw"
    )
  if num_restarts > 1 and start is not None:
    raise ValueError(
      f"num_restarts={num_restarts} with start=an array: expected a random start, else all are "
      "alike"
    )
