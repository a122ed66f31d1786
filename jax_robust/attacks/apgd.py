"""Auto-PGD: ascent with momentum whose step size follows the loss, without a parameter to tune."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_robust import losses
from jax_robust.attacks.apgd_search import apgd_search
from jax_robust.attacks.balls import Ball
from jax_robust.attacks.classes import likeliest_wrong
from jax_robust.attacks.entry import check_inputs
from jax_robust.attacks.pgd_steps import read_restarts
from jax_robust.attacks.stepwise import make_problem, run_all
from jax_robust.types import Images, LogitsFn, LossFn, Rng


def apgd(
  logits_fn: LogitsFn,
  x: Images,
  targets: Any,
  rng: Rng,
  *,
  ball: Ball,
  goals: Any = None,
  loss_fn: LossFn = losses.cross_entropy,
  num_steps: int = 100,
  num_restarts: int = 1,
  eot: int = 1,
  rho: float = 0.75,
  start: Images | None = None,
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

  Guarantees: those of `jax_robust.attacks`, and
    `linear_optimum_is_reached`: on a linear model, where the box is inactive, to 0.1 %; in l1,
      where the last steps still move two or three pixels together, to 10 %.
    `more_restarts_never_help_the_defender`.

  Args: those of `jax_robust.attacks`, and
    loss_fn: one of all exits, such as `losses.slowdown_loss()`, is ascended as it is; a point that
      is misclassified is still kept before one of higher loss.
    ball: in l1 its `sparsity` is not used.
    num_steps: iterations of a run, which takes `num_steps + 1` passes; static.
    eot: draws per step, as rows of one pass; their mean probabilities decide whether a point is
      adversarial. Static.
    rho: see above.
    start: default is a random point, in linf and l2 on the sphere before the box clips it.
    large_radii: three runs, at 3 eps, 2 eps and eps, with .3, .3 and .4 of the iterations, each
      from the best point of the one before. The standard in l1.

  Returns:
    x_adv `[b, ...]`: the last misclassified iterate; where there is none, that of highest loss (of
    the last restart).

  Reference: Croce and Hein, 2020, "Reliable Evaluation of Adversarial Robustness with an Ensemble
  of Diverse Parameter-free Attacks", https://arxiv.org/abs/2003.01690; 2021, "Mind the Box: l1-APGD
  for Sparse Adversarial Attacks on Image Classifiers", https://arxiv.org/abs/2103.01208.

  >>> from jax_robust.attacks import linf_ball
  >>> x, labels = jnp.full((1, 2), 0.5), jnp.array([0])
  >>> apgd(lambda x: x, x, labels, jax.random.key(0), ball=linf_ball(0.25), num_steps=5).tolist()
  [[0.25, 0.75]]
  """
  num_restarts = read_restarts(num_restarts, start)
  to_goal = goals is not None
  ascended = losses.towards(loss_fn) if to_goal else loss_fn
  loss_of_goals = losses.wrapped_as(
    ascended, lambda outputs, labels, goals: ascended(outputs, goals)
  )
  search = apgd_search(
    loss_of_goals, to_goal=to_goal, num_steps=num_steps, eot=eot, rho=rho, start=start,
    large_radii=large_radii,
  )  # fmt: skip
  inputs = check_inputs(
    "apgd", logits_fn, x, targets, rng, ball, per_pixel=not large_radii, start=start, goals=goals
  )
  problem = make_problem(inputs)
  if not to_goal:  # what the loss takes is handed on in the place of the goals
    problem = problem._replace(goals=inputs.targets)
  tries = jnp.broadcast_to(problem.goals, (num_restarts, *problem.goals.shape))
  return run_all("apgd", search, inputs.query, problem, tries, ball=ball)


def apgd_targeted(
  logits_fn: LogitsFn,
  x: Images,
  targets: Any,
  rng: Rng,
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

  Guarantees: those of `apgd`.

  Args: those of `apgd`, but for the loss, and
    logits_fn: of at least 4 classes.
    num_restarts: independent starts for each class; static.

  Returns:
    x_adv `[b, ...]`: the last misclassified iterate of the first target class that led to one;
    where there is none, the point of highest loss of the last class.

  Reference: Croce and Hein, 2020, https://arxiv.org/abs/2003.01690.

  >>> from jax_robust.attacks import linf_ball
  >>> x, labels = jnp.full((1, 4), 0.5), jnp.array([0])
  >>> x_adv = apgd_targeted(
  ...   lambda x: x, x, labels, jax.random.key(0), ball=linf_ball(0.25), num_steps=5
  ... )
  >>> bool(jnp.argmax(x_adv) != 0)
  True
  """
  num_restarts = read_restarts(num_restarts, None)
  search = apgd_search(
    losses.targeted_dlr, num_steps=num_steps, eot=eot, rho=rho, large_radii=large_radii
  )
  inputs = check_inputs(
    "apgd_targeted", logits_fn, x, targets, rng, ball, per_pixel=not large_radii
  )
  problem = make_problem(inputs)
  clean = jax.lax.stop_gradient(inputs.query(problem.x, problem.keys))
  goals = likeliest_wrong(clean, problem.labels, num_targets)
  tries = jnp.repeat(goals, num_restarts, axis=0)
  return run_all("apgd_targeted", search, inputs.query, problem, tries, ball=ball)
