"""Projected gradient ascent: an attack is a loss x an optimiser x a start x a projection.

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

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jax_robust import losses
from jax_robust.attacks.balls import Ball
from jax_robust.attacks.checks import check_images, near_miss
from jax_robust.attacks.projections import max_pixels, per_example
from jax_robust.attacks.steps import Schedule
from jax_robust.nets.randomised import keyed, takes_rng
from jax_robust.types import LogitsFn, LossFn, as_keys, fold

STARTS = ("uniform", "normal", "zero")

_NORMAL_START_STDDEV = 1e-3  # TRADES, 2019

_MOST_UNROLLED_STEPS = 64

# Folded into the keys that a randomised classifier gets. Larger than any number of pixels: folding
# 7 into a key gives the very bits that pixel 7 of a start drawn with that key is made of.
CLASSIFIER_NOISE = 2**30


class _State(NamedTuple):
  """What one step hands to the next: the iterate, the optimiser, and the best point seen.

  `noise_keys` are the run's, for a randomised classifier; `()` for a deterministic one.
  """

  noise_keys: Any
  x_adv: Array
  opt_state: Any
  best_x: Array
  best_loss: Array


def pgd(
  logits_fn: LogitsFn,
  x: Float[Array, "b *dims"],
  targets: Any,
  rng: Array,
  *,
  ball: Ball,
  loss_fn: LossFn = losses.cross_entropy,
  num_steps: int = 10,
  step_size: Schedule | Array | float | None = None,
  optimizer: optax.GradientTransformation | None = None,
  momentum: Array | float | None = None,
  start: Float[Array, "b *dims"] | str = "uniform",
  num_restarts: int = 1,
  keep_best: bool = False,
  eot: int = 1,
  unroll: int | None = None,
) -> Float[Array, "b *dims"]:
  """Projected gradient ascent: `x <- project(x + step_size ascent(grad loss(x)))`, per example.

  The gradient is that of the sum of the losses over the batch, so its scale does not depend on the
  batch size. With `optimizer`, the step is the optimiser's on minus the gradient, kept per image.
  Start and steps are followed by `ball.project`.

  Weights enter through the closure of `logits_fn`, where no attack can see them: a training step
  that differentiates with respect to them passes `jax.lax.stop_gradient(params)` into that closure,
  else JAX carries tangents of the weights through every step, to discard them at the end.

  Guarantees:
    `result_is_in_ball_and_box`: distance(x_adv, x) <= eps (1 + 1e-6), 0 <= x_adv <= 1.
    `zero_radius_is_the_identity`: eps = 0 returns x, bitwise.
    `linear_optimum_is_reached`: on a linear classifier, where the box is inactive, the exact one.
    `result_is_independent_of_the_batch`: row i depends on image, target and key i only.
    `no_gradient_flows_out`: the result is a constant for whatever differentiates around it.
    `best_is_no_worse_than_last`: `keep_best` never returns a smaller loss than without it, where
      the classifier is deterministic.

  Args:
    logits_fn: `x -> outputs`, or `(x, rng) -> outputs` of a randomised classifier, which is given
      a fresh key for each step and example. A tuple of outputs (exits) is attacked in the mean of
      its losses.
    x: images in [0, 1], `[b, ...]`.
    targets: what `loss_fn` takes: labels `[b]` or probabilities `[b, k]`.
    rng: one key, folded with the row number, or one key per example `[b]`.
    ball: the threat model.
    loss_fn: per-example loss to ascend.
    num_steps: gradient evaluations per restart; static.
    step_size: in units of the image, in the ball's norm: a number (may be traced) or a function of
      the step number. Default: 2.5 eps / num_steps (Madry et al.).
    optimizer: any optax transformation instead, such as `adam({0: 0.1, 5: 0.01})`.
    momentum: what is kept of the past gradients, each over its mean absolute value, in their sum,
      which takes the place of the gradient: see `mim`. Default: no sum is kept.
    start: 'uniform' in the ball, 'normal' (x + .001 N(0, 1)), 'zero' (x itself), or an array of
      points `[b, ...]` to start from.
    num_restarts: independent starts; the last iterate of highest loss is returned. Static.
    keep_best: return the iterate of highest loss over all steps and restarts, the starts included.
      Costs one more forward pass per restart, as does `num_restarts > 1` by itself.
    eot: draws of a randomised classifier whose losses are averaged at each point (expectation over
      transformation), all in one pass of `eot` times the memory. A deterministic classifier, whose
      draws would be alike, is asked once. Static.
    unroll: steps per iteration of the compiled loop. Default: all of them on the CPU backend up to
      64 steps, since XLA runs a convolution inside a loop 5 to 27 times slower there (and any
      partial unrolling just as slowly); 1 on accelerators.

  Returns:
    x_adv `[b, ...]`, dtype of x.

  Raises:
    TypeError: x is not floating-point.
    ValueError: `optimizer` with `step_size` or `momentum`; an unknown `start`; restarts of a fixed
      start; no steps, restarts or draws.

  Reference: Madry et al., 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks",
  https://arxiv.org/abs/1706.06083; Gowal et al., 2020, "Uncovering the Limits of Adversarial
  Training", https://arxiv.org/abs/2010.03593 (Adam on the input); Athalye et al., 2018,
  "Synthesizing Robust Adversarial Examples", https://arxiv.org/abs/1707.07397 (EOT).

  >>> import jax, jax.numpy as jnp
  >>> from jax_robust.attacks import linf_ball
  >>> logits_fn = lambda x: jnp.stack([x[:, 0], x[:, 1]], axis=1)
  >>> x, labels = jnp.full((1, 2), 0.5), jnp.array([0])
  >>> pgd(logits_fn, x, labels, jax.random.key(0), ball=linf_ball(0.25)).tolist()
  [[0.25, 0.75]]
  """
  check_images(x)
  _check_moves(step_size, optimizer, momentum)
  _check_tries(start, num_steps, num_restarts, eot)
  x, targets = jax.lax.stop_gradient((x, targets))
  init_fn, move_fn = make_move(ball, step_size, optimizer, num_steps, momentum)
  keys = as_keys(rng, x.shape[0])
  loss_of = _expected_loss(logits_fn, losses.over_exits(loss_fn), targets, eot)
  if unroll is None:
    unroll = default_unroll(num_steps)

  def loss_at(x_adv, noise_keys, count):
    loss = loss_of(x_adv, noise_keys, count)
    return jnp.sum(loss), loss.astype(x.dtype)

  def step(state, count):
    # Stopped here, so that no tangent of the weights travels from step to step.
    gradient, loss = jax.lax.stop_gradient(
      jax.grad(loss_at, has_aux=True)(state.x_adv, state.noise_keys, count)
    )
    if keep_best:
      state = _keep_better(state, state.x_adv, loss)
    x_adv, opt_state = move_fn(gradient, state.opt_state, state.x_adv, count)
    return state._replace(x_adv=ball.project(x_adv, x), opt_state=opt_state), None

  best_x, best_loss = x, jnp.full_like(x, -jnp.inf, shape=x.shape[:1])
  for restart in range(num_restarts):
    x_start = _start(start, fold(keys, restart), x, ball)
    noise_keys = fold(keys, CLASSIFIER_NOISE + restart) if takes_rng(logits_fn) else ()
    state = _State(noise_keys, x_start, init_fn(x_start), best_x, best_loss)
    state, _ = jax.lax.scan(step, state, jnp.arange(num_steps), unroll=unroll)
    if num_restarts > 1 or keep_best:
      state = _keep_better(state, state.x_adv, loss_at(state.x_adv, noise_keys, num_steps)[1])
      best_x, best_loss = state.best_x, state.best_loss
    else:
      best_x = state.x_adv
  return jax.lax.stop_gradient(best_x)


def default_unroll(num_steps: int) -> int:
  """How many steps of a loop over convolutions to unroll on this backend.

  On CPU all of them up to 64, since a loop that stays a loop gains nothing; 1 on accelerators.

  Ten steps of an eight-convolution net on two CPU cores: .29 s unrolled, 1.63 s not; unrolled by
  five, 1.62 s. Compilation of 40 unrolled steps took 3.5 s against .5 s, repaid by the first call.

  >>> default_unroll(1000)
  1
  """
  if jax.default_backend() == "cpu" and num_steps <= _MOST_UNROLLED_STEPS:
    return max(num_steps, 1)
  return 1


def make_move(ball, step_size, optimizer, num_steps, momentum=None):
  """Returns `init(x)` and `move(gradient, opt_state, x_adv, count) -> (x_adv, opt_state)`.

  What `init` returns has the batch as the first axis of its leaves; `count` may be one number, or
  one per example.
  """
  if optimizer is not None:
    # One optimiser per image: nothing it measures, such as a norm, may couple the examples.
    def move(gradient, opt_state, x_adv, count):
      del count
      descent = -jnp.where(jnp.isfinite(gradient), gradient, 0.0)
      updates, opt_state = jax.vmap(optimizer.update)(descent, opt_state, x_adv)
      return optax.apply_updates(x_adv, updates), opt_state

    return jax.vmap(optimizer.init), move

  if step_size is None:
    step_size = 2.5 * ball.eps / max(num_steps, 1)

  def ascend(gradient, velocity, x_adv, count):
    size = step_size(count) if callable(step_size) else step_size
    if momentum is not None:
      gradient = velocity = per_example(momentum, x_adv) * velocity + _of_mean_size_one(gradient)
    return x_adv + per_example(size, x_adv) * ball.ascent(gradient), velocity

  return (lambda x: ()) if momentum is None else jnp.zeros_like, ascend


def _of_mean_size_one(gradient):
  """The gradient of each example over its mean absolute value; not finite counts as zero."""
  gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
  largest = max_pixels(jnp.abs(gradient))
  gradient = gradient / jnp.where(largest > 0, largest, 1.0)  # their sum may not overflow
  mean = jnp.mean(jnp.abs(gradient), axis=tuple(range(1, gradient.ndim)), keepdims=True)
  return gradient / jnp.where(mean > 0, mean, 1.0)


def _expected_loss(logits_fn, loss_fn, targets, eot):
  """`(x, noise_keys, count) -> loss [b]`, of a randomised classifier the mean over `eot` draws."""
  if not takes_rng(logits_fn):
    return lambda x, noise_keys, count: loss_fn(logits_fn(x), targets)
  draw_fn = keyed(logits_fn)

  def mean_loss(x, noise_keys, count):
    step_keys = fold(noise_keys, count)
    loss_of_draw = lambda number: loss_fn(draw_fn(x, fold(step_keys, number)), targets)  # noqa: E731
    return jnp.mean(jax.vmap(loss_of_draw)(jnp.arange(eot)), axis=0)

  return mean_loss


def _start(start, keys, x, ball):
  """The first iterate, projected."""
  if not isinstance(start, str):
    x_start = jax.lax.stop_gradient(start).astype(x.dtype)
  elif start == "uniform":
    x_start = x + ball.sample(keys, x)
  elif start == "normal":
    normal = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)
    x_start = x + _NORMAL_START_STDDEV * normal
  else:
    return x
  return ball.project(x_start, x)


def _keep_better(state, x_adv, loss):
  """Replaces the best point of each example where this one's loss is higher; NaN never is."""
  better = loss > state.best_loss
  chosen = better.reshape((-1,) + (1,) * (x_adv.ndim - 1))
  return state._replace(
    best_x=jnp.where(chosen, x_adv, state.best_x),
    best_loss=jnp.where(better, loss, state.best_loss),
  )


def _check_moves(step_size, optimizer, momentum):
  """Raises where an optimizer, which has a step size and momentum of its own, is given another."""
  for name, value in (("step_size", step_size), ("momentum", momentum)):
    if value is not None and optimizer is not None:
      raise ValueError(
        f"{name} and optimizer are both given: expected one of them, as the optimizer has its own"
      )


def _check_tries(start, num_steps, num_restarts, eot):
  """Raises on contradictory or misspelt options."""
  if isinstance(start, str) and start not in STARTS:
    raise ValueError(f"start={start!r}: expected {near_miss(start, STARTS)} or an array of images")
  if num_steps < 0 or num_restarts < 1 or eot < 1:
    raise ValueError(
      f"num_steps={num_steps}, num_restarts={num_restarts}, eot={eot}: expected at least 0 steps, "
      "1 restart and 1 draw"
    )
  if num_restarts > 1 and not (isinstance(start, str) and start in ("uniform", "normal")):
    name = start if isinstance(start, str) else "an array"
    raise ValueError(
      f"num_restarts={num_restarts} with start={name}: expected a random start, else all are alike"
    )
