"""Slowdown attacks on nets with early exits: images that no exit but the last is sure of."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jax_robust import losses
from jax_robust.attacks.balls import Ball, check_norm
from jax_robust.attacks.entry import Inputs, check_inputs
from jax_robust.attacks.pgd import pgd
from jax_robust.attacks.pgd_steps import MODEL_NOISE, StepSize
from jax_robust.errors import check_weight
from jax_robust.nets.exits import exits_of, predictions
from jax_robust.types import Images, LogitsFn, LossFn, Rng, fold, fold_ids


def slowdown(
  logits_fn: LogitsFn,
  x: Images,
  targets: Any,
  rng: Rng,
  *,
  ball: Ball,
  goals: Any = None,
  loss_fn: LossFn = losses.cross_entropy,
  weight: Array | float = 0.0,
  answer_fn: Callable[[Any], Array] = predictions,
  num_steps: int = 30,
  step_size: StepSize | None = None,
  start: Images | str = "one_step",
  num_restarts: int = 1,
  keep_best: bool = False,
  eot: int = 1,
  unroll: int | None = None,
) -> Float[Array, "b *dims"]:
  """Images that cost as much as can be: PGD that makes every exit but the last unsure.

  It descends `losses.cross_entropy_to_uniform`, so that an image passes by every exit that answers
  where it is confident. By itself it asks for no wrong answer, and the targets say nothing; with
  `weight`, the loss of what is answered in the end is ascended at the same time.

  Guarantees: those of `pgd`, and
    `early_exits_become_less_sure`: on linear exits one small step lowers each one's confidence.
    `a_heavy_weight_is_pgd`: of a large weight the result is PGD's on `answer_fn`.

  Args: those of `pgd`, and
    logits_fn: of two exits or more.
    goals: with a weight, the class that each image shall be taken for.
    loss_fn: of the misclassification; nothing without a weight.
    weight: of the misclassification, one number or one for each image; default none.
    answer_fn: which logits shall be wrong: see `losses.slowdown_loss`.
    step_size: default 2.5 eps / num_steps.
    start: default within one step of the image.

  Raises:
    ValueError: the net has one exit.

  Reference: Hong et al., 2021, "A Panda? No, It's a Sloth: Slowdown Attacks on Adaptive Multi-Exit
  Neural Network Inference", https://arxiv.org/abs/2010.02432: linf with eps .03125, steps of .002;
  l1 with eps 8, steps of .5. Its l2 attack is like `ddn`, and has no radius; here it is PGD in a
  ball.

  >>> from jax_robust.attacks import linf_ball
  >>> two_exits = lambda x: (9 * x, x)
  >>> x, labels = jnp.array([[0.75, 0.25]]), jnp.array([0])
  >>> slowdown(two_exits, x, labels, jax.random.key(0), ball=linf_ball(0.125)).tolist()
  [[0.625, 0.375]]
  """
  to_goal = goals is not None
  loss = losses.slowdown_loss(
    weight=weight, loss_fn=losses.towards(loss_fn) if to_goal else loss_fn, answer_fn=answer_fn
  )
  return pgd(
    logits_fn, x, targets, rng, ball=ball, goals=goals, num_steps=num_steps, step_size=step_size,
    loss_fn=losses.towards(loss) if to_goal else loss,  # `pgd` descends what leads to a goal
    start=start, num_restarts=num_restarts, keep_best=keep_best, eot=eot, unroll=unroll,
  )  # fmt: skip


def universal_slowdown(
  logits_fn: LogitsFn,
  x: Images,
  targets: Any,
  rng: Rng,
  *,
  ball: Ball,
  loss_fn: LossFn = losses.cross_entropy,
  weight: Array | float = 0.0,
  answer_fn: Callable[[Any], Array] = predictions,
  num_steps: int = 20,
  step_size: Array | float = 0.005,
  unroll: int | None = None,
) -> Float[Array, "*dims"]:
  """One perturbation that slows down whatever image it is added to, made on a set of images.

  PGD on the sum of the images' losses at `clip(x + delta, 0, 1)`, from one uniform draw in the
  ball. Apply it as `ball.project(x + delta, x)`, which is that clip but for the rounding of
  x + delta, which may leave the ball.

  Guarantees:
    `perturbation_is_in_the_ball`: |delta| <= eps (1 + 1e-6), in float64 of what is returned.
    `order_of_the_images_is_nothing`: to rounding, but for the draw of the start.

  Args:
    logits_fn, x, targets, rng: as those of `jax_robust.attacks`; the published one is made on the
      first batch of the training images. A randomised model keeps one draw per image.
    ball: an l-infinity ball of one radius.
    loss_fn, weight, answer_fn: as those of `slowdown`.
    num_steps: sign steps, all on the whole set; static.
    step_size: in units of the image, one number.
    unroll: as that of `pgd`.

  Returns:
    delta, of the shape of one image.

  Raises:
    TypeError, ValueError: as `jax_robust.attacks` lists them; the net has one exit.

  Reference: Hong et al., 2021, https://arxiv.org/abs/2010.02432.

  >>> from jax_robust.attacks import linf_ball
  >>> two_exits = lambda x: (9 * x, x)
  >>> x, labels = jnp.array([[0.75, 0.25], [0.625, 0.5]]), jnp.array([0, 0])
  >>> ball = linf_ball(0.0625)
  >>> universal_slowdown(two_exits, x, labels, jax.random.key(0), ball=ball).tolist()
  [-0.0625, 0.0625]
  """
  inputs = _set_of_images("universal_slowdown", logits_fn, x, targets, rng, ball, step_size)
  groups = jnp.zeros(len(inputs.x), jnp.int32)
  return _perturbations(
    inputs, groups, 1, ball=ball, step_size=step_size, loss_fn=loss_fn, weight=weight,
    answer_fn=answer_fn, num_steps=num_steps, unroll=unroll,
  )[0]  # fmt: skip


def class_universal_slowdown(
  logits_fn: LogitsFn,
  x: Images,
  targets: Any,
  rng: Rng,
  *,
  ball: Ball,
  loss_fn: LossFn = losses.cross_entropy,
  weight: Array | float = 0.0,
  answer_fn: Callable[[Any], Array] = predictions,
  num_steps: int = 20,
  step_size: Array | float = 0.005,
  unroll: int | None = None,
) -> Float[Array, "k *dims"]:
  """`universal_slowdown` of each class, made on the images of that class, all in one run.

  Apply it as `ball.project(x + delta[labels], x)`.

  Guarantees: those of `universal_slowdown`, of each class, and
    `classes_are_apart`: the perturbation of a class depends on its own images only.

  Args, Raises: as those of `universal_slowdown`; targets say the classes.

  Returns:
    delta, `[k, ...]`, k being the model's classes; 0 for a class without images.

  Reference: Hong et al., 2021, https://arxiv.org/abs/2010.02432.

  >>> from jax_robust.attacks import linf_ball
  >>> x, labels = jnp.array([[0.75, 0.25]]), jnp.array([1])
  >>> ball = linf_ball(0.0625)
  >>> two_exits = lambda x: (9 * x, x)
  >>> class_universal_slowdown(two_exits, x, labels, jax.random.key(0), ball=ball).tolist()
  [[0.0, 0.0], [-0.0625, 0.0625]]
  """
  inputs = _set_of_images("class_universal_slowdown", logits_fn, x, targets, rng, ball, step_size)
  one_exit = jax.eval_shape(lambda: exits_of(inputs.query(inputs.x, inputs.keys))[0])
  return _perturbations(
    inputs, losses.as_labels(inputs.targets), one_exit.shape[1], ball=ball, step_size=step_size,
    loss_fn=loss_fn, weight=weight, answer_fn=answer_fn, num_steps=num_steps, unroll=unroll,
  )  # fmt: skip


def _set_of_images(name, logits_fn, x, targets, rng, ball, step_size) -> Inputs:
  """The inputs, checked; raises unless the ball is an l-infinity one of one radius."""
  check_norm(name, ball, "linf")
  check_weight(step_size=step_size)
  inputs = check_inputs(name, logits_fn, x, targets, rng, ball)
  for key, value in (("ball.eps", ball.eps), ("step_size", step_size)):
    if np.ndim(value):
      raise ValueError(
        f"{key} has shape {np.shape(value)}: {name} takes a ball of one radius and steps of one "
        "size, as it makes one perturbation for many images"
      )
  return inputs


def _perturbations(inputs, groups, num_groups, *, ball, step_size, **options):
  """One perturbation for the images of each group, `[num_groups, ...]`.

  PGD on images .5 + delta / 2, in a ball that the box does not cut: 2 (z - .5) is exact. Every row
  looks at the first row of its group, whose gradient is thus that of the sum over the group.
  """
  x, keys, dims = inputs.x, inputs.keys, inputs.x.shape[1:]
  rows = jnp.arange(len(x))
  first = jnp.full(num_groups, len(x)).at[groups].min(rows)
  present = (first < len(x)).reshape(-1, *(1 for _ in dims))
  first = jnp.minimum(first, len(x) - 1)
  half = dataclasses.replace(ball, eps=ball.eps / 2)

  middle = jnp.full_like(x, 0.5)
  draws = fold_ids(keys[0], jnp.arange(num_groups))
  start = (0.5 + half.sample(draws, jnp.zeros((num_groups, *dims), x.dtype)))[groups]
  noise_keys = fold(keys, MODEL_NOISE)

  def on_all_images(points):
    delta = 2 * (points[first[groups]] - 0.5)
    return inputs.query(jnp.clip(x + delta, 0.0, 1.0), noise_keys)

  points = slowdown(
    on_all_images, middle, inputs.targets, keys, ball=half, step_size=step_size / 2, start=start,
    **options,
  )  # fmt: skip
  return jnp.where(present, 2 * (points[first] - 0.5), 0.0)
