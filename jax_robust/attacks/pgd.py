"""First-order attacks in a ball: PGD, and its relatives FGSM, RS-FGSM, N-FGSM, BIM, MIM, CW-linf.

released TRADES (KL to the clean prediction = cross entropy to it, up to a constant)
  pgd(logits_fn, x, clean_probabilities, rng, ball=linf_ball(8 / 255), num_steps=10,
      optimizer=adam({0: 0.1, 5: 0.01}))
TRADES, 2019
  pgd(logits_fn, x, clean_probabilities, rng, ball=linf_ball(0.031), num_steps=10,
      step_size=0.007, start="normal")
evaluation, PGD-40
  pgd(logits_fn, x, labels, rng, ball=linf_ball(8 / 255), loss_fn=losses.margin, num_steps=40,
      optimizer=adam({0: 0.1, 20: 0.01, 30: 0.001}))
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jax_robust import losses
from jax_robust.attacks.balls import Ball, check_is_ball, check_norm
from jax_robust.attacks.classes import is_finite
from jax_robust.attacks.entry import check_inputs
from jax_robust.attacks.non_finite import give_back_lost, half_way_back, warn_of_lost
from jax_robust.attacks.pgd_steps import (
  MODEL_NOISE,
  StepSize,
  make_move,
  read_restarts,
  size_of_step,
)
from jax_robust.attacks.projections import per_example
from jax_robust.attacks.stepwise import select
from jax_robust.errors import (
  check_count,
  check_flag,
  check_name,
  check_per_image,
  check_step_size,
  check_weight,
)
from jax_robust.nets import derivatives
from jax_robust.nets.loops import read_unroll, scan
from jax_robust.nets.randomised import takes_rng
from jax_robust.types import Images, LogitsFn, LossFn, Rng, fold, normals

STARTS = ("uniform", "one_step", "normal", "zero")

_NORMAL_START_STDDEV = 1e-3  # TRADES, 2019


class _State(NamedTuple):
  """What one step hands to the next: the iterate, the optimiser's memory, and the best point seen.

  `noise_keys` are the run's, for a randomised model; `()` for a deterministic one. `num_lost`
  counts the points whose logits were not finite.
  """

  noise_keys: Any
  x_adv: Array
  memory: Any
  best_x: Array
  best_loss: Array
  num_lost: Array


def pgd(
  logits_fn: LogitsFn,
  x: Images,
  targets: Any,
  rng: Rng,
  *,
  ball: Ball,
  goals: Any = None,
  loss_fn: LossFn = losses.cross_entropy,
  num_steps: int = 10,
  step_size: StepSize | None = None,
  optimizer: optax.GradientTransformation | None = None,
  momentum: Array | float | None = None,
  start: Images | str = "uniform",
  num_restarts: int = 1,
  keep_best: bool = False,
  eot: int = 1,
  unroll: int | None = None,
) -> Float[Array, "b *dims"]:
  """Projected gradient ascent: `x <- project(x + step_size ascent(grad loss(x)))`, per example.

  The gradient is that of the sum of the losses over the batch, so its scale does not depend on the
  batch size. With `optimizer`, the step is the optimiser's on minus the gradient, kept per image.
  Start and steps are followed by `ball.project`.

  Guarantees: those of `jax_robust.attacks`, and
    `linear_optimum_is_reached`: on a linear model, where the box is inactive, the exact one.
    `best_is_no_worse_than_last`: `keep_best` never returns a smaller loss than without it, where
      the model is deterministic.
    `goals_are_descended_to`: with `goals`, the loss is `-loss_fn(outputs, goals)`.

  Args: those of `jax_robust.attacks`, and
    step_size: in units of the image, in the ball's norm: a number (may be traced) or a function of
      the step number. Default: 2.5 eps / num_steps (Madry et al.).
    optimizer: any optax transformation instead, such as `adam({0: 0.1, 5: 0.01})`.
    momentum: the gradients, each over its mean absolute value, are summed with this decay, and the
      sum takes the place of the gradient: see `mim`. Default: no sum is kept.
    start: 'uniform' in the ball, 'one_step' (uniform in the smaller ball that one step reaches),
      'normal' (x + .001 N(0, 1)), 'zero' (x itself), or an array of points `[b, ...]`.
    num_restarts: independent starts; the last iterate of highest loss is returned. Static.
    keep_best: return the iterate of highest loss over all steps and restarts, the starts included.
      Costs one more forward pass per restart, as does `num_restarts > 1` by itself.
    unroll: steps per iteration of the compiled loop, at least 1; default: see `default_unroll`.

  Reference: Madry et al., 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks",
  https://arxiv.org/abs/1706.06083; Gowal et al., 2020, "Uncovering the Limits of Adversarial
  Training", https://arxiv.org/abs/2010.03593 (Adam on the input); Athalye et al., 2018,
  "Synthesizing Robust Adversarial Examples", https://arxiv.org/abs/1707.07397 (EOT).

  >>> from jax_robust.attacks import linf_ball
  >>> logits_fn = lambda x: jnp.stack([x[:, 0], x[:, 1]], axis=1)
  >>> x, labels = jnp.full((1, 2), 0.5), jnp.array([0])
  >>> pgd(logits_fn, x, labels, jax.random.key(0), ball=linf_ball(0.25)).tolist()
  [[0.25, 0.75]]
  """
  inputs = check_inputs(
    "pgd", logits_fn, x, targets, rng, ball, per_pixel=True, start=start, goals=goals
  )
  check_count(0, num_steps=num_steps)
  check_count(eot=eot)
  check_flag(keep_best=keep_best)
  if isinstance(start, str):
    check_name("start", start, STARTS)
  num_steps, num_restarts, eot = int(num_steps), read_restarts(num_restarts, start), int(eot)
  x, keys, is_randomised = inputs.x, inputs.keys, takes_rng(logits_fn)
  init_fn, move_fn = make_move(ball, step_size, optimizer, num_steps, momentum)
  drawn_from = _ball_of_starts(start, ball, step_size, optimizer, num_steps)
  loss_of = _expected_loss(*_towards(inputs, loss_fn), eot if is_randomised else 0)

  def loss_at(x_adv, noise_keys, count):
    loss, finite = loss_of(x_adv, noise_keys, count)
    return jnp.sum(loss), (loss.astype(x.dtype), finite)

  def step(state, count):
    # Stopped here, so that no tangent of the weights travels from step to step.
    gradient, (loss, finite) = jax.lax.stop_gradient(
      jax.grad(loss_at, has_aux=True)(state.x_adv, state.noise_keys, count)
    )
    if keep_best:
      state = _keep_better(state, loss, finite)
    x_adv, memory = move_fn(gradient, state.memory, state.x_adv, count)
    x_adv = half_way_back(~finite, state.x_adv, ball.project(x_adv, x), x)
    return state._replace(x_adv=x_adv, memory=memory, num_lost=state.num_lost + ~finite), None

  unroll = read_unroll(unroll, num_steps)
  best_x, best_loss = x, jnp.full_like(x, -jnp.inf, shape=x.shape[:1])
  num_lost = jnp.zeros(x.shape[0], jnp.int32)
  keeps_best = num_restarts > 1 or keep_best
  with derivatives.needed("pgd", inputs.query, x, keys):
    for restart in range(num_restarts):
      x_start = _start(start, fold(keys, restart), x, ball, drawn_from)
      noise_keys = fold(keys, MODEL_NOISE + restart) if is_randomised else ()
      state = _State(noise_keys, x_start, init_fn(x_start), best_x, best_loss, num_lost)
      state, _ = scan(step, state, jnp.arange(num_steps), unroll=unroll)
      if keeps_best:
        loss, finite = loss_at(state.x_adv, noise_keys, num_steps)[1]
        state = _keep_better(state, loss, finite)
        state = state._replace(num_lost=state.num_lost + ~finite)
      best_x = state.best_x if keeps_best else state.x_adv
      best_loss, num_lost = state.best_loss, state.num_lost
  if keeps_best:
    warn_of_lost("pgd", num_lost, inputs.query, x, keys)
  else:
    best_x = give_back_lost("pgd", best_x, num_lost, inputs.query, x, keys)
  return jax.lax.stop_gradient(best_x)


def _towards(inputs, loss_fn):
  """The inputs with what the loss is taken of for targets, and the loss to ascend, over exits: with
  goals, minus the loss of the goals.
  """
  if inputs.goals is None:
    return inputs, losses.over_exits(loss_fn)
  return inputs._replace(targets=inputs.goals), losses.over_exits(losses.towards(loss_fn))


def _expected_loss(inputs, loss_fn, eot):
  """`(x, noise_keys, count) -> loss [b]`, and whether the logits are finite, `[b]`: the mean over
  `eot` draws; of 0 draws, without keys.
  """

  def loss_of(x, keys):
    outputs = inputs.query(x, keys)
    return loss_fn(outputs, inputs.targets), is_finite(outputs)

  if not eot:
    return lambda x, noise_keys, count: loss_of(x, noise_keys)

  def mean_loss(x, noise_keys, count):
    step_keys = fold(noise_keys, count)
    draws = jax.vmap(lambda number: loss_of(x, fold(step_keys, number)))(jnp.arange(eot))
    return jnp.mean(draws[0], axis=0), jnp.all(draws[1], axis=0)

  return mean_loss


def _ball_of_starts(start, ball, step_size, optimizer, num_steps):
  """What a random start is drawn from: the ball, or the part of it that one step reaches."""
  if not isinstance(start, str) or start != "one_step":
    return ball
  if optimizer is not None:
    raise ValueError("start='one_step' and an optimizer: expected a step_size, which it lacks")
  return dataclasses.replace(ball, eps=size_of_step(ball, step_size, num_steps, 0))


def _start(start, keys, x, ball, drawn_from):
  """The first iterate, projected."""
  if not isinstance(start, str):
    x_start = jax.lax.stop_gradient(start).astype(x.dtype)
  elif start in ("uniform", "one_step"):
    x_start = x + drawn_from.sample(keys, x)
  elif start == "normal":
    dtype = jnp.promote_types(x.dtype, jnp.float32)  # in bfloat16 a normal has 128 values
    x_start = (x + _NORMAL_START_STDDEV * normals(keys, x.shape[1:], dtype)).astype(x.dtype)
  else:
    return x
  return ball.project(x_start, x)


def _keep_better(state, loss, finite):
  """Replaces the best point of each example where the iterate's loss is higher, and is finite."""
  better = (loss > state.best_loss) & finite
  return state._replace(
    best_x=select(better, state.x_adv, state.best_x),
    best_loss=jnp.where(better, loss, state.best_loss),
  )


def fgsm(
  logits_fn: LogitsFn,
  x: Images,
  targets: Any,
  rng: Rng,
  *,
  ball: Ball,
  goals: Any = None,
  loss_fn: LossFn = losses.cross_entropy,
  step_size: Array | np.ndarray | float | None = None,
) -> Float[Array, "b *dims"]:
  """Fast gradient sign method: `project(x + step_size ascent(grad loss(x)))`, in any ball.

  Guarantees: those of `pgd`, of which it is one step from x.

  Args: those of `jax_robust.attacks`, and
    step_size: in units of the image; default eps.

  Reference: Goodfellow et al., 2015, "Explaining and Harnessing Adversarial Examples",
  https://arxiv.org/abs/1412.6572.

  >>> from jax_robust.attacks import linf_ball
  >>> x, labels = jnp.full((1, 2), 0.5), jnp.array([0])
  >>> fgsm(lambda x: x, x, labels, jax.random.key(0), ball=linf_ball(0.25)).tolist()
  [[0.25, 0.75]]
  """
  return pgd(
    logits_fn, x, targets, rng, ball=ball, goals=goals, loss_fn=loss_fn, num_steps=1, start="zero",
    step_size=check_is_ball(ball).eps if step_size is None else step_size,
  )  # fmt: skip


def rs_fgsm(
  logits_fn: LogitsFn,
  x: Images,
  targets: Any,
  rng: Rng,
  *,
  ball: Ball,
  goals: Any = None,
  loss_fn: LossFn = losses.cross_entropy,
  step_size: Array | np.ndarray | float | None = None,
) -> Float[Array, "b *dims"]:
  """FGSM from a uniform start in the ball, projected back onto it ("fast is better than free").

  The start is projected onto the box as well before the gradient is taken.

  Guarantees: those of `pgd`, of which it is one step from a uniform start.

  Args: those of `jax_robust.attacks`, and
    step_size: in units of the image; default 1.25 eps.

  Reference: Wong et al., 2020, "Fast is better than free: Revisiting adversarial training",
  https://arxiv.org/abs/2001.03994.

  >>> from jax_robust.attacks import linf_ball
  >>> x, labels = jnp.full((1, 2), 0.5), jnp.array([0])
  >>> rs_fgsm(lambda x: x, x, labels, jax.random.key(0), ball=linf_ball(0.25)).shape
  (1, 2)
  """
  return pgd(
    logits_fn, x, targets, rng, ball=ball, goals=goals, loss_fn=loss_fn, num_steps=1,
    start="uniform", step_size=1.25 * check_is_ball(ball).eps if step_size is None else step_size,
  )  # fmt: skip


def n_fgsm(
  logits_fn: LogitsFn,
  x: Images,
  targets: Any,
  rng: Rng,
  *,
  ball: Ball,
  goals: Any = None,
  loss_fn: LossFn = losses.cross_entropy,
  noise_scale: Array | float = 2.0,
  step_size: Array | np.ndarray | float | None = None,
) -> Float[Array, "b *dims"]:
  """N-FGSM: noise U(-k eps, k eps), then a sign step from there, clipped to [0, 1] only.

  **The result leaves the ball**: |x_adv - x| reaches k eps + step_size. It augments training, and
  never measures robustness.

  Guarantees: those of `jax_robust.attacks`, but that of the ball, and
    `n_fgsm_stays_within_noise_and_step`: |x_adv - x| <= k eps + step_size, 0 <= x_adv <= 1.

  Args: those of `jax_robust.attacks`, and
    ball: an l-infinity ball, of which eps alone is used.
    noise_scale: k; the paper uses 2 in nearly every setting.
    step_size: in units of the image; default eps.

  Reference: de Jorge et al., 2022, "Make Some Noise: Reliable and Efficient Single-Step Adversarial
  Training", https://arxiv.org/abs/2202.01181.

  >>> from jax_robust.attacks import linf_ball
  >>> x, labels = jnp.full((1, 2), 0.5), jnp.array([0])
  >>> n_fgsm(lambda x: x, x, labels, jax.random.key(0), ball=linf_ball(0.125)).shape
  (1, 2)
  """
  check_norm("n_fgsm", ball, "linf")
  inputs = check_inputs("n_fgsm", logits_fn, x, targets, rng, ball, per_pixel=True, goals=goals)
  query, x, keys = inputs.query, inputs.x, inputs.keys
  check_step_size(noise_scale=noise_scale, step_size=step_size)
  noise = ball.sample(keys, x) * per_example(noise_scale, x, "noise_scale")
  x_noisy = jnp.clip(x + noise, 0.0, 1.0)
  noise_keys = fold(keys, MODEL_NOISE)
  loss_of = _expected_loss(*_towards(inputs, loss_fn), 0)
  with derivatives.needed("n_fgsm", query, x, keys):
    gradient = jax.grad(lambda x: jnp.sum(loss_of(x, noise_keys, 0)[0]))(x_noisy)
  step_size = ball.eps if step_size is None else step_size
  x_adv = jnp.clip(
    x_noisy + per_example(step_size, x, "step_size") * ball.ascent(gradient), 0.0, 1.0
  )
  none_lost = jnp.zeros(x.shape[0], jnp.int32)
  x_adv = give_back_lost("n_fgsm", x_adv, none_lost, query, x, noise_keys)
  return jax.lax.stop_gradient(x_adv)


def bim(
  logits_fn: LogitsFn,
  x: Images,
  targets: Any,
  rng: Rng,
  *,
  ball: Ball,
  goals: Any = None,
  loss_fn: LossFn = losses.cross_entropy,
  num_steps: int = 10,
  step_size: StepSize | None = None,
  eot: int = 1,
  unroll: int | None = None,
) -> Float[Array, "b *dims"]:
  """Basic iterative method: PGD that starts at x itself, in any ball.

  Guarantees: those of `pgd`, whose start is x.

  Args: those of `pgd`. The default step size, 2.5 eps / num_steps, is the 2/255 that is usual with
    8/255 and ten steps.

  Reference: Kurakin et al., 2017, "Adversarial Examples in the Physical World",
  https://arxiv.org/abs/1607.02533.

  >>> from jax_robust.attacks import linf_ball
  >>> x, labels = jnp.full((1, 2), 0.5), jnp.array([0])
  >>> bim(lambda x: x, x, labels, jax.random.key(0), ball=linf_ball(0.25)).tolist()
  [[0.25, 0.75]]
  """
  return pgd(
    logits_fn, x, targets, rng, ball=ball, goals=goals, loss_fn=loss_fn, num_steps=num_steps,
    step_size=step_size, start="zero", eot=eot, unroll=unroll,
  )  # fmt: skip


def mim(
  logits_fn: LogitsFn,
  x: Images,
  targets: Any,
  rng: Rng,
  *,
  ball: Ball,
  goals: Any = None,
  loss_fn: LossFn = losses.cross_entropy,
  num_steps: int = 10,
  step_size: StepSize | None = None,
  momentum: Array | float = 1.0,
  eot: int = 1,
  unroll: int | None = None,
) -> Float[Array, "b *dims"]:
  """Momentum iterative method: `v <- momentum v + g / mean|g|`, `x <- project(x + step ascent(v))`.

  It starts at x. Dividing by the mean absolute value gives every gradient the same weight in the
  sum v, whatever its scale. Made for transfer to other models: see `transfer`.

  Guarantees: those of `pgd`, whose start is x, and
    `mim_is_bim_where_the_gradient_keeps_its_direction`: as on a linear model.

  Args: those of `pgd`, and
    step_size: default 2.5 eps / num_steps; the paper has eps / num_steps.
    momentum: decay of the sum at each step; 0 gives `bim`.

  Reference: Dong et al., 2018, "Boosting Adversarial Attacks with Momentum",
  https://arxiv.org/abs/1710.06081.

  >>> from jax_robust.attacks import linf_ball
  >>> x, labels = jnp.full((1, 2), 0.5), jnp.array([0])
  >>> mim(lambda x: x, x, labels, jax.random.key(0), ball=linf_ball(0.25)).tolist()
  [[0.25, 0.75]]
  """
  return pgd(
    logits_fn, x, targets, rng, ball=ball, goals=goals, loss_fn=loss_fn, num_steps=num_steps,
    step_size=step_size, momentum=momentum, start="zero", eot=eot, unroll=unroll,
  )  # fmt: skip


def cw_linf(
  logits_fn: LogitsFn,
  x: Images,
  targets: Any,
  rng: Rng,
  *,
  ball: Ball,
  goals: Any = None,
  confidence: Array | float = 50.0,
  num_steps: int = 100,
  step_size: StepSize | None = None,
  start: Images | str = "uniform",
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

  Args: those of `pgd`, and
    ball: an l-infinity ball.
    confidence: kappa, in units of the logits: the margin at which the ascent ends. 50, which robust
      models do not reach, is that of the published evaluations; 0 ends at the boundary.
    step_size: in units of the image; default eps / 4, which is 2/255 at 8/255.

  Reference: Madry et al., 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks",
  https://arxiv.org/abs/1706.06083; Carlini and Wagner, 2017, "Towards Evaluating the Robustness of
  Neural Networks", https://arxiv.org/abs/1608.04644.

  >>> from jax_robust.attacks import linf_ball
  >>> x, labels = jnp.full((1, 2), 0.5), jnp.array([0])
  >>> cw_linf(lambda x: x, x, labels, jax.random.key(0), ball=linf_ball(0.25)).tolist()
  [[0.25, 0.75]]
  """
  check_norm("cw_linf", ball, "linf", "; in others take pgd with losses.margin, or cw_l2")
  check_weight(confidence=confidence)

  def loss_fn(outputs, targets):
    margin, kappa = losses.margin(outputs, targets), jnp.asarray(confidence, outputs.dtype)
    check_per_image(len(margin), confidence=kappa)
    # `pgd` ascends it; with goals it descends it.
    return -jax.nn.relu(kappa - margin) if goals is None else jax.nn.relu(kappa + margin)

  return pgd(
    logits_fn, x, targets, rng, ball=ball, goals=goals, loss_fn=loss_fn, num_steps=num_steps,
    step_size=ball.eps / 4 if step_size is None else step_size, start=start,
    num_restarts=num_restarts, keep_best=keep_best, eot=eot, unroll=unroll,
  )  # fmt: skip
